"""``run.json``: what a run is, and how its members stand, summed up from their own sheets.

Launches of different seeds of one run all write it, one after the other, each from what is on disk then: a short lock
of the run keeps them apart, and where the file system has no locks, whoever wrote looks again. The truth is in the
members' sheets; no launch's own words are kept here. Imports neither torch nor Hydra's parts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.files import put_aside, write_json
from gradhorizon.records.guards import check_owned
from gradhorizon.records.launches import all_seeds
from gradhorizon.records.layout import RUN_LOCK, RUN_SHEET
from gradhorizon.records.listing import FILES
from gradhorizon.records.sheets import look_at_run_sheet
from gradhorizon.runs.members import is_finished, outcomes_of

log = logging.getLogger(__name__)

_PATIENCE_S = 2.0  # with a lock that is held for milliseconds, unless its holder was suspended
_LOOKS = 5  # at members that end while they are summed up


def summarize(
    folder: Path, description: Mapping[str, Any], status: str, seeds: Collection[int] = ()
) -> dict[str, dict[str, Any]]:
    """Write ``run.json`` from what the members' sheets say now.

    What an older version has kept there of its launches stays, and so does every seed that was ever asked for.

    Args:
        folder: the run's folder.
        description: what the run is.
        status: ``failed``; anything else is decided by the members: finished once all are, else running.
        seeds: members that were asked for.

    Returns:
        The outcomes of all members on disk, by seed.

    Raises:
        MemberHeldError: a member that this process has locked is no longer its own.
        RecordsError: it cannot be written.
    """
    check_owned(folder / RUN_SHEET)
    with run_sheet_locked(folder):
        for _ in range(_LOOKS):
            outcomes = outcomes_of(folder)
            recorded = _recorded(folder)
            members = sorted({*all_seeds(recorded, folder), *seeds})
            kept = {name: recorded[name] for name in ("launches", FILES) if name in recorded}
            told = "finished" if is_finished(folder, outcomes) else "running"
            content = {
                **(description or recorded),
                **kept,
                "status": "failed" if status == "failed" else told,
                "outcomes": outcomes,
                "seeds": members,
            }
            write_json(content, folder / RUN_SHEET)
            if outcomes_of(folder) == outcomes:
                break
    return outcomes


def mark_failed(folder: Path) -> None:
    """Let a ``run.json`` that says running say failed; one that is not there or not readable is not ours to touch.

    Args:
        folder: the run's folder.

    Raises:
        RecordsError: it cannot be written.
    """
    if _status(folder) == "running":
        with run_sheet_locked(folder):
            if _status(folder) == "running":
                write_json({**look_at_run_sheet(folder)[0], "status": "failed"}, folder / RUN_SHEET)


def _status(folder: Path) -> str | None:
    try:
        return look_at_run_sheet(folder)[0].get("status")
    except RecordsError:
        return None


@contextmanager
def run_sheet_locked(folder: Path) -> Iterator[None]:
    """Keep other launches of a run from its own files, for as long as it takes to write one.

    Waits for a moment only, and goes on without where the file system has no locks, or a suspended process holds it.

    Args:
        folder: the run's folder.
    """
    with ExitStack() as stack:
        with warnings.catch_warnings(), suppress(Timeout, NotImplementedError, OSError):
            warnings.simplefilter("ignore")  # of a fallback to the mere existence of the file, which will do
            stack.enter_context(FileLock(folder / RUN_LOCK, timeout=_PATIENCE_S))
        yield


def _recorded(folder: Path) -> dict[str, Any]:
    path = folder / RUN_SHEET
    try:
        return look_at_run_sheet(folder)[0]
    except DamagedFileError as error:
        log.warning("  %s; it is set aside, and written anew", error.fact)
        with suppress(FileNotFoundError):  # where there are no locks, another launch has set it aside meanwhile
            put_aside(path)
        return {}
