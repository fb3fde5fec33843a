"""Copy memory: layout, recall, chance over all positions and over the recall."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gradhorizon.tasks.copy_arjovsky2016 import CopyArjovsky2016
from gradhorizon.tasks.task import Batch, Task
from tests.oracles_tasks import CERTAIN, certain_of_class

SHORTEST = 1


def targets(inputs: Tensor) -> Tensor:
    answers = torch.full(inputs.shape[:2], 8)
    for row, tokens in zip(answers, inputs.argmax(dim=-1).tolist(), strict=True):
        cue = tokens.index(9)
        row[cue + 1 :] = torch.tensor([token for token in tokens if token < 8])
    return answers


def perfect(batch: Batch) -> Tensor:
    return certain_of_class(batch, 9)


def blind(task: Task, batch: Batch) -> Tensor:
    predictions = torch.zeros(*batch.targets.shape, 9, dtype=torch.float64)
    predictions[:, : task.seq_len + 10, 8] = 2 * CERTAIN
    predictions[:, task.seq_len + 10 :, 8] = -2 * CERTAIN
    return predictions


def text(tokens: Tensor) -> list[str]:
    return ["".join("01234567·|"[token] for token in row) for row in tokens.tolist()]


@pytest.fixture
def task() -> CopyArjovsky2016:
    return CopyArjovsky2016(30)


@pytest.fixture
def every_symbol(task: CopyArjovsky2016) -> Tensor:
    """Targets of 8 sequences, in which each recall step asks for each symbol exactly once, shape (8, N)."""
    symbols = (torch.arange(8)[:, None] + torch.arange(10)) % 8
    return torch.cat([torch.full((8, task.seq_len + 10), 8), symbols], dim=1)


@pytest.mark.parametrize("seq_len", [1, 2, 50])
def test_layout_is_symbols_blanks_delimiter_blanks(seq_len: int, generator: np.random.Generator) -> None:
    batch = CopyArjovsky2016(seq_len).sample(generator, 5)
    symbols = text(batch.factors["symbols"])
    blanks = "·" * (seq_len - 1)
    assert text(batch.inputs.argmax(dim=-1)) == [f"{word}{blanks}|··········" for word in symbols]


@pytest.mark.parametrize("seq_len", [1, 2, 50])
def test_symbols_are_due_right_after_the_delimiter(seq_len: int, generator: np.random.Generator) -> None:
    batch = CopyArjovsky2016(seq_len).sample(generator, 5)
    wait = "·" * (seq_len + 10)
    assert text(batch.targets) == [wait + word for word in text(batch.factors["symbols"])]


def test_every_step_is_a_loss_step(generator: np.random.Generator) -> None:
    assert CopyArjovsky2016(30).sample(generator, 1).loss_steps == tuple(range(1, 51))


def test_inputs_are_one_hot(task: CopyArjovsky2016, generator: np.random.Generator) -> None:
    inputs = task.sample(generator, 5).inputs
    assert torch.equal(inputs.sum(dim=-1), torch.ones(5, 50))
    assert set(inputs.unique().tolist()) == {0.0, 1.0}


def test_symbols_are_uniform_at_each_position(task: CopyArjovsky2016) -> None:
    symbols = task.sample(np.random.default_rng(1), 8000).factors["symbols"]
    counts = torch.stack([torch.bincount(column, minlength=8) for column in symbols.T])
    assert stats.chisquare(counts.numpy(), axis=1).pvalue.min() > 1e-3


def test_neighbouring_symbols_are_independent(task: CopyArjovsky2016) -> None:
    symbols = task.sample(np.random.default_rng(1), 8000).factors["symbols"]
    pairs = torch.bincount(8 * symbols[:, 0] + symbols[:, 1], minlength=64)
    assert stats.chisquare(pairs.numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("seq_len", "printed"), [(100, 0.1733), (200, 0.0945), (500, 0.0400), (1000, 0.02039), (2000, 0.01029)]
)
def test_chance_loss_is_ten_ln_eight_over_all_steps(seq_len: int, printed: float) -> None:
    loss = CopyArjovsky2016(seq_len).chance["loss"]
    assert loss == pytest.approx(10 * math.log(8) / (seq_len + 20), rel=1e-12)
    assert loss == pytest.approx(printed, rel=2e-3)


@pytest.mark.parametrize("metric", ["loss", "recall_loss", "accuracy"])
def test_chance_is_what_a_blind_predictor_scores_over_all_symbols(
    metric: str, task: CopyArjovsky2016, every_symbol: Tensor, generator: np.random.Generator
) -> None:
    predictions = blind(task, task.sample(generator, 8))
    scored = task.metrics(predictions, every_symbol)[metric].mean()
    assert float(scored) == pytest.approx(task.chance[metric], rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_blind_predictor_has_a_smaller_loss(
    seed: int, task: CopyArjovsky2016, every_symbol: Tensor, generator: np.random.Generator
) -> None:
    torch.manual_seed(seed)
    best = blind(task, task.sample(generator, 8))
    other = best + 0.1 * torch.randn(best.shape[1:], dtype=torch.float64)
    assert float(task.metrics(other, every_symbol)["loss"].mean()) > task.chance["loss"]


def test_chance_error_rate_is_that_of_guessing_ten_symbols(task: CopyArjovsky2016) -> None:
    assert 1 - task.chance["error_rate"] == pytest.approx((1 / 8) ** 10, rel=1e-6)


def test_accuracy_ignores_the_blanks(task: CopyArjovsky2016, generator: np.random.Generator) -> None:
    batch = task.sample(generator, 4)
    predictions = perfect(batch)
    predictions[:, :40] = predictions[:, :40].flip(-1)
    assert task.metrics(predictions, batch.targets)["accuracy"].tolist() == [1.0] * 4


def test_one_wrong_symbol_is_a_wrong_sequence(task: CopyArjovsky2016, generator: np.random.Generator) -> None:
    batch = task.sample(generator, 2)
    predictions = perfect(batch)
    predictions[0, 43] = -predictions[0, 43]
    metrics = task.metrics(predictions, batch.targets)
    assert metrics["error_rate"].tolist() == [1.0, 0.0]
    assert metrics["accuracy"].tolist() == pytest.approx([0.9, 1.0])


def test_a_wrong_blank_is_no_error_of_recall(task: CopyArjovsky2016, generator: np.random.Generator) -> None:
    batch = task.sample(generator, 2)
    predictions = perfect(batch)
    predictions[:, 39] = -predictions[:, 39]
    assert task.metrics(predictions, batch.targets)["error_rate"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("accuracy", "fraction_of_chance", "is_solved"),
    [(0.99, 0.09, True), (0.98, 0.0, False), (1.0, 0.11, False)],
)
def test_solved_asks_for_recall_and_for_a_tenth_of_chance(
    accuracy: float, fraction_of_chance: float, is_solved: bool, task: CopyArjovsky2016
) -> None:
    metrics = {"accuracy": accuracy, "loss": fraction_of_chance * task.chance["loss"]}
    assert task.is_solved(metrics) is is_solved
