"""Whose a file is to write: asked before anything that records consist of is written, renamed or removed.

Whoever locks members (`gradhorizon.runs.locks`) sets a guard; whatever writes files (`gradhorizon.records.files`) asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_guards: list[Callable[[Path], None]] = []


@contextmanager
def guarded_by(guard: Callable[[Path], None]) -> Iterator[None]:
    """Have `guard` asked before any file is written, renamed or removed, within the context.

    Args:
        guard: raises where the path is not this process's to write.
    """
    _guards.append(guard)
    try:
        yield
    finally:
        _guards.remove(guard)


def check_owned(path: Path) -> None:
    """Ask all guards, before something is changed below a run.

    Args:
        path: what is to be written, renamed or removed.

    Raises:
        MemberHeldError: a member that it belongs to is another process's by now, or its folder is gone.
        OSError: that cannot be seen.
    """
    for guard in _guards:
        guard(path)
