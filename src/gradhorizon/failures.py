"""What is left of a run that broke, ``failed.json`` in its folder, and what is said of it.

Imports neither torch nor Hydra nor pandas: those who only read failures start quickly.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradhorizon.records.errors import RecordsError
from gradhorizon.records.layout import FAILURE, LOG
from gradhorizon.records.plain import open_file, read_json
from gradhorizon.records.sheets import check

log = logging.getLogger(__name__)

_LOG_TAIL_BYTES = 64 * 1024
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_TRACEBACK = "Traceback (most recent call last):"
_MOST_WORDS = 1000  # characters of a reason
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


class RunFailedError(RuntimeError):
    """A run that started and broke; its traceback is in its own log."""


class StoppedIterationError(Exception):
    """A `StopIteration`, which whatever iterates over batches would take for their end."""


def reason_of(error: BaseException) -> str:
    r"""Why something broke, in one line that a terminal can show.

    Args:
        error: what was raised; our own errors say what is wrong, others need their type's name.

    Example:
        >>> reason_of(ValueError("shapes differ:\n  (2, 3)\n  (3, 2)"))
        'ValueError: shapes differ: (2, 3) (3, 2)'
        >>> reason_of(StopIteration())
        'StopIteration (no message)'
        >>> reason_of(SystemExit(3))
        'SystemExit: exited with code 3'
    """
    name = type(error).__name__
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return f"{name}: exited with code {int(error.code or 0)}"
    words = printable(" ".join(_words(error).split()))
    if len(words) > _MOST_WORDS:
        words = f"{words[:_MOST_WORDS]}…"
    if type(error).__module__.partition(".")[0] == "gradhorizon" and words:
        return words
    return f"{name}: {words}" if words else f"{name} (no message)"


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001, an exception whose own words break is no reason to break here
        return ""


def printable(text: str) -> str:
    r"""`text` in one line, without what a terminal would act upon.

    Args:
        text: anything.

    Example:
        >>> printable("a\x1b[31mb\n")
        'a�[31mb�'
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Have what is raised within say what was being done.

    Args:
        name: of the phase; the innermost one counts.
    """
    try:
        yield
    except StopIteration as error:
        broken = StoppedIterationError(reason_of(error))
        attach(broken, "phase", name)
        raise broken from error
    except BaseException as error:
        attach(error, "phase", attached(error, "phase") or name)
        raise


def attach(error: BaseException, name: str, value: Any) -> None:
    """Let `error` carry a fact to whoever catches it; quiet where it cannot.

    Args:
        error: on its way.
        name: of the fact: phase, reason, folder (of the run), has_started (training), is_logged (with its traceback, in
            the run's own log).
        value: the fact.
    """
    with suppress(AttributeError, TypeError):
        setattr(error, f"_gradhorizon_{name}", value)


def attached(error: BaseException, name: str) -> Any:
    """What `attach` has let `error` carry under `name`; None if nothing."""
    return getattr(error, f"_gradhorizon_{name}", None)


def traceback_of(error: BaseException) -> list[str]:
    """Where `error` was raised, as Python prints it, and what led to it."""
    return "".join(traceback.format_exception(error)).splitlines()


def forgive(folder: Path, seeds: Iterable[int]) -> None:
    """Remove ``failed.json``, unless it tells of other members than those with `seeds`.

    Args:
        folder: the run's folder.
        seeds: members that are trained now, or are done.
    """
    if not set(failed_seeds(folder)) - set(seeds):
        (folder / FAILURE).unlink(missing_ok=True)


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
