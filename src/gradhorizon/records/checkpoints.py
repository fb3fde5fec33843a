"""Checkpoints in a run's folder, read."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch

from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.files import read_listed
from gradhorizon.records.layout import run_of_checkpoint
from gradhorizon.records.seals import Entry, SealError, is_sealed_archive
from gradhorizon.terminal.words import one_line

_MOST_WORDS = 200


def load_checkpoint(path: Path, remedy: str, entry: Entry | None = None) -> dict[str, Any]:
    """Content of a checkpoint, on the CPU.

    Args:
        path: where it lies.
        remedy: what to do if it is damaged.
        entry: what was committed of it, if that is known.

    Raises:
        DamagedFileError: it is not what was written.
        RecordsError: it cannot be read.
    """
    try:
        raw = read_listed(path, run_of_checkpoint(path), entry)
        is_sealed_archive(raw)
    except FileNotFoundError as error:
        raise RecordsError(f"{path} is missing; {remedy}") from error
    except DamagedFileError as error:
        raise DamagedFileError(error.fact, remedy) from error
    except SealError as error:
        raise DamagedFileError(f"{path} {error}", remedy) from error
    try:
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
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
    return one_line(error)[:_MOST_WORDS]
