"""The latch of the LSTM paper: lengths, classes, noise, chance, and the oracles that its contract is tested with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gradhorizon.tasks.latch_hochreiter1997 import LatchHochreiter1997
from gradhorizon.tasks.task import Batch, Task

SHORTEST = 4


def targets(inputs: Tensor) -> Tensor:
    """Read off the inputs alone."""
    return torch.tensor([1.0 if sum(row[:3]) > 0 else 0.0 for row in inputs[..., 0].tolist()]).reshape(-1, 1, 1)


def perfect(batch: Batch) -> Tensor:
    """Certain of what is right."""
    return 50.0 * (2.0 * batch.targets.double() - 1.0)


def blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    """The best for the loss is 1/2 at all times; the best for the accuracy always names one class."""
    return torch.zeros(batch.targets.shape, dtype=torch.float64)


@pytest.fixture(scope="module")
def task() -> LatchHochreiter1997:
    return LatchHochreiter1997(40)


@pytest.fixture(scope="module")
def batch(task: LatchHochreiter1997) -> Batch:
    return task.sample(np.random.default_rng(1), 10_000, 40)


@pytest.mark.parametrize(("seq_len", "longest"), [(4, 4), (39, 42), (100, 110)])
def test_lengths_reach_from_seq_len_to_a_tenth_more(seq_len: int, longest: int) -> None:
    task, generator = LatchHochreiter1997(seq_len), np.random.default_rng(1)
    drawn = {task.sample(generator, 1).inputs.shape[1] for _ in range(300)}
    assert sorted(drawn) == list(range(seq_len, longest + 1))


@pytest.mark.parametrize("input_len", [39, 45])
def test_a_length_that_the_protocol_never_draws_is_refused(input_len: int, task: LatchHochreiter1997) -> None:
    with pytest.raises(ValueError, match=f"`input_len` must lie in 40 … 44 .*got {input_len}"):
        task.sample(np.random.default_rng(1), 3, input_len)


def test_classes_are_equally_likely(batch: Batch) -> None:
    num_ones = int(batch.targets.sum())
    assert stats.binomtest(num_ones, 10_000).pvalue > 1e-3


def test_first_three_values_are_the_sign_and_agree(batch: Batch) -> None:
    assert torch.equal(batch.inputs[:, :3, 0], batch.factors["sign"].float().unsqueeze(1).expand(-1, 3))


def test_later_values_are_noise_of_variance_a_fifth(batch: Batch) -> None:
    values = batch.inputs[:1000, 3:, 0].flatten().numpy()
    assert stats.kstest(values, stats.norm(scale=math.sqrt(0.2)).cdf).pvalue > 1e-3


def test_noise_tells_nothing_of_the_class(batch: Batch) -> None:
    ones = batch.factors["sign"] > 0
    noise = batch.inputs[:, 3:, 0].mean(dim=1).numpy()
    assert stats.ks_2samp(noise[ones.numpy()], noise[~ones.numpy()]).pvalue > 1e-3


@pytest.mark.parametrize(("error", "accuracy"), [(0.19, 1.0), (0.21, 0.0)])
def test_accuracy_allows_an_error_of_a_fifth(error: float, accuracy: float, task: LatchHochreiter1997) -> None:
    target = torch.tensor([[[0.0]], [[1.0]]])
    assert task.metrics((target - error * (2 * target - 1)).logit(), target)["accuracy"].tolist() == [accuracy] * 2


def test_chance_accuracy_is_that_of_one_class_at_all_times(task: LatchHochreiter1997, batch: Batch) -> None:
    scores = task.metrics(torch.full_like(batch.targets, 50.0), batch.targets)["accuracy"]
    assert float(scores.mean()) == pytest.approx(task.chance["accuracy"], abs=4 * 0.5 / 100)


@pytest.mark.parametrize(("num_wrong", "is_solved"), [(0, True), (1, False)])
def test_solved_with_none_of_256_wrong(num_wrong: int, is_solved: bool, task: LatchHochreiter1997) -> None:
    assert task.is_solved({"accuracy": 1 - num_wrong / 256, "loss": 0.0}) is is_solved
