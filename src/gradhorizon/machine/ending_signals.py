"""What a process does that is told to end: it leaves at once while it only looks, and commits first while it trains."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gradhorizon.machine import stopping


def leave_when_asked() -> None:
    """Let a signal to end raise `stopping.Stopped` from now on, wherever the main thread is."""
    for number in _unclaimed():
        signal.signal(number, _leave)


@contextmanager
def commit_when_asked() -> Iterator[None]:
    """Let a signal to end wait, within the context, for whoever looks at `stopping.is_requested`."""
    earlier = {number: signal.signal(number, _request) for number in _unclaimed()}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _unclaimed() -> list[signal.Signals]:
    """Signals that nobody else sees to; none outside the main thread, where handlers cannot be set."""
    if threading.current_thread() is not threading.main_thread():
        return []
    ours = (signal.SIG_DFL, _leave, _request)
    return [number for number in stopping.ending_signals() if signal.getsignal(number) in ours]


def _leave(*_: object) -> None:
    stopping.leave_closed_terminal()
    raise stopping.Stopped


def _request(*_: object) -> None:
    stopping.leave_closed_terminal()
    stopping.request()
