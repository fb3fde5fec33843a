"""Finished members on disk: what they recorded, what they kept, and when measurements fire in their training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from gradhorizon.config import RunConfig
from gradhorizon.measurements.measurement import Measurement
from gradhorizon.records.files import write_json
from gradhorizon.records.layout import KEPT, MEMBER_SHEET, kept_path, kept_step_in, member_folder, table_path
from gradhorizon.records.sheets import read_member_sheet
from gradhorizon.records.tables import RecordsError
from gradhorizon.run_folder import load_checkpoint

_ORDER = ("init", "train", "solved", "last", "diverged")
_REMEDY = "move the whole folder of its member (seed-…) out of the run and launch the training again"


@dataclass(frozen=True)
class KeptCheckpoint:
    """A network as it was after some optimizer steps, and why it was kept.

    Attributes:
        path: its file.
        step: optimizer steps completed.
        phase: init, train, solved, last or diverged.
    """

    path: Path
    step: int
    phase: str

    def restore(self, network: nn.Module) -> None:
        """Give `network` its parameters.

        Raises:
            RecordsError: the file is damaged, is of another moment, or does not fit.
        """
        content = load_checkpoint(self.path, _REMEDY)
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
        return self.content.get("launch", {})

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
        return not self.table_path(item).is_file() and (later is None or later["num_rows"] > 0)

    def settings(self, item: Measurement) -> dict[str, Any] | None:
        """What `item` was configured with if its table was measured after the training, else None."""
        return self.content.get("measured_later", {}).get(item.table.name, {}).get("settings")

    def table_path(self, item: Measurement) -> Path:
        """The file of the table of `item`."""
        return table_path(self.folder, item.table.name)

    def inner_steps(self, item: Measurement) -> set[int]:
        """Optimizer steps, besides first, solved and last, at which `item` fires in its training."""
        return {step for step in item.schedule.inner_steps(self.num_steps) if step <= self.last_step}

    def kept_steps(self) -> set[int]:
        """Inner steps whose checkpoints it kept."""
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
        kept = [KeptCheckpoint(kept_path(self.folder, "train", step), step, "train") for step in steps]
        for phase, step in self._phases().items():
            path = kept_path(self.folder, phase, step or 0)
            if path.is_file():
                kept.append(KeptCheckpoint(path, _step_of(path) if step is None else step, phase))
            elif step is not None:
                raise RecordsError(f"{path} is missing, and without it the table would be cut short (frozen records "
                                   "hold no checkpoints: measure the runs that they come from)")  # fmt: skip
        return sorted(kept, key=lambda item: (item.step, _ORDER.index(item.phase)))

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

    def keep_provenance(self, facts: dict[str, dict[str, Any]], names: list[str]) -> None:
        """Keep where tables come from that were measured after the training.

        Args:
            facts: table -> what is true of its measurement.
            names: the measurements' names in a configuration, which then call them recorded.
        """
        content = self.content
        launch = content.setdefault("launch", {})
        launch["measurements"] = sorted({*launch.get("measurements", ()), *names})
        content["measured_later"] = content.get("measured_later", {}) | facts
        write_json(content, self.folder / MEMBER_SHEET)


def _step_of(path: Path) -> int:
    step = load_checkpoint(path, _REMEDY).get("step")
    if not isinstance(step, int):
        raise RecordsError(f"{path} must say after how many steps it was kept, got {str(step)[:80]!r}; {_REMEDY}")
    return step
