"""What the last process of a finished run left unsaid: it was killed after its members had ended."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from gradhorizon import runs
from gradhorizon.config import ConfigError
from gradhorizon.failures import FAILURE_FILE, forgive
from gradhorizon.locks import members_locked
from gradhorizon.record_files import read_json, remove_orphans, write_json
from gradhorizon.tables import RecordsError

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
        seeds = sorted(int(path.name.removeprefix("seed-")) for path in folder.glob("seed-*"))
        with members_locked(folder, seeds, "settled"):
            outcomes = runs.outcomes(folder)
            if runs.is_finished(folder, outcomes):
                sheet = {**read_json(folder / "run.json"), "status": "finished", "outcomes": outcomes}
                write_json(sheet, folder / "run.json")
                forgive(folder, runs.finished_seeds(outcomes))
                remove_orphans(folder)
                log.info("  its last process was killed when all was done: now run.json says so, too")


def _is_settled(folder: Path) -> bool:
    path = folder / "run.json"
    is_failed = (folder / FAILURE_FILE).exists()
    return not path.is_file() or (read_json(path).get("status") == "finished" and not is_failed)
