"""A process that is told to end leaves at once while it only looks; while it trains it commits first, then leaves."""

from __future__ import annotations

import errno
import logging
import os
import signal
import termios
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

log = logging.getLogger(__name__)

EXIT_CODE = 75
"""What a process ends with that was asked to stop: the same command goes on from there."""

_asked = threading.Event()


class Stopped(SystemExit):
    """Training was asked to stop, and has committed all that it did."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


def request() -> None:
    """Ask this process to stop at its next safe point; may be called from any thread or signal handler."""
    _asked.set()


def is_requested() -> bool:
    """Whether somebody asked."""
    return _asked.is_set()


def ending_signals() -> list[signal.Signals]:
    """What schedulers, and terminals that are closed, send before they kill; without those that `nohup` ignores."""
    return [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def handled(numbers: Iterable[signal.Signals], handler: Callable[..., Any] | signal.Handlers) -> Iterator[None]:
    """Have `handler` see to signals within the context, in the main thread.

    Args:
        numbers: of the signals.
        handler: as `signal.signal` takes it.
    """
    earlier = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)


def heed_signals() -> None:
    """Make a scheduler's SIGTERM and a closed terminal's SIGHUP polite requests, from now on.

    Only the main thread of a process can; in others nothing changes.
    """
    if is_main_thread():
        for number in ending_signals():
            signal.signal(number, _heed)


def leave_when_asked() -> None:
    """Let a signal to end raise `Stopped` from now on, wherever the main thread is."""
    for number in _unclaimed():
        signal.signal(number, _leave)


def commit_when_asked() -> AbstractContextManager[None]:
    """Let a signal to end wait, within the context, for whoever looks at `is_requested`."""
    return handled(_unclaimed(), _commit_first)


def is_main_thread() -> bool:
    """Whether this is the one thread in which handlers of signals can be set."""
    return threading.current_thread() is threading.main_thread()


def _unclaimed() -> list[signal.Signals]:
    """Signals that nobody else sees to; none outside the main thread."""
    if not is_main_thread():
        return []
    ours = (signal.SIG_DFL, _leave, _commit_first)  # not `_heed`, which a launcher has set for good
    return [number for number in ending_signals() if signal.getsignal(number) in ours]


def _leave(*_: object) -> None:
    leave_closed_terminal()
    raise Stopped


def _heed(*_: object) -> None:
    leave_closed_terminal()
    request()


def _commit_first(*_: object) -> None:
    _heed()


def leave_closed_terminal() -> None:
    """Let what is still said go nowhere, if the terminal that it would go to was closed: to write there is an error."""
    for descriptor in (0, 1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Make the same signals what Ctrl-C is, within the context.

    Raises:
        KeyboardInterrupt: one came.
    """
    numbers = ending_signals() if is_main_thread() else []

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # nothing interrupts the way out
        leave_closed_terminal()
        raise KeyboardInterrupt

    with handled(numbers, interrupt):
        yield


@contextmanager
def requested_by_ctrl_c() -> Iterator[None]:
    """Make the first Ctrl-C a polite request, and the second one what it always is, within the context.

    Where Ctrl-C means something else already (a launcher sees to it) or handlers cannot be set, nothing changes.

    Raises:
        KeyboardInterrupt: Ctrl-C came too late to stop anything, and is for whoever would go on.
    """
    if not is_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    asked_here: list[bool] = []

    def ask(*_: object) -> None:
        asked_here.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log.warning("  stopping: commits after this step and leaves; Ctrl-C again ends it at once")
        request()

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if asked_here:
            _asked.clear()  # what this process does next was not asked to stop
    if asked_here:
        raise KeyboardInterrupt
