"""Temporal order without a frame: windows, chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gradhorizon.tasks.task import Batch, Task
from gradhorizon.tasks.temporal_order_pascanu2013 import TemporalOrderPascanu2013
from tests.oracles_tasks import certain_of_class

EVERY_CLASS = torch.arange(4).reshape(4, 1)
SHORTEST = 10


def targets(inputs: Tensor) -> Tensor:
    rows = ["".join("ABcdef"[token] for token in row) for row in inputs.argmax(dim=-1).tolist()]
    words = ["".join(letter for letter in row if letter in "AB") for row in rows]
    return torch.tensor([["AA", "AB", "BA", "BB"].index(word) for word in words]).reshape(-1, 1)


def perfect(batch: Batch) -> Tensor:
    return certain_of_class(batch, 4)


def blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    return torch.zeros(*batch.targets.shape, 4, dtype=torch.float64)


@pytest.fixture(scope="module")
def task() -> TemporalOrderPascanu2013:
    return TemporalOrderPascanu2013(100)


@pytest.fixture(scope="module")
def batch(task: TemporalOrderPascanu2013) -> Batch:
    return task.sample(np.random.default_rng(1), 8000)


@pytest.fixture(scope="module")
def words(batch: Batch) -> list[str]:
    return ["".join("ABcdef"[token] for token in row) for row in batch.inputs.argmax(dim=-1).tolist()]


def test_two_symbols_are_relevant_and_stand_where_the_factors_say(batch: Batch, words: list[str]) -> None:
    found = [[step for step, symbol in enumerate(word, start=1) if symbol in "AB"] for word in words]
    steps = torch.stack([batch.factors["first_symbol_step"], batch.factors["second_symbol_step"]], dim=1)
    assert found == steps.tolist()


@pytest.mark.parametrize(
    ("seq_len", "first", "second"),
    [(100, (11, 20), (51, 60)), (10, (2, 2), (6, 6)), (57, (6, 10), (29, 33))],
)
def test_windows_are_reached_to_both_ends_and_never_left(
    seq_len: int, first: tuple[int, int], second: tuple[int, int]
) -> None:
    factors = TemporalOrderPascanu2013(seq_len).sample(np.random.default_rng(1), 2000).factors
    assert factors["first_symbol_step"].unique().tolist() == list(range(first[0], first[1] + 1))
    assert factors["second_symbol_step"].unique().tolist() == list(range(second[0], second[1] + 1))


@pytest.mark.parametrize("factor", ["first_symbol_step", "second_symbol_step"])
def test_positions_are_uniform_over_their_window(factor: str, batch: Batch) -> None:
    counts = np.unique(batch.factors[factor].numpy(), return_counts=True)[1]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_classes_are_uniform(batch: Batch) -> None:
    assert stats.chisquare(torch.bincount(batch.targets.flatten(), minlength=4).numpy()).pvalue > 1e-3


def test_distractors_are_uniform(words: list[str]) -> None:
    text = "".join(words)
    assert stats.chisquare([text.count(symbol) for symbol in "cdef"]).pvalue > 1e-3


def test_only_the_last_step_of_one_length_is_a_loss_step(task: TemporalOrderPascanu2013) -> None:
    batch = task.sample(np.random.default_rng(1), 3, input_len=120)
    assert batch.inputs.shape[1] == 100
    assert batch.loss_steps == (100,)


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_chance_is_what_uniform_outputs_score_over_all_classes(metric: str, task: TemporalOrderPascanu2013) -> None:
    scored = task.metrics(torch.zeros(4, 1, 4, dtype=torch.float64), EVERY_CLASS)[metric].mean()
    assert float(scored) == pytest.approx(task.chance[metric], rel=1e-12)


def test_chance_loss_is_ln_four(task: TemporalOrderPascanu2013) -> None:
    assert task.chance["loss"] == pytest.approx(math.log(4), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_constant_has_a_smaller_loss(seed: int, task: TemporalOrderPascanu2013) -> None:
    torch.manual_seed(seed)
    predictions = (0.1 * torch.randn(4, dtype=torch.float64)).expand(4, 1, 4)
    assert float(task.loss(predictions, EVERY_CLASS).mean()) > task.chance["loss"]


@pytest.mark.parametrize(("num_wrong", "is_solved"), [(0, True), (99, True), (100, False)])
def test_solved_with_less_than_one_percent_of_10000_wrong(
    num_wrong: int, is_solved: bool, task: TemporalOrderPascanu2013
) -> None:
    accuracy = float((torch.arange(10_000) >= num_wrong).float().mean())
    assert task.is_solved({"accuracy": accuracy, "loss": 0.0}) is is_solved
