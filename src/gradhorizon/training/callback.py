"""What happens between two optimizer steps: probes, validation, outcomes, commits, and the progress display."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl

from gradhorizon.config import TrainerSettings
from gradhorizon.machine import stopping
from gradhorizon.runs import claims
from gradhorizon.runs.locks import check_held
from gradhorizon.tasks.task import Batch
from gradhorizon.terminal.progress import ProgressDisplay, format_each_seed
from gradhorizon.terminal.reasons import phase as phase_of_work
from gradhorizon.training.ensemble import Member, Outcome
from gradhorizon.training.module import EnsembleModule
from gradhorizon.training.recorder import MemberFiles, Recorder


@dataclass(frozen=True)
class Validation:
    """On what members are validated, when, and what follows.

    Attributes:
        batches: held-out, on the device.
        every_steps: optimizer steps between two; the last step is always followed by one.
        stop_when_solved: freeze a member at the validation that finds it solved.
    """

    batches: Sequence[Batch]
    every_steps: int
    stop_when_solved: bool


@dataclass(frozen=True)
class Outputs:
    """What a fit keeps, and shows.

    Attributes:
        recorder: takes the measurements.
        files: seed -> the member's folder.
        progress: the display.
        title: what the display calls the run.
    """

    recorder: Recorder
    files: dict[int, MemberFiles]
    progress: ProgressDisplay
    title: str


class RunCallback(pl.Callback):
    """Drives validation, probes, outcomes, commits and the progress display of one fit.

    Args:
        module: what is trained.
        outputs: where it is recorded and shown.
        validation: on what, and when.
        settings: intervals.
        num_steps: the budget, in optimizer steps.
    """

    def __init__(
        self,
        module: EnsembleModule,
        outputs: Outputs,
        validation: Validation,
        settings: TrainerSettings,
        num_steps: int,
    ) -> None:
        self.module = module
        self.recorder, self.files, self.progress = outputs.recorder, outputs.files, outputs.progress
        self.title = outputs.title
        self.validation = validation
        self.settings = settings
        self.num_steps = num_steps
        self._accuracy = float("nan")
        self._validation_losses: dict[int, float] = {}
        self._committed_at = time.monotonic()
        self._looked_at_s = time.time()  # which goes on while this process, or its machine, is suspended

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the members before their first step."""
        del pl_module
        self.progress.start(self.num_steps, self.module.first_step, self.title)
        if self.module.first_step == 0:
            for member in self.module.ensemble:
                self.files[member.seed].keep(member, 0, "init")
                self.recorder.probe(member, 0, "init")
            self._validate(0, "init")
            self._end_members(trainer, 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Everything that happens between two optimizer steps."""
        del pl_module, outputs, batch
        self._leave_if_taken_over()
        step = self.module.first_step + batch_idx + 1
        self._log_training_metrics(step - 1)
        for member in self.module.ensemble:
            if member.is_training and step < self.num_steps and self.recorder.probe(member, step, "train"):
                self._keep_if_asked(member, step)
        is_validation = step % self.validation.every_steps == 0 or step == self.num_steps
        if is_validation:
            self._validate(step, "last" if step == self.num_steps else "train")
        self._end_members(trainer, step)
        is_stopping = stopping.is_requested() and not trainer.should_stop
        is_commit_due = is_validation and time.monotonic() - self._committed_at >= self.settings.checkpoint_every_s
        if is_commit_due or is_stopping:
            self._commit(step)
        self._show(step)
        if is_stopping:
            raise stopping.Stopped

    def _leave_if_taken_over(self) -> None:
        now_s = time.time()
        if abs(now_s - self._looked_at_s) >= claims.HEARTBEAT_S:
            self._looked_at_s = now_s
            for files in self.files.values():
                check_held(files.folder)

    def _keep_if_asked(self, member: Member, step: int) -> None:
        if self.settings.keep_probe_checkpoints:
            self.files[member.seed].keep(member, step, "train")

    def _log_training_metrics(self, step: int) -> None:
        if step % self.settings.log_every_steps == 0:
            values = {member.seed: member.last_metrics for member in self.module.ensemble if member.is_training}
            self.recorder.metrics(step, "train", values, "init" if step == 0 else "train")

    def _validate(self, step: int, phase: str) -> None:
        task = self.module.ensemble.task
        values: dict[int, dict[str, float]] = {}
        for member in self.module.ensemble:
            if member.is_training:
                with phase_of_work(f"validation at step {step}"):
                    values[member.seed] = self.module.ensemble.evaluate(member, self.validation.batches)
                self._validation_losses[member.seed] = values[member.seed]["loss"]
                if member.solved_at is None and task.is_solved(values[member.seed]):
                    member.solved_at = step
                    self.recorder.probe(member, step, "solved")
                    self.files[member.seed].keep(member, step, "solved")
                    if self.validation.stop_when_solved:
                        member.outcome = Outcome("solved", step)
        self.recorder.metrics(step, "validation", values, phase)
        if values:
            self._accuracy = sum(metrics["accuracy"] for metrics in values.values()) / len(values)

    def _end_members(self, trainer: pl.Trainer, step: int) -> None:
        if step < self.num_steps and all(member.is_training for member in self._open_members()):
            return
        for member, optimizer in zip(self.module.ensemble, self.module.member_optimizers(), strict=True):
            files = self.files[member.seed]
            if files.is_closed:
                continue
            if member.is_training and step == self.num_steps:
                member.outcome = _fate(member, step, self._validation_losses[member.seed])
                self._last_look(member, step, "diverged" if member.outcome.kind == "diverged" else "last")
            elif member.outcome is not None and member.outcome.kind == "diverged":
                self._last_look(member, member.outcome.step, "diverged")
            if member.outcome is not None:
                files.close(member, optimizer.optimizer.state_dict(), step)
        trainer.should_stop = all(not member.is_training for member in self.module.ensemble)

    def _open_members(self) -> list[Member]:
        return [member for member in self.module.ensemble if not self.files[member.seed].is_closed]

    def _last_look(self, member: Member, step: int, phase: str) -> None:
        self.recorder.probe(member, step, phase)
        self.files[member.seed].keep(member, step, phase)

    def _commit(self, step: int) -> None:
        for member, optimizer in zip(self.module.ensemble, self.module.member_optimizers(), strict=True):
            if not self.files[member.seed].is_closed:
                self.files[member.seed].commit(member, optimizer.optimizer.state_dict(), step)
        self._committed_at = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the display with how the members ended."""
        del trainer, pl_module
        self.progress.finish(_ends(self.module.ensemble))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back, and say from where the members will go on."""
        del trainer, pl_module
        why = "as asked" if isinstance(exception, stopping.Stopped) else f"by {type(exception).__name__}"
        self.progress.finish(f"stopped {why}; launch the same command again to go on")

    def _show(self, step: int) -> None:
        members = list(self.module.ensemble)
        live = [member for member in members if member.is_training] or members
        norms = [norm for member in live if (norm := self.module.last_gradient_norms.get(member.seed)) is not None]
        self.progress.update(
            step,
            loss=statistics.median(member.last_loss for member in live),
            accuracy=self._accuracy,
            gradient_norm=statistics.median(norms) if norms else None,
            num_solved=sum(member.solved_at is not None for member in members),
            num_members=len(members),
        )


def _fate(member: Member, last_step: int, last_loss: float) -> Outcome:
    if not math.isfinite(last_loss):
        return Outcome("diverged", last_step)
    if member.solved_at is None:
        return Outcome("budget exhausted", last_step)
    return Outcome("solved", member.solved_at)


def _ends(members: Iterable[Member]) -> str:
    seeds: dict[Outcome, list[int]] = {}
    for member in members:
        if member.outcome is not None:
            seeds.setdefault(member.outcome, []).append(member.seed)
    return ", ".join(
        f"{outcome.kind} at step {outcome.step} ({format_each_seed(own)})" for outcome, own in seeds.items()
    )
