"""Adding of the LSTM paper: lengths, marks, edge rules, chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from gradhorizon.tasks.adding_hochreiter1997 import AddingHochreiter1997
from gradhorizon.tasks.task import Batch, Task

BATCH_SIZE = 20_000
SHORTEST = 20


def targets(inputs: Tensor) -> Tensor:
    sums = [sum(value for value, mark in row if mark == 1) for row in inputs.tolist()]
    return torch.tensor([0.5 + total / 4 for total in sums]).reshape(-1, 1, 1)


def perfect(batch: Batch) -> Tensor:
    return batch.targets.double().logit()


def blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    return torch.zeros(batch.targets.shape, dtype=torch.float64)


def density(y: float) -> float:
    """Of the target: triangular, or uniform on [1/4, 3/4] in the tenth of all sequences where the first value is 0."""
    triangular = 2 * (1 - abs(2 * y - 1))
    uniform = 2.0 if 0.25 <= y <= 0.75 else 0.0
    return 0.9 * triangular + 0.1 * uniform


@pytest.fixture(scope="module")
def task() -> AddingHochreiter1997:
    return AddingHochreiter1997(40)


@pytest.fixture(scope="module")
def batch(task: AddingHochreiter1997) -> Batch:
    return task.sample(np.random.default_rng(1), BATCH_SIZE)


def drawn_lengths(seq_len: int) -> list[int]:
    task, generator = AddingHochreiter1997(seq_len), np.random.default_rng(1)
    return [task.sample(generator, 1).inputs.shape[1] for _ in range(1100)]


@pytest.mark.parametrize(("seq_len", "longest"), [(20, 22), (39, 42), (100, 110)])
def test_lengths_reach_from_seq_len_to_a_tenth_more(seq_len: int, longest: int) -> None:
    assert sorted(set(drawn_lengths(seq_len))) == list(range(seq_len, longest + 1))


def test_lengths_are_uniform() -> None:
    assert stats.chisquare(np.bincount(drawn_lengths(100))[100:]).pvalue > 1e-3


@pytest.mark.parametrize("input_len", [40, 43, 44])
def test_a_given_length_is_kept(input_len: int, task: AddingHochreiter1997) -> None:
    batch = task.sample(np.random.default_rng(1), 3, input_len)
    assert batch.inputs.shape[1] == input_len
    assert batch.loss_steps == (input_len,)


@pytest.mark.parametrize("input_len", [39, 45])
def test_a_length_that_the_protocol_never_draws_is_refused(input_len: int, task: AddingHochreiter1997) -> None:
    expected = f"`input_len` must lie in 40 … 44 for adding_hochreiter1997 at seq_len 40, got {input_len}"
    with pytest.raises(ValueError, match=expected):
        task.sample(np.random.default_rng(1), 3, input_len)


def test_first_mark_is_uniform_over_ten_pairs(batch: Batch) -> None:
    steps, counts = np.unique(batch.factors["first_marked_step"].numpy(), return_counts=True)
    assert steps.tolist() == list(range(1, 11))
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("first", [1, 3, 10])
def test_second_mark_is_uniform_over_the_unmarked_pairs_of_the_first_half(first: int, batch: Batch) -> None:
    second = batch.factors["second_marked_step"][batch.factors["first_marked_step"] == first].numpy()
    steps, counts = np.unique(second, return_counts=True)
    assert steps.tolist() == [step for step in range(1, 21) if step != first]
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("seq_len", [20, 21, 41])
def test_both_marks_lie_half_a_sequence_before_the_end(seq_len: int) -> None:
    task = AddingHochreiter1997(seq_len)
    batch = task.sample(np.random.default_rng(1), 5000, task.input_len)
    last = torch.maximum(batch.factors["first_marked_step"], batch.factors["second_marked_step"]).max()
    assert int(last) == seq_len // 2


def test_factors_are_where_the_marks_are(batch: Batch) -> None:
    marked = (batch.inputs[..., 1] == 1).nonzero()[:, 1].reshape(-1, 2) + 1
    steps = torch.stack([batch.factors["first_marked_step"], batch.factors["second_marked_step"]], dim=1)
    assert torch.equal(marked, steps.sort(dim=1).values)


def test_ends_are_minus_one_unless_marked(batch: Batch) -> None:
    marks = batch.inputs[..., 1]
    is_first_marked = (batch.factors["first_marked_step"] == 1) | (batch.factors["second_marked_step"] == 1)
    assert torch.equal(marks[:, 0], torch.where(is_first_marked, 1.0, -1.0))
    assert marks[:, -1].unique().tolist() == [-1.0]


def test_pairs_between_the_ends_are_marked_one_or_not_at_all(batch: Batch) -> None:
    assert batch.inputs[:, 1:-1, 1].unique().tolist() == [0.0, 1.0]


def test_first_value_is_zero_exactly_where_it_is_marked_first(batch: Batch) -> None:
    assert torch.equal(batch.inputs[:, 0, 0] == 0, batch.factors["first_marked_step"] == 1)


def test_other_values_are_uniform_from_minus_one_to_one(batch: Batch) -> None:
    values = batch.inputs[:2000, 1:, 0].flatten().numpy()
    assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_chance_loss_is_one_point_nine_forty_eighths(task: AddingHochreiter1997) -> None:
    assert task.chance["loss"] == pytest.approx(1.9 / 48, rel=1e-12)


def test_chance_loss_is_the_variance_of_the_target(task: AddingHochreiter1997) -> None:
    variance = integrate.quad(lambda y: (y - 0.5) ** 2 * density(y), 0, 1, points=[0.25, 0.5, 0.75])[0]
    assert task.chance["loss"] == pytest.approx(variance, rel=1e-9)


def test_chance_accuracy_is_the_mass_within_the_tolerance(task: AddingHochreiter1997) -> None:
    mass = integrate.quad(density, 0.46, 0.54, points=[0.5])[0]
    assert task.chance["accuracy"] == pytest.approx(mass, rel=1e-9)


@pytest.mark.parametrize("shift", [-0.2, -0.05, -0.01, 0.01, 0.05, 0.2])
def test_no_other_constant_is_within_the_tolerance_more_often(shift: float, task: AddingHochreiter1997) -> None:
    mass = integrate.quad(density, 0.46 + shift, 0.54 + shift, points=[0.25, 0.5, 0.75])[0]
    assert mass < task.chance["accuracy"]


@pytest.mark.parametrize("seq_len", [20, 40])
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_chance_agrees_with_sampling(metric: str, seq_len: int) -> None:
    task = AddingHochreiter1997(seq_len)
    batch = task.sample(np.random.default_rng(2), 100_000)
    scores = task.metrics(torch.zeros_like(batch.targets), batch.targets)[metric]
    standard_error = float(scores.std()) / math.sqrt(len(scores))
    assert float(scores.mean()) == pytest.approx(task.chance[metric], abs=4 * standard_error)
    assert 4 * standard_error < 0.03 * task.chance[metric]


def test_output_is_logistic(task: AddingHochreiter1997) -> None:
    loss = task.loss(torch.full((1, 1, 1), math.log(3.0)), torch.full((1, 1, 1), 0.5))
    assert loss.item() == pytest.approx(0.25**2, rel=1e-6)


@pytest.mark.parametrize(("error", "accuracy"), [(0.039, 1.0), (-0.039, 1.0), (0.041, 0.0), (-0.041, 0.0)])
def test_accuracy_allows_an_error_of_four_hundredths(error: float, accuracy: float, task: AddingHochreiter1997) -> None:
    target = torch.full((1, 1, 1), 0.6)
    assert task.metrics((target + error).logit(), target)["accuracy"].item() == accuracy


@pytest.mark.parametrize(("num_wrong", "is_solved"), [(0, True), (3, True), (4, False)])
def test_solved_with_at_most_three_of_2560_wrong(num_wrong: int, is_solved: bool, task: AddingHochreiter1997) -> None:
    accuracy = float((torch.arange(2560) >= num_wrong).float().mean())
    assert task.is_solved({"accuracy": accuracy, "loss": 0.0}) is is_solved
