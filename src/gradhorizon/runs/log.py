"""The log that a run keeps in its own folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from gradhorizon.config import ConfigError
from gradhorizon.machine.stopping import Stopped
from gradhorizon.records import safely
from gradhorizon.records.guards import check_owned
from gradhorizon.terminal.reasons import attach

log = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    def _open(self) -> TextIOWrapper:
        return os.fdopen(safely.open_to_append(Path(self.baseFilename)), "a", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        """Nothing, once the run is another process's, or gone: that is said on the terminal alone."""
        with suppress(ConfigError, OSError):
            check_owned(Path(self.baseFilename))
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, logging's own name
        """Nothing: on a full disk, a traceback for every line would hide the one message that says so."""


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append what is logged to `path`, and the traceback of what ends it."""
    try:
        handler = _LogFile(path)
    except OSError as error:
        is_told = isinstance(error, safely.MisplacedError)
        words = str(error) if is_told else f"{path} must be a file that can be written, got: {error.strerror}"
        raise ConfigError(words) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Stopped | KeyboardInterrupt | GeneratorExit):
            exception = sys.exc_info()
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "failed", (), exception))
            attach(error, "is_logged", True)
        raise
    finally:
        root.removeHandler(handler)
        with suppress(OSError):
            handler.close()
