"""A polite request to stop: training looks at it between two optimizer steps, commits, and leaves."""

from __future__ import annotations

import threading

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
