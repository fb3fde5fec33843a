"""What would be said again and again, said once."""

from __future__ import annotations

import logging
from functools import cache


@cache
def say_once(log: logging.Logger, message: str, level: int = logging.WARNING) -> None:
    """Say what would be said again for every run, file or cell, once in this process.

    Args:
        log: who says it.
        message: all of it.
        level: how much it matters.
    """
    log.log(level, "%s", message)
