"""The Lightning side of a run: the stream of batches, and the module that steps every member."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch.utils.data import DataLoader, IterableDataset

from gradhorizon.kernels.casting import real_dtype
from gradhorizon.machine.randomness import seed_generators
from gradhorizon.measurements.measurement import StepReading
from gradhorizon.tasks.task import Batch, Task
from gradhorizon.terminal.reasons import phase
from gradhorizon.training.ensemble import Ensemble, Member, Outcome
from gradhorizon.training.streams import noise_seed, training_batch

StepBatches = tuple[Batch | None, ...]


@runtime_checkable
class StepRecorder(Protocol):
    """Reads the live training step."""

    def wants_reading(self, step: int) -> bool:
        """Whether it reads the step that follows `step` completed ones."""

    def reading(self, member: Member, reading: StepReading, step: int) -> None:
        """Take a reading of one member."""


class TrainingStream(IterableDataset[StepBatches]):
    """One batch per member and optimizer step; None for members that have ended.

    Args:
        ensemble: the members.
        task: the protocol.
        data_seed: see `gradhorizon.training.streams`.
        batch_size: samples per member and step.
        first_step: optimizer steps already completed.
        num_steps: the budget, in optimizer steps from the very start.
    """

    def __init__(
        self, ensemble: Ensemble, task: Task, data_seed: int, batch_size: int, first_step: int, num_steps: int
    ) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.task = task
        self.data_seed = data_seed
        self.batch_size = batch_size
        self.steps = range(first_step, num_steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[StepBatches]:
        """Batches from the first step that is not completed to the budget."""
        for step in self.steps:
            yield tuple(self._batch(member, step) if member.is_training else None for member in self.ensemble)

    def _batch(self, member: Member, step: int) -> Batch:
        return training_batch(self.task, self.data_seed, member.seed, step, self.batch_size)

    def loader(self) -> DataLoader[StepBatches]:
        """A loader that hands the batches on as they are."""
        return DataLoader(self, batch_size=None, collate_fn=_as_they_are)  # type: ignore[arg-type]


def _as_they_are(batches: StepBatches) -> StepBatches:
    return batches


class EnsembleModule(pl.LightningModule):
    """Steps every member of an ensemble with its own batch, optimizer, clipping and fate.

    Args:
        ensemble: the members.
        build_optimizer: parameters -> optimizer.
        data_seed: see `gradhorizon.training.streams`.
        first_step: optimizer steps already completed.
        recorder: takes a reading of a member's gradient before the optimizer moves, when it wants one.
        log_every_steps: optimizer steps between training metrics.
        optimizer_states: one state per member, to resume from.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        build_optimizer: Callable[..., torch.optim.Optimizer],
        data_seed: int,
        first_step: int = 0,
        recorder: StepRecorder | None = None,
        log_every_steps: int = 50,
        optimizer_states: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.ensemble = ensemble
        self.build_optimizer = build_optimizer
        self.data_seed = data_seed
        self.first_step = first_step
        self.recorder = recorder
        self.log_every_steps = log_every_steps
        self.optimizer_states = optimizer_states
        self.last_gradient_norms: dict[int, float] = {}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer per member, continued where there is a state."""
        optimizers = [self.build_optimizer(member.network.parameters()) for member in self.ensemble]
        for optimizer, state in zip(optimizers, self.optimizer_states or (), strict=False):
            optimizer.load_state_dict(state)
        return optimizers

    def transfer_batch_to_device(
        self,
        batch: StepBatches,
        device: torch.device,
        dataloader_idx: int,  # noqa: ARG002
    ) -> StepBatches:
        """The batches on `device`, in the parameters' dtype."""
        dtype = real_dtype(self)
        return tuple(item if item is None else item.to(device, dtype) for item in batch)

    def training_step(self, batch: StepBatches, batch_idx: int) -> None:
        """One optimizer step of every member that still trains."""
        step = self.first_step + batch_idx
        wants_reading = self.recorder is not None and self.recorder.wants_reading(step)
        with_metrics = step % self.log_every_steps == 0
        for member, optimizer, own in zip(self.ensemble, self.member_optimizers(), batch, strict=True):
            if own is not None and member.is_training:
                seed_generators(noise_seed(self.data_seed, member.seed, step))
                with phase(f"training step {step}"):
                    self._step(member, optimizer, own, step, wants_reading, with_metrics)

    def member_optimizers(self) -> list[LightningOptimizer]:
        """Lightning's optimizers, one per member."""
        found = self.optimizers()
        return found if isinstance(found, list) else [found]

    def _step(
        self,
        member: Member,
        optimizer: LightningOptimizer,
        batch: Batch,
        step: int,
        wants_reading: bool,
        with_metrics: bool,
    ) -> None:
        optimizer.zero_grad()
        loss = self.ensemble.training_loss(member, batch, with_metrics)
        member.last_loss = float(loss.detach())
        if not torch.isfinite(loss.detach()):
            member.outcome = Outcome("diverged", step)
            return
        self.manual_backward(loss)
        reading = self.ensemble.clip(member, wants_reading)
        if reading is not None and self.recorder is not None:
            self.last_gradient_norms[member.seed] = float(reading.total_unclipped)
            self.recorder.reading(member, reading, step)
        optimizer.step()
