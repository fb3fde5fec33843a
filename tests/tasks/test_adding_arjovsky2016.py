"""Adding with a mark in each half: windows, chance, the plateau of short memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.tasks.task import Batch, Task

BATCH_SIZE = 20_000
SHORTEST = 2


def targets(inputs: Tensor) -> Tensor:
    sums = [sum(value for value, mark in row if mark == 1) for row in inputs.tolist()]
    return torch.tensor(sums).reshape(-1, 1, 1)


def perfect(batch: Batch) -> Tensor:
    return batch.targets.double()


def blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    return torch.ones(batch.targets.shape, dtype=torch.float64)


def density(y: float) -> float:
    """Of the sum of two uniform values."""
    return 1 - abs(y - 1)


@pytest.fixture(scope="module")
def task() -> AddingArjovsky2016:
    return AddingArjovsky2016(24)


@pytest.fixture(scope="module")
def batch(task: AddingArjovsky2016) -> Batch:
    return task.sample(np.random.default_rng(1), BATCH_SIZE)


@pytest.mark.parametrize("seq_len", [2, 3, 7, 24])
def test_each_half_holds_one_mark_that_reaches_both_its_ends(seq_len: int) -> None:
    batch = AddingArjovsky2016(seq_len).sample(np.random.default_rng(1), 2000)
    half = seq_len // 2
    assert batch.factors["first_marked_step"].unique().tolist() == list(range(1, half + 1))
    assert batch.factors["second_marked_step"].unique().tolist() == list(range(half + 1, seq_len + 1))


@pytest.mark.parametrize("factor", ["first_marked_step", "second_marked_step"])
def test_marks_are_uniform_over_their_half(factor: str, batch: Batch) -> None:
    counts = np.unique(batch.factors[factor].numpy(), return_counts=True)[1]
    assert counts.size == 12
    assert stats.chisquare(counts).pvalue > 1e-3


def test_factors_are_where_the_marks_are(batch: Batch) -> None:
    marked = batch.inputs[..., 1].nonzero()[:, 1].reshape(-1, 2) + 1
    assert torch.equal(marked[:, 0], batch.factors["first_marked_step"])
    assert torch.equal(marked[:, 1], batch.factors["second_marked_step"])


def test_marks_are_zero_or_one(batch: Batch) -> None:
    assert batch.inputs[..., 1].unique().tolist() == [0.0, 1.0]


def test_values_are_uniform_on_the_unit_interval(batch: Batch) -> None:
    values = batch.inputs[:2000, :, 0].flatten().numpy()
    assert stats.kstest(values, stats.uniform.cdf).pvalue > 1e-3


def test_chance_loss_is_the_variance_of_the_sum(task: AddingArjovsky2016) -> None:
    variance = integrate.quad(lambda y: (y - 1) ** 2 * density(y), 0, 2, points=[1])[0]
    assert task.chance["loss"] == pytest.approx(variance, rel=1e-9)


def test_chance_accuracy_is_the_mass_within_the_tolerance(task: AddingArjovsky2016) -> None:
    mass = integrate.quad(density, 0.92, 1.08, points=[1])[0]
    assert task.chance["accuracy"] == pytest.approx(mass, rel=1e-9)


@pytest.mark.parametrize(("metric", "sign"), [("loss", 1), ("accuracy", -1)])
def test_no_other_constant_does_better(metric: str, sign: int, task: AddingArjovsky2016, batch: Batch) -> None:
    constants = torch.linspace(0, 2, 41)
    scores = [task.metrics(torch.full_like(batch.targets, c), batch.targets)[metric].mean() for c in constants]
    assert float(constants[np.argmin(sign * np.array(scores))]) == pytest.approx(1, abs=0.06)


def test_chance_accuracy_agrees_with_sampling(task: AddingArjovsky2016, batch: Batch) -> None:
    accuracy = task.metrics(torch.ones_like(batch.targets), batch.targets)["accuracy"].mean()
    chance = task.chance["accuracy"]
    standard_error = math.sqrt(chance * (1 - chance) / BATCH_SIZE)
    assert float(accuracy) == pytest.approx(chance, abs=4 * standard_error)


def test_short_memory_plateaus_at_a_twelfth_and_does_not_solve(task: AddingArjovsky2016, batch: Batch) -> None:
    second = batch.inputs[torch.arange(BATCH_SIZE), batch.factors["second_marked_step"] - 1, 0]
    metrics = task.metrics((0.5 + second).reshape(-1, 1, 1), batch.targets)
    standard_error = float(metrics["loss"].std()) / math.sqrt(BATCH_SIZE)
    assert float(metrics["loss"].mean()) == pytest.approx(1 / 12, abs=4 * standard_error)
    assert not task.is_solved({name: float(value.mean()) for name, value in metrics.items()})


@pytest.mark.parametrize(("loss", "is_solved"), [(0.0099, True), (0.0101, False)])
def test_solved_below_a_hundredth(loss: float, is_solved: bool, task: AddingArjovsky2016) -> None:
    assert task.is_solved({"loss": loss, "accuracy": 1.0}) is is_solved


@pytest.mark.parametrize(("error", "accuracy"), [(0.079, 1.0), (-0.079, 1.0), (0.081, 0.0), (-0.081, 0.0)])
def test_accuracy_allows_four_percent_of_the_range(error: float, accuracy: float, task: AddingArjovsky2016) -> None:
    target = torch.full((1, 1, 1), 1.2)
    assert task.metrics(target + error, target)["accuracy"].item() == accuracy


def test_only_the_last_step_is_a_loss_step(batch: Batch) -> None:
    assert batch.loss_steps == (24,)
