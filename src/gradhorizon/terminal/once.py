"""What would be said again and again, said once."""

from __future__ import annotations

import logging
from functools import cache


@cache
def say_once(log: logging.Logger, message: str) -> None:
    """Say what would be said again for every run or file, once in this process.

    Args:
        log: who says it.
        message: all of it.
    """
    log.warning("%s", message)
