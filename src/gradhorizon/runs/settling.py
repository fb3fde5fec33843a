"""What the last process of a finished run left unsaid: it was killed after its members had ended."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from gradhorizon.config import ConfigError
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import remove_orphans
from gradhorizon.records.layout import FAILURE, RUN_SHEET, seeds_in
from gradhorizon.records.sheets import look_at_run_sheet
from gradhorizon.runs.failures import forgive
from gradhorizon.runs.locks import members_locked
from gradhorizon.runs.members import finished_seeds, is_finished, outcomes_of
from gradhorizon.runs.summary import summarize

log = logging.getLogger(__name__)


def settle(folder: Path) -> None:
    """Say in ``run.json`` that a run is finished whose members all are, and that it has not failed.

    Does nothing where another process is at the run, which will say so itself, or where nothing can be written.

    Args:
        folder: the run's folder.
    """
    with suppress(ConfigError, RecordsError):
        if _is_settled(folder):
            return
        seeds = seeds_in(folder)
        with members_locked(folder, seeds, "settled"):
            outcomes = outcomes_of(folder)
            if is_finished(folder, outcomes):
                summarize(folder, {}, "finished")
                forgive(folder, finished_seeds(outcomes))
                remove_orphans(folder)
                log.info("  its last process was killed when all was done: now %s says so, too", RUN_SHEET)


def _is_settled(folder: Path) -> bool:
    sheet, _ = look_at_run_sheet(folder)
    return not sheet or (sheet["status"] == "finished" and not (folder / FAILURE).exists())
