"""A polite request to stop: training looks at it between two optimizer steps, commits, and leaves."""

from __future__ import annotations

import logging
import signal
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
