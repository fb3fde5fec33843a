"""What a run writes while it trains: measurements, metrics, checkpoints and outcomes, committed together."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.measurements.measurement import (
    CostMeasurement,
    Measurement,
    ProbeMeasurement,
    Program,
    StepMeasurement,
    StepReading,
)
from gradhorizon.measurements.probe import Probe
from gradhorizon.mirrors.mirror import Mirror
from gradhorizon.records.files import write_atomically, write_json
from gradhorizon.records.launches import Launch
from gradhorizon.records.layout import CHECKPOINT, MEMBER_SHEET, kept_path
from gradhorizon.records.seals import Entry, sealed_archive
from gradhorizon.records.tables import METRICS, Table
from gradhorizon.records.writing import MemberRecords
from gradhorizon.runs.locks import check_held
from gradhorizon.terminal.reasons import phase as phase_of_work
from gradhorizon.training.ensemble import Member


@dataclass(eq=False)
class Recorder:
    """Takes measurements of members and writes them to records and mirror.

    Attributes:
        measurements: what to measure.
        records: seed -> the member's records.
        mirror: where a copy goes.
        build_probe: member under measurement -> probe.
        build_program: member -> its training, for cost measurements.
        num_steps: the budget, in optimizer steps.
        seconds: table -> seconds spent on reading it, counted up here; what probes share counts for the first.
    """

    measurements: Sequence[Measurement]
    records: dict[int, MemberRecords]
    mirror: Mirror
    build_probe: Callable[[Member], Probe]
    build_program: Callable[[Member], Program]
    num_steps: int
    seconds: defaultdict[str, float]

    def __post_init__(self) -> None:
        self.probes = [item for item in self.measurements if isinstance(item, ProbeMeasurement)]
        self.steps = [item for item in self.measurements if isinstance(item, StepMeasurement)]
        self.costs = [item for item in self.measurements if isinstance(item, CostMeasurement)]

    def probe(self, member: Member, step: int, phase: str) -> bool:
        """Take the probe and cost measurements that are due; whether there were any of the probe."""
        due = [item for item in self.probes if item.schedule.is_due(step, phase, self.num_steps)]
        if due:
            with own_surroundings(next(member.network.parameters()).device):
                probe = self.build_probe(member)
                for item in due:
                    self._take(item.table, partial(item.read, probe), member, step, phase)
        for cost in self.costs:
            if cost.schedule.is_due(step, phase, self.num_steps):
                self._take(cost.table, partial(cost.read, self.build_program(member)), member, step, phase)
        return bool(due)

    def _take(self, table: Table, read: Callable[[], pd.DataFrame], member: Member, step: int, phase: str) -> None:
        start = time.perf_counter()
        with phase_of_work(f"measuring {table.name} at step {step}"):
            rows = read()
        self.seconds[table.name] += time.perf_counter() - start
        self._write(member, table, rows, step, phase)

    def wants_reading(self, step: int) -> bool:
        """Whether a step measurement fires while step `step` + 1 is taken."""
        return any(self._is_step_due(item, step) for item in self.steps)

    def reading(self, member: Member, reading: StepReading, step: int) -> None:
        """Write what the step measurements that are due make of `reading`."""
        for item in self.steps:
            if self._is_step_due(item, step):
                self._write(member, item.table, item.read(reading), step, self._step_phase(step))

    def metrics(self, step: int, split: str, values: dict[int, dict[str, float]], phase: str) -> None:
        """Write metrics of several members, seed -> metric -> value."""
        scalars: dict[str, dict[int, float]] = {}
        for seed, metrics in values.items():
            rows = [{"split": split, "metric": metric, "value": value} for metric, value in metrics.items()]
            self.records[seed].append(METRICS, pd.DataFrame(rows), step, phase)
            for metric, value in metrics.items():
                scalars.setdefault(f"{split}/{metric}", {})[seed] = value
        if scalars:
            self.mirror.log_scalars(step, scalars)

    def _write(self, member: Member, table: Table, rows: pd.DataFrame, step: int, phase: str) -> None:
        if len(rows):
            complete = self.records[member.seed].append(table, rows, step, phase)
            self.mirror.log_table(table.name, complete)

    def _is_step_due(self, item: StepMeasurement, step: int) -> bool:
        return item.schedule.is_due(step, self._step_phase(step), self.num_steps)

    def _step_phase(self, step: int) -> str:
        return "init" if step == 0 else "last" if step == self.num_steps - 1 else "train"


@dataclass(eq=False)
class MemberFiles:
    """A member's folder: its status, checkpoints and records.

    Attributes:
        folder: the member's folder.
        records: its records.
        launch: the one that trains it now, whose facts are kept with the outcome.
        identity: its run's.
        earlier: entries of the launches that have trained it before.
        is_closed: whether it has ended, and all is written.
    """

    folder: Path
    records: MemberRecords
    launch: Launch
    identity: str
    earlier: Sequence[dict[str, Any]] = ()
    is_closed: bool = False

    def keep(self, member: Member, step: int, phase: str) -> None:
        """Keep a checkpoint of the network for later measurements."""
        content = {"network": member.network.state_dict(), "step": step, "phase": phase}
        path = kept_path(self.folder, phase, step)
        self.records.keep(path, save_atomically(content, path))

    def commit(self, member: Member, optimizer_state: dict[str, Any], step: int) -> None:
        """Records up to `step`, then the checkpoint that they belong to.

        Raises:
            MemberHeldError: another process has taken the member over; nothing is written.
        """
        check_held(self.folder)
        with phase_of_work(f"writing records at step {step}"):
            self.records.commit(step)
            self._write(member, optimizer_state, step)

    def close(self, member: Member, optimizer_state: dict[str, Any], step: int) -> None:
        """All records of a member that has ended, each table as one file, and that it is finished.

        Raises:
            MemberHeldError: another process has taken the member over; nothing is written.
        """
        check_held(self.folder)
        with phase_of_work(f"writing records at step {step}"):
            self.records.merge()
            self._write(member, optimizer_state, step)
            # Only now: of what is finished, no launch would remove what was merged.
            self._write_sheet("finished", member, step)
        self.is_closed = True

    def _write(self, member: Member, optimizer_state: dict[str, Any], step: int) -> None:
        """The checkpoint with the list of what belongs to it, then the same list for readers."""
        content = {"member": member.state(), "optimizer": optimizer_state, "step": step, **self._listed(member)}
        save_atomically(content, self.folder / CHECKPOINT)
        self._write_sheet("running", member, step)
        self.records.remove_superseded()

    def _write_sheet(self, status: str, member: Member, step: int) -> None:
        outcome = asdict(member.outcome) if member.outcome else {"kind": None, "step": None}
        sheet = {
            "status": status,
            "outcome": outcome["kind"],
            "outcome_step": outcome["step"],
            "step": step,
            "launch": self.launch.facts,
            **self._listed(member),
        }
        write_json(sheet, self.folder / MEMBER_SHEET)

    def _listed(self, member: Member) -> dict[str, Any]:
        launches = [*self.earlier, self.launch.entry()]
        return {"seed": member.seed, "identity": self.identity, "launches": launches, **self.records.listing.plain}


def save_atomically(content: dict[str, Any], path: Path) -> Entry:
    """``torch.save``, with its digest, by atomic rename; returns what is listed of it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    sealed = sealed_archive(buffer.getvalue())
    write_atomically(sealed, path)
    return Entry.of(sealed)
