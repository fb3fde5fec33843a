"""Processes of this machine: whether one that is known by its number still lives."""

from __future__ import annotations

import os
from pathlib import Path

UNKNOWN_START = -1
"""The start of a process that lives, and hides when it has begun."""


def process_start(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process of this machine; -1 if it lives and hides its start.

    Args:
        pid: the process.

    Returns:
        None if it is dead.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # it is gone, belongs to another user, or this system has no /proc
        return UNKNOWN_START if _exists(pid) else None
    is_zombie = fields[0] in "ZXx"
    return None if is_zombie else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # not ours to signal
    return True
