"""A polite request to stop: training looks at it between two optimizer steps, commits, and leaves."""

from __future__ import annotations

import errno
import logging
import os
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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


def heed_signals() -> None:
    """Make a scheduler's SIGTERM and a closed terminal's SIGHUP polite requests, from now on.

    Only the main thread of a process can; in others nothing changes.
    """
    if threading.current_thread() is threading.main_thread():
        for number in ending_signals():
            signal.signal(number, _heed)


def _heed(*_: object) -> None:
    leave_closed_terminal()
    request()


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
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        for number in earlier:
            signal.signal(number, signal.SIG_IGN)  # nothing interrupts the way out
        leave_closed_terminal()
        raise KeyboardInterrupt

    earlier = {number: signal.signal(number, interrupt) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def requested_by_ctrl_c() -> Iterator[None]:
    """Make the first Ctrl-C a polite request, and the second one what it always is, within the context.

    Where Ctrl-C means something else already (a launcher sees to it) or handlers cannot be set, nothing changes.

    Raises:
        KeyboardInterrupt: Ctrl-C came too late to stop anything, and is for whoever would go on.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
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
