"""A run's folder while a process works in it: a log kept, checkpoints read."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from gradhorizon.config import ConfigError
from gradhorizon.records import RecordsError

log = logging.getLogger(__name__)

_MOST_WORDS = 200


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        """Nothing: on a full disk, a traceback for every line would hide the one message that says so."""


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append what is logged to `path`, and the traceback of what ends it."""
    try:
        handler = _LogFile(path)
    except OSError as error:
        raise ConfigError(f"{path} must be a file that can be written, got: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except Exception:
        exception = sys.exc_info()
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "failed", (), exception))
        raise
    finally:
        root.removeHandler(handler)
        with suppress(OSError):
            handler.close()


def load_checkpoint(path: Path, remedy: str) -> dict[str, Any]:
    """Content of a checkpoint, on the CPU.

    Args:
        path: where it lies.
        remedy: what to do if it is damaged.

    Raises:
        RecordsError: it cannot be read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RecordsError(f"{path} cannot be read ({_why(error)}); {remedy}") from error
    if not isinstance(content, dict):
        raise RecordsError(f"{path} holds {type(content).__name__}, expected a dictionary; {remedy}")
    return content


def _why(error: Exception) -> str:
    # torch's own words go on to advise how to run what it has refused to run.
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found:
        return f"it asks for {found[1]}, which no checkpoint needs, and nothing of it was run"
    return " ".join(str(error).split())[:_MOST_WORDS]
