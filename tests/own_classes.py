"""A task and a measurement that are no part of the package, and tasks that break one rule each."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gradhorizon.measurements.measurement import ProbeMeasurement, StepMeasurement, StepReading
from gradhorizon.measurements.probe import Probe
from gradhorizon.records.tables import Column, Table
from gradhorizon.tasks.task import Batch, LastStepTask, SoftmaxTask, one_answer


class Parity(SoftmaxTask, LastStepTask):
    """Whether the number of ones is odd."""

    input_size = 1
    output_size = 2
    chance = {"loss": math.log(2), "accuracy": 0.5}  # noqa: RUF012
    solved_levels = {"accuracy": 0.99}  # noqa: RUF012

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        bits = generator.integers(0, 2, (batch_size, self.seq_len, 1))
        return one_answer(bits.astype(np.float32), bits.sum(axis=1) % 2)


class Ten(Parity):
    """Of one length, which nobody sets."""

    def __init__(self) -> None:
        super().__init__(10)


class WeightNorms(ProbeMeasurement):
    """Norm of every parameter."""

    table = Table(
        "weight_norms",
        "norm of every parameter",
        (
            Column("parameter", "string", "name", "name of the tensor"),
            Column("norm", "float64", "dimensionless", "its Frobenius norm"),
        ),
    )

    def read(self, probe: Probe) -> pd.DataFrame:
        norms = [(name, float(own.detach().norm())) for name, own in probe.network.named_parameters()]
        return pd.DataFrame(norms, columns=["parameter", "norm"])


class TotalNorm(StepMeasurement):
    """Norm of the gradient, read while a step is taken."""

    table = Table("total_norm", "norm of the gradient", (Column("norm", "float64", "dimensionless", "it"),))

    def read(self, step: StepReading) -> pd.DataFrame:
        return pd.DataFrame({"norm": [float(step.total_unclipped)]})


class Untold(ProbeMeasurement):
    """Abstract: it reads nothing."""


def _with(batch: Batch, **changes: object) -> Batch:
    return Batch(**{**vars(batch), **changes})


class NoParent(Parity):
    def __init__(self, seq_len: int) -> None:
        del seq_len


class NoFeatures(Parity):
    input_size = 0


class TextSize(Parity):
    output_size = "two"  # type: ignore[assignment]


class NoChance(Parity):
    chance = {"accuracy": 0.5}  # noqa: RUF012


class InfiniteChance(Parity):
    chance = {"loss": math.inf}  # noqa: RUF012


class Easy(Parity):
    solved_levels = {"accuracy": 0.5}  # noqa: RUF012


class NoHeldOut(Parity):
    num_held_out = 0


class Rough(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        raise KeyError("lost")


class NoBatch(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        return super().sample(generator, batch_size, input_len).inputs  # type: ignore[return-value]


class Doubles(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        batch = super().sample(generator, batch_size, input_len)
        return _with(batch, inputs=batch.inputs.double())


class Flat(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        batch = super().sample(generator, batch_size, input_len)
        return _with(batch, inputs=batch.inputs[..., 0])


class Longer(Parity):
    @property
    def input_len(self) -> int:
        return self.seq_len + 1


class Holes(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        batch = super().sample(generator, batch_size, input_len)
        return _with(batch, inputs=torch.where(batch.inputs == 1, math.nan, batch.inputs))


class FlatTargets(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        batch = super().sample(generator, batch_size, input_len)
        return _with(batch, targets=batch.targets[:, 0])


class FloatTargets(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        batch = super().sample(generator, batch_size, input_len)
        return _with(batch, targets=batch.targets.float())


class StepZero(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        return _with(super().sample(generator, batch_size, input_len), loss_steps=(0,))


class Unsorted(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        return _with(super().sample(generator, batch_size, input_len), loss_steps=(2, 1))


class BeyondEnd(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        return _with(super().sample(generator, batch_size, input_len), loss_steps=(self.seq_len + 1,))


class OneFactor(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        return _with(super().sample(generator, batch_size, input_len), factors={"delay": torch.zeros(1)})


class Wild(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        return super().sample(np.random.default_rng(), batch_size)


class WildTorch(Parity):
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        batch = super().sample(generator, batch_size, input_len)
        return _with(batch, inputs=batch.inputs + torch.randn(batch.inputs.shape))


class WildHeldOut(Parity):
    def sample_held_out(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        del generator
        return super().sample(np.random.default_rng(), batch_size, input_len)


class Counting(Parity):
    num_drawn = 0

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        self.num_drawn += 1
        batch = super().sample(generator, batch_size, input_len)
        return _with(batch, inputs=batch.inputs + self.num_drawn)


class MeanLoss(Parity):
    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return super().loss(predictions, targets).mean()


class FixedLoss(Parity):
    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return super().loss(predictions, targets).detach()


class NoAccuracy(Parity):
    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": super().metrics(predictions, targets)["loss"]}


class OneMetric(Parity):
    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {name: value.mean() for name, value in super().metrics(predictions, targets).items()}
