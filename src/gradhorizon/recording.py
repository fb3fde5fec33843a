"""What a run writes while it trains: measurements, metrics, checkpoints and outcomes, committed together."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch

from gradhorizon.config import TrainerSettings
from gradhorizon.ensemble import Member, Outcome
from gradhorizon.measurements.measurement import Measurement, ProbeMeasurement, StepMeasurement, StepReading
from gradhorizon.measurements.probe import Probe
from gradhorizon.mirrors.mirror import Mirror
from gradhorizon.progress import ProgressDisplay
from gradhorizon.records import METRICS, MemberRecords, Table, write_json
from gradhorizon.tasks.task import Batch
from gradhorizon.training import EnsembleModule


class Recorder:
    """Takes measurements of members and writes them to records and mirror.

    Args:
        measurements: what to measure.
        records: seed -> the member's records.
        mirror: where a copy goes.
        build_probe: network under measurement -> probe.
        num_steps: the budget, in optimizer steps.
    """

    def __init__(
        self,
        measurements: Sequence[Measurement],
        records: dict[int, MemberRecords],
        mirror: Mirror,
        build_probe: Callable[[Member], Probe],
        num_steps: int,
    ) -> None:
        self.probes = [item for item in measurements if isinstance(item, ProbeMeasurement)]
        self.steps = [item for item in measurements if isinstance(item, StepMeasurement)]
        self.records = records
        self.mirror = mirror
        self.build_probe = build_probe
        self.num_steps = num_steps

    def probe(self, member: Member, step: int, phase: str) -> bool:
        """Take the probe measurements that are due; whether there were any."""
        due = [item for item in self.probes if item.schedule.is_due(step, phase, self.num_steps)]
        if due:
            probe = self.build_probe(member)
            for item in due:
                self._write(member, item.table, item.read(probe), step, phase)
        return bool(due)

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


class MemberFiles:
    """A member's folder: its status, checkpoints and records.

    Args:
        folder: the member's folder.
        records: its records.
        launch: what is true of this launch (versions, commit, device, threads), kept with the outcome.
    """

    def __init__(self, folder: Path, records: MemberRecords, launch: dict[str, Any]) -> None:
        self.folder = folder
        self.records = records
        self.launch = launch
        self.is_closed = False

    def keep(self, member: Member, step: int, phase: str) -> None:
        """Keep a checkpoint of the network for later measurements."""
        name = phase if phase != "train" else f"step-{step:08d}"
        content = {"network": member.network.state_dict(), "step": step, "phase": phase}
        save_atomically(content, self.folder / "checkpoints" / f"{name}.pt")

    def commit(self, member: Member, optimizer_state: dict[str, Any], step: int) -> None:
        """Records up to `step`, then the checkpoint that they belong to."""
        self.records.commit(step)
        content = {"member": member.state(), "optimizer": optimizer_state, "step": step}
        save_atomically(content, self.folder / "checkpoint.pt")
        self._write_status("running", member, step)

    def close(self, member: Member, optimizer_state: dict[str, Any], step: int) -> None:
        """Commit, compact, and mark the member finished."""
        self.commit(member, optimizer_state, step)
        self.records.compact()
        self._write_status("finished", member, step)
        self.is_closed = True

    def _write_status(self, status: str, member: Member, step: int) -> None:
        outcome = asdict(member.outcome) if member.outcome else {"kind": None, "step": None}
        content = {
            "seed": member.seed,
            "status": status,
            "outcome": outcome["kind"],
            "outcome_step": outcome["step"],
            "step": step,
            "launch": self.launch,
        }
        write_json(content, self.folder / "member.json")


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """``torch.save`` by atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save(content, temporary)
    temporary.replace(path)


