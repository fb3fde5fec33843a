"""What is left of a run that broke, ``failed.json`` in its folder, and what is said of it.

Imports neither torch nor Hydra nor pandas: those who only read failures start quickly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradhorizon.records.errors import RecordsError
from gradhorizon.records.layout import FAILURE, LOG
from gradhorizon.records.plain import open_file, read_json
from gradhorizon.records.sheets import check

_LOG_TAIL_BYTES = 64 * 1024
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_TRACEBACK = "Traceback (most recent call last):"
_UNKNOWN = "for reasons that nobody wrote down"


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        reason: in one line.
        lines: its traceback, or the last that was heard of it.
        phase: what it was at, where that is known.
    """

    reason: str
    lines: list[str] = field(default_factory=list)
    phase: str = ""


def forgive(folder: Path, seeds: Iterable[int]) -> None:
    """Remove ``failed.json``, unless it tells of other members than those with `seeds`.

    Args:
        folder: the run's folder.
        seeds: members that are trained now, or are done.

    Raises:
        RecordsError: a folder lies in its place.
    """
    path = folder / FAILURE
    if path.is_dir() and not path.is_symlink():
        raise RecordsError(f"{path} is a folder, where a file was expected; move it away")
    if not set(failed_seeds(folder)) - set(seeds):
        path.unlink(missing_ok=True)


def failed_seeds(folder: Path) -> list[int]:
    """Members that the failed launch was to train, where ``failed.json`` says so."""
    seeds: list[int] = content_of(folder / FAILURE).get("seeds", [])
    return seeds


def read_failure(path: Path) -> Failure:
    """Why a run failed: what ``failed.json`` says, or the log beside it; never raises for what lies there.

    Args:
        path: of ``failed.json``, which may be missing.
    """
    content, problem = _content(path)
    lines = content.get("traceback") or _last_traceback(path.with_name(LOG)) or content.get("last_lines") or []
    last_words = next((line for line in reversed(lines) if line.strip()), _UNKNOWN)
    return Failure(content.get("reason") or problem or last_words, lines, content.get("phase", ""))


def failed_overrides(path: Path) -> list[str]:
    """What a run that failed was launched with; nothing where that is not known."""
    overrides: list[str] = content_of(path).get("overrides", [])
    return overrides


def content_of(path: Path) -> dict[str, Any]:
    """What a ``failed.json`` holds; nothing if it cannot be read, or is not as runs write it."""
    return _content(path)[0]


def _content(path: Path) -> tuple[dict[str, Any], str]:
    """What a ``failed.json`` holds, and what is wrong with it."""
    try:
        content, _ = read_json(path, is_any_text=True)
        check(content, path, "FailureSheet")
    except FileNotFoundError:
        return {}, ""
    except RecordsError as error:
        return {}, str(getattr(error, "fact", error))
    return content, ""


def last_lines(path: Path) -> list[str]:
    """The end of a log; nothing if there is none."""
    try:
        with open_file(path) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES, 0))
            return file.read(_LOG_TAIL_BYTES).decode("utf-8", errors="replace").splitlines()
    except (OSError, RecordsError):
        return []


def _last_traceback(path: Path) -> list[str]:
    lines = last_lines(path)
    starts = [number for number, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if not starts:
        return []
    # Errors that led to one another are told in one go, up to the next line of the log.
    logged = [number for number, line in enumerate(lines) if _LOG_LINE.match(line)]
    first = next((number for number in reversed(logged) if number < starts[-1]), -1) + 1
    last = next((number for number in logged if number > starts[-1]), len(lines))
    return lines[first:last]
