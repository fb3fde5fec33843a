"""Temporal order of the LSTM paper: frame, windows, logistic outputs, chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gradhorizon.tasks.task import Batch, Task
from gradhorizon.tasks.temporal_order_hochreiter1997 import TemporalOrderHochreiter1997
from tests.oracles_tasks import certain_of_class

EVERY_CLASS = torch.arange(4).reshape(4, 1)
SHORTEST = 20


def targets(inputs: Tensor) -> Tensor:
    rows = ["".join("EBabcdXY"[token] for token in row) for row in inputs.argmax(dim=-1).tolist()]
    words = ["".join(letter for letter in row if letter in "XY") for row in rows]
    return torch.tensor([["XX", "XY", "YX", "YY"].index(word) for word in words]).reshape(-1, 1)


def perfect(batch: Batch) -> Tensor:
    return certain_of_class(batch, 4)


def blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    """The best for the loss is 1/4 from every logistic output; the best for the accuracy always names one class."""
    return torch.full((*batch.targets.shape, 4), 0.25, dtype=torch.float64).logit()


@pytest.fixture(scope="module")
def task() -> TemporalOrderHochreiter1997:
    return TemporalOrderHochreiter1997(100)


@pytest.fixture(scope="module")
def batch(task: TemporalOrderHochreiter1997) -> Batch:
    return task.sample(np.random.default_rng(1), 8000)


@pytest.fixture(scope="module")
def words(batch: Batch) -> list[str]:
    return ["".join("EBabcdXY"[token] for token in row) for row in batch.inputs.argmax(dim=-1).tolist()]


def drawn_lengths(seq_len: int) -> list[int]:
    task, generator = TemporalOrderHochreiter1997(seq_len), np.random.default_rng(1)
    return [task.sample(generator, 1).inputs.shape[1] for _ in range(1100)]


@pytest.mark.parametrize(("seq_len", "longest"), [(20, 22), (39, 42), (100, 110)])
def test_lengths_reach_from_seq_len_to_a_tenth_more(seq_len: int, longest: int) -> None:
    assert sorted(set(drawn_lengths(seq_len))) == list(range(seq_len, longest + 1))


def test_lengths_are_uniform() -> None:
    assert stats.chisquare(np.bincount(drawn_lengths(100))[100:]).pvalue > 1e-3


@pytest.mark.parametrize("input_len", [99, 111])
def test_a_length_that_the_protocol_never_draws_is_refused(input_len: int, task: TemporalOrderHochreiter1997) -> None:
    expected = f"`input_len` must lie in 100 … 110 for temporal_order_hochreiter1997 at seq_len 100, got {input_len}"
    with pytest.raises(ValueError, match=expected):
        task.sample(np.random.default_rng(1), 3, input_len)


def test_e_and_b_frame_the_sequence_and_occur_nowhere_else(words: list[str]) -> None:
    assert {word[0] + word[-1] for word in words} == {"EB"}
    assert set("".join(word[1:-1] for word in words)) == set("abcdXY")


def test_two_symbols_are_relevant_and_stand_where_the_factors_say(batch: Batch, words: list[str]) -> None:
    found = [[step for step, symbol in enumerate(word, start=1) if symbol in "XY"] for word in words]
    steps = torch.stack([batch.factors["first_symbol_step"], batch.factors["second_symbol_step"]], dim=1)
    assert found == steps.tolist()


@pytest.mark.parametrize(
    ("seq_len", "first", "second"), [(100, (10, 20), (50, 60)), (20, (2, 4), (10, 12)), (55, (5, 11), (27, 33))]
)
def test_windows_are_reached_to_both_ends_and_never_left(
    seq_len: int, first: tuple[int, int], second: tuple[int, int]
) -> None:
    factors = TemporalOrderHochreiter1997(seq_len).sample(np.random.default_rng(1), 2000).factors
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
    assert stats.chisquare([text.count(symbol) for symbol in "abcd"]).pvalue > 1e-3


def test_chance_loss_is_that_of_a_quarter_for_each_class(task: TemporalOrderHochreiter1997) -> None:
    predictions = torch.full((4, 1, 4), 0.25, dtype=torch.float64).logit()
    assert float(task.loss(predictions, EVERY_CLASS).mean()) == pytest.approx(task.chance["loss"], rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_constant_has_a_smaller_loss(seed: int, task: TemporalOrderHochreiter1997) -> None:
    torch.manual_seed(seed)
    outputs = 0.25 + 0.05 * torch.randn(4, dtype=torch.float64)
    loss = task.loss(outputs.logit().expand(4, 1, 4), EVERY_CLASS).mean()
    assert float(loss) > task.chance["loss"]


def test_chance_accuracy_is_that_of_naming_one_class(task: TemporalOrderHochreiter1997) -> None:
    predictions = torch.tensor([9.0, -9.0, -9.0, -9.0]).expand(4, 1, 4)
    assert float(task.metrics(predictions, EVERY_CLASS)["accuracy"].mean()) == task.chance["accuracy"]


def test_no_constant_is_right_for_two_classes(task: TemporalOrderHochreiter1997) -> None:
    outputs = torch.rand(2000, 1, 1, 4, dtype=torch.float64).logit().expand(2000, 4, 1, 4).flatten(0, 1)
    accuracy = task.metrics(outputs, EVERY_CLASS.repeat(2000, 1))["accuracy"].reshape(2000, 4).mean(dim=1)
    assert float(accuracy.max()) == 0.25


@pytest.mark.parametrize(
    ("outputs", "accuracy"),
    [([0.71, 0.29, 0.29, 0.29], 1.0), ([0.69, 0.01, 0.01, 0.01], 0.0), ([0.99, 0.01, 0.31, 0.01], 0.0)],
)
def test_right_means_every_output_within_three_tenths(
    outputs: list[float], accuracy: float, task: TemporalOrderHochreiter1997
) -> None:
    predictions = torch.tensor(outputs).logit().reshape(1, 1, 4)
    assert task.metrics(predictions, torch.tensor([[0]]))["accuracy"].item() == accuracy


def test_loss_is_the_squared_error_of_logistic_outputs(task: TemporalOrderHochreiter1997) -> None:
    predictions = torch.tensor([0.9, 0.2, 0.3, 0.1]).logit().reshape(1, 1, 4)
    expected = 0.9**2 + 0.2**2 + 0.7**2 + 0.1**2
    assert task.loss(predictions, torch.tensor([[2]])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("num_wrong", "is_solved"), [(0, True), (3, True), (4, False)])
def test_solved_with_at_most_three_of_2560_wrong(
    num_wrong: int, is_solved: bool, task: TemporalOrderHochreiter1997
) -> None:
    accuracy = float((torch.arange(2560) >= num_wrong).float().mean())
    assert task.is_solved({"accuracy": accuracy, "loss": 0.0}) is is_solved
