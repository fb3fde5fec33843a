"""Finished members on disk: what they recorded, what they kept, and when measurements fire in their training."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from torch import nn

from gradhorizon.config import RunConfig
from gradhorizon.measurements.measurement import Measurement
from gradhorizon.records.checkpoints import load_checkpoint
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import put_aside, write_json
from gradhorizon.records.layout import KEPT, MEMBER_SHEET, kept_path, kept_step_in, member_folder, table_path
from gradhorizon.records.listing import Listing
from gradhorizon.records.parquet import write_parquet
from gradhorizon.records.reading import listing_of, recorded_tables
from gradhorizon.records.seals import Entry
from gradhorizon.records.sheets import read_member_sheet

log = logging.getLogger(__name__)

_ORDER = ("init", "train", "solved", "last", "diverged")
_REMEDY = "move the whole folder of its member (seed-…) out of the run and launch the training again"


@dataclass(frozen=True)
class KeptCheckpoint:
    """A network as it was after some optimizer steps, and why it was kept.

    Attributes:
        path: its file.
        step: optimizer steps completed.
        phase: init, train, solved, last or diverged.
        entry: what was committed of it; None if it was kept before that was listed.
    """

    path: Path
    step: int
    phase: str
    entry: Entry | None = None

    def restore(self, network: nn.Module) -> None:
        """Give `network` its parameters.

        Raises:
            RecordsError: the file is damaged, is of another moment, or does not fit.
        """
        content = load_checkpoint(self.path, _REMEDY, self.entry)
        found = (content.get("step"), content.get("phase"))
        if found != (self.step, self.phase):
            raise RecordsError(f"{self.path} must hold {(self.step, self.phase)}, got {found}; {_REMEDY}")
        try:
            network.load_state_dict(content["network"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise RecordsError(
                f"{self.path} does not fit the network that the run's configuration builds now: {error}; "
                "measure with the code that trained it"
            ) from error


class FinishedMember:
    """A member whose training has ended.

    Args:
        folder: the run's folder.
        seed: the member's seed.
        run: what the run was trained with.
    """

    def __init__(self, folder: Path, seed: int, run: RunConfig) -> None:
        self.seed = seed
        self.folder = member_folder(folder, seed)
        self.num_steps = run.num_steps
        self.stop_when_solved = run.stop_when_solved

    @property
    def content(self) -> dict[str, Any]:
        """Its ``member.json`` as it is now."""
        return read_member_sheet(self.folder)

    @property
    def launch(self) -> dict[str, Any]:
        """What was true of the launch that finished it."""
        launch: dict[str, Any] = self.content.get("launch", {})
        return launch

    @cached_property
    def outcome(self) -> tuple[str, int]:
        """Solved, budget exhausted or diverged, and after how many optimizer steps."""
        return self.content["outcome"], self.content["outcome_step"]

    @property
    def last_step(self) -> int:
        """Optimizer steps completed when it ended."""
        kind, step = self.outcome
        return step if kind == "diverged" or (kind == "solved" and self.stop_when_solved) else self.num_steps

    def lacks(self, item: Measurement) -> bool:
        """Whether the table of `item` was neither recorded nor found to have no rows."""
        later = self.content.get("measured_later", {}).get(item.table.name)
        return not self._has(item.table.name) and (later is None or later["num_rows"] > 0)

    def _has(self, table: str) -> bool:
        # A table that was lost can be measured again; one that was altered is named by whoever reads it.
        return table in recorded_tables(self.folder) and table_path(self.folder, table).exists()

    def settings(self, item: Measurement) -> dict[str, Any] | None:
        """What `item` was configured with if its table was measured after the training, else None."""
        later: dict[str, dict[str, Any]] = self.content.get("measured_later", {})
        return later.get(item.table.name, {}).get("settings")

    def inner_steps(self, item: Measurement) -> set[int]:
        """Optimizer steps, besides first, solved and last, at which `item` fires in its training."""
        return {step for step in item.schedule.inner_steps(self.num_steps) if step <= self.last_step}

    def kept_steps(self) -> set[int]:
        """Inner steps whose checkpoints it kept."""
        if self.listing is not None:
            return {step for path in self.listing.files if (step := kept_step_in(PurePosixPath(path).name)) is not None}
        return {step for path in (self.folder / KEPT).glob("*") if (step := kept_step_in(path.name)) is not None}

    def is_due(self, item: Measurement, checkpoint: KeptCheckpoint) -> bool:
        """Whether `item` fires where `checkpoint` was kept."""
        return item.schedule.is_due(checkpoint.step, checkpoint.phase, self.num_steps)

    def checkpoints(self) -> list[KeptCheckpoint]:
        """What it kept, in the order in which its training came by it.

        Raises:
            RecordsError: a checkpoint that every such member keeps is not there.
        """
        steps = [step for step in self.kept_steps() if step <= self.last_step]
        kept = [self._kept(step, "train") for step in steps]
        for phase, step in self._phases().items():
            found = self._kept(step or 0, phase)
            if found.path.is_file():
                kept.append(found if step is not None else replace(found, step=_step_of(found)))
            elif step is not None or found.entry is not None:
                raise RecordsError(
                    f"{found.path} is missing, and without it the table would be cut short (frozen records hold no "
                    "checkpoints: measure the runs that they come from)"
                )
        return sorted(kept, key=lambda item: (item.step, _ORDER.index(item.phase)))

    def _kept(self, step: int, phase: str) -> KeptCheckpoint:
        path = kept_path(self.folder, phase, step)
        listed = None if self.listing is None else self.listing.files.get(path.relative_to(self.folder).as_posix())
        return KeptCheckpoint(path, step, phase, listed)

    def _phases(self) -> dict[str, int | None]:
        """Phase -> optimizer step; None where its outcome does not say whether and when: solved, then diverged."""
        kind, step = self.outcome
        found: dict[str, int | None] = {"init": 0}
        if kind == "solved":
            found["solved"] = step
        if kind == "diverged":
            found["diverged"] = step
            if not self.stop_when_solved:
                found["solved"] = None
        elif kind == "budget exhausted" or not self.stop_when_solved:
            found["last"] = self.num_steps
        return found

    @cached_property
    def listing(self) -> Listing | None:
        """What it had committed when its training ended; None if it ended before that was listed."""
        return listing_of(self.folder)

    def keep(self, tables: dict[str, pa.Table], facts: dict[str, dict[str, Any]], names: list[str]) -> None:
        """Keep tables that were measured after the training, and where they come from.

        A table counts once the member's sheet lists it: one that a killed measurement has left behind is set aside.

        Args:
            tables: by name.
            facts: table -> what is true of its measurement, of those too that have no rows.
            names: the measurements' names in a configuration, which then call them recorded.
        """
        content = self.content
        listing = Listing.read(content, self.folder / MEMBER_SHEET)
        for name, table in tables.items():
            path = table_path(self.folder, name)
            if path.exists():
                log.warning("  %s: %s is not listed, and is set aside", self.folder.name, path.name)
                put_aside(path)
            elif listing is not None and name in listing.tables:
                log.warning("  %s: %s was committed and is missing: it is measured again", self.folder.name, path.name)
            entry = write_parquet(table, path)
            if listing is not None:
                listing.files[path.relative_to(self.folder).as_posix()] = entry
        launch = content.setdefault("launch", {})
        launch["measurements"] = sorted({*launch.get("measurements", ()), *names})
        content["measured_later"] = content.get("measured_later", {}) | facts
        write_json({**content, **({} if listing is None else listing.plain)}, self.folder / MEMBER_SHEET)


def _step_of(kept: KeptCheckpoint) -> int:
    step = load_checkpoint(kept.path, _REMEDY, kept.entry).get("step")
    if not isinstance(step, int):
        raise RecordsError(f"{kept.path} must say after how many steps it was kept, got {str(step)[:80]!r}; {_REMEDY}")
    return step
