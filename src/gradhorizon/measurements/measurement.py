"""The contract of a measurement: one quantity, a schedule, rows out, and nothing else changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import pandas as pd
import torch
from torch import Tensor

from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.network import Network
from gradhorizon.records.tables import Table
from gradhorizon.tasks.task import Batch, Task


@dataclass(frozen=True)
class StepReading:
    """What a step measurement may read of one live training step of one member.

    Attributes:
        norms_unclipped: parameter name -> norm of the batch-mean gradient, before clipping; 0-dim float64.
        total_unclipped: norm of all of them together, before clipping.
        clip_norm: the threshold, or None without clipping.
        num_clipped: of the steps since the last reading, this one included, how many were clipped.
        num_steps: how many steps that were.
    """

    norms_unclipped: dict[str, Tensor]
    total_unclipped: Tensor
    clip_norm: float | None
    num_clipped: int
    num_steps: int


class TrainingStep(Protocol):
    """What a training step computes besides its backward pass and its optimizer's step."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of a training batch, a 0-dim tensor with gradient."""
        ...

    def clip(self) -> None:
        """Clip the gradient in place, as the run does."""
        ...


@dataclass(frozen=True)
class Program:
    """What a cost measurement may run: one member's training, as it is configured.

    Attributes:
        network: the member's own network on its device; a measurement works on a copy.
        task: the protocol.
        batch_size: B of a training step.
        build_optimizer: parameters -> optimizer.
        build_training: network -> its training step, as the run computes it.
        precision: 32-true, 64-true or bf16-mixed.
    """

    network: Network
    task: Task
    batch_size: int
    build_optimizer: Callable[..., torch.optim.Optimizer]
    build_training: Callable[[Network], TrainingStep]
    precision: str


class Measurement(ABC):
    """One quantity with a schedule; it leaves parameters, gradients, RNG state and mode bit-identical.

    Args:
        schedule: when it fires.
    """

    table: ClassVar[Table]
    is_added_later: ClassVar[bool] = True
    """Whether a run that has ended can gain it, from a checkpoint alone."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def check(self, network: Network, task: Task) -> None:  # noqa: B027, most have nothing to refuse
        """Refuse, before any training, a network or task that the quantity cannot be measured on.

        Args:
            network: built as it will be trained, of no member.
            task: the protocol.

        Raises:
            ValueError: what is wrong with it, and what to do.
        """

    @staticmethod
    def digest(rows: pd.DataFrame, has_two_directions: bool) -> dict[str, float] | None:  # noqa: ARG004
        """The few numbers that are worth a curve over training in W&B; by default the median of each float column.

        W&B runs are rebuilt from records, where a table's digest is found by its place: in the module of its name.

        Args:
            rows: of one member at one probe, with the lead columns; at least one.
            has_two_directions: whether the network is bidirectional.

        Returns:
            ``split/quantity`` or ``split/quantity/qualifier`` -> value; None for the default.
        """
        return None


class ProbeMeasurement(Measurement):
    """A quantity read from a float64 copy of the network on the fixed probe batch."""

    @abstractmethod
    def read(self, probe: Probe) -> pd.DataFrame:
        """Rows of the quantity, with exactly the table's own columns (no lead columns)."""


class StepMeasurement(Measurement):
    """A quantity read from the live training step, before the optimizer moves."""

    is_added_later = False

    @abstractmethod
    def read(self, step: StepReading) -> pd.DataFrame:
        """Rows of the quantity, with exactly the table's own columns (no lead columns)."""


class CostMeasurement(Measurement):
    """What the program itself costs: it runs and times copies, and its numbers are those of the machine."""

    @abstractmethod
    def read(self, program: Program) -> pd.DataFrame:
        """Rows of the quantity, with exactly the table's own columns (no lead columns)."""