class RunCallback(pl.Callback):
    """Drives validation, probes, outcomes, commits and the progress display of one fit.

    Args:
        recorder: takes the measurements.
        files: seed -> the member's folder.
        validation: the held-out batches, on the device.
        progress: the display.
        settings: intervals.
        num_steps: the budget, in optimizer steps.
        val_every_steps: optimizer steps between validations; the last step is always followed by one.
        stop_when_solved: freeze a member at the validation that finds it solved.
        title: what the display calls the run.
    """

    def __init__(
        self,
        recorder: Recorder,
        files: dict[int, MemberFiles],
        validation: Sequence[Batch],
        progress: ProgressDisplay,
        settings: TrainerSettings,
        num_steps: int,
        val_every_steps: int,
        stop_when_solved: bool,
        title: str,
    ) -> None:
        self.recorder = recorder
        self.files = files
        self.validation = validation
        self.progress = progress
        self.settings = settings
        self.num_steps = num_steps
        self.val_every_steps = val_every_steps
        self.stop_when_solved = stop_when_solved
        self.title = title
        self._accuracy = float("nan")
        self._committed_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: EnsembleModule) -> None:
        """Measure the members before their first step."""
        self.progress.start(self.num_steps, pl_module.first_step, self.title)
        if pl_module.first_step == 0:
            for member in pl_module.ensemble:
                self.files[member.seed].keep(member, 0, "init")
                self.recorder.probe(member, 0, "init")
            self._validate(pl_module, 0, "init")
            self._end_members(trainer, pl_module, 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: EnsembleModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Everything that happens between two optimizer steps."""
        del outputs, batch
        step = pl_module.first_step + batch_idx + 1
        self._log_training_metrics(pl_module, step - 1)
        for member in pl_module.ensemble:
            if member.is_training and step < self.num_steps and self.recorder.probe(member, step, "train"):
                self._keep_if_asked(member, step)
        is_validation = step % self.val_every_steps == 0 or step == self.num_steps
        if is_validation:
            self._validate(pl_module, step, "last" if step == self.num_steps else "train")
        self._end_members(trainer, pl_module, step)
        if is_validation and time.monotonic() - self._committed_at >= self.settings.checkpoint_every_s:
            self._commit(pl_module, step)
        self._show(pl_module, step)

    def _keep_if_asked(self, member: Member, step: int) -> None:
        if self.settings.keep_probe_checkpoints:
            self.files[member.seed].keep(member, step, "train")

    def _log_training_metrics(self, module: EnsembleModule, step: int) -> None:
        if step % self.settings.log_every_steps == 0:
            values = {member.seed: member.last_metrics for member in module.ensemble if member.is_training}
            self.recorder.metrics(step, "train", values, "init" if step == 0 else "train")

    def _validate(self, module: EnsembleModule, step: int, phase: str) -> None:
        task = module.ensemble.task
        values: dict[int, dict[str, float]] = {}
        for member in module.ensemble:
            if member.is_training:
                values[member.seed] = module.ensemble.evaluate(member, self.validation)
                if member.solved_at is None and task.is_solved(values[member.seed]):
                    member.solved_at = step
                    self.recorder.probe(member, step, "solved")
                    self.files[member.seed].keep(member, step, "solved")
                    if self.stop_when_solved:
                        member.outcome = Outcome("solved", step)
        self.recorder.metrics(step, "validation", values, phase)
        if values:
            self._accuracy = sum(metrics["accuracy"] for metrics in values.values()) / len(values)

    def _end_members(self, trainer: pl.Trainer, module: EnsembleModule, step: int) -> None:
        optimizers = module.member_optimizers()
        for member, optimizer in zip(module.ensemble, optimizers, strict=True):
            files = self.files[member.seed]
            if files.is_closed:
                continue
            if member.is_training and step == self.num_steps:
                is_solved = member.solved_at is not None
                member.outcome = Outcome("solved", member.solved_at) if is_solved else Outcome("budget exhausted", step)
                self._last_look(member, step, "last")
            elif member.outcome is not None and member.outcome.kind == "diverged":
                self._last_look(member, member.outcome.step, "diverged")
            if member.outcome is not None:
                files.close(member, optimizer.optimizer.state_dict(), step)
        trainer.should_stop = all(not member.is_training for member in module.ensemble)

    def _last_look(self, member: Member, step: int, phase: str) -> None:
        self.recorder.probe(member, step, phase)
        self.files[member.seed].keep(member, step, phase)

    def _commit(self, module: EnsembleModule, step: int) -> None:
        for member, optimizer in zip(module.ensemble, module.member_optimizers(), strict=True):
            if not self.files[member.seed].is_closed:
                self.files[member.seed].commit(member, optimizer.optimizer.state_dict(), step)
        self._committed_at = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: EnsembleModule) -> None:
        """Close the display with how the members ended."""
        del trainer
        ends = [f"seed {member.seed} {member.outcome.kind} at step {member.outcome.step}"
                for member in pl_module.ensemble if member.outcome is not None]  # fmt: skip
        self.progress.finish(", ".join(ends))

    def _show(self, module: EnsembleModule, step: int) -> None:
        members = list(module.ensemble)
        live = [member for member in members if member.is_training] or members
        norms = [module.last_gradient_norms.get(member.seed, float("nan")) for member in live]
        self.progress.update(
            step,
            loss=statistics.median(member.last_loss for member in live),
            accuracy=self._accuracy,
            gradient_norm=statistics.median(norms),
            num_solved=sum(member.solved_at is not None for member in members),
            num_members=len(members),
        )
