"""What every task must do, found by glob: a new task is tested by existing, and fails here without an oracle."""

from __future__ import annotations

import importlib
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradhorizon.tasks.task import Batch, Task
from tests.tasks.test_conf_tasks import NAMES, OF_ONE_LENGTH, configured

SHORTEST = {name: type(configured(name)).min_seq_len for name in NAMES}


def oracles(name: str) -> ModuleType:
    """The task's own tests, in which `tests.oracles_tasks` says what stands."""
    return importlib.import_module(f"tests.tasks.test_{name}")


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    return configured(request.param)


def same(first: Batch, second: Batch) -> bool:
    return torch.equal(first.inputs, second.inputs) and torch.equal(first.targets, second.targets)


def lengthened(name: str, extra: int) -> Task:
    """The task at its shortest and `extra` steps more, or at its only length."""
    return configured(name) if name in OF_ONE_LENGTH else configured(name, seq_len=SHORTEST[name] + extra)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(extra=st.integers(0, 60), batch_size=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_targets_follow_from_the_inputs_alone(name: str, extra: int, batch_size: int, seed: int) -> None:
    task = lengthened(name, extra)
    batch = task.sample(np.random.default_rng(seed), batch_size)
    torch.testing.assert_close(batch.targets, oracles(name).targets(batch.inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(extra=st.integers(0, 60), batch_size=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_shapes_and_dtypes_are_those_of_the_contract(name: str, extra: int, batch_size: int, seed: int) -> None:
    task = lengthened(name, extra)
    batch = task.sample(np.random.default_rng(seed), batch_size)
    input_len, num_loss_steps = batch.inputs.shape[1], len(batch.loss_steps)
    assert batch.inputs.shape == (batch_size, input_len, task.input_size)
    assert batch.inputs.dtype == torch.float32
    is_class = not batch.targets.is_floating_point()
    assert batch.targets.dtype == (torch.int64 if is_class else torch.float32)
    assert batch.targets.shape == (batch_size, num_loss_steps, *(() if is_class else (task.output_size,)))
    assert list(batch.loss_steps) == sorted(set(batch.loss_steps))
    assert batch.loss_steps[-1] == input_len
    assert {factor.shape[0] for factor in batch.factors.values()} == {batch_size}


def test_input_len_is_the_smallest_that_is_drawn(task: Task) -> None:
    generator = np.random.default_rng(0)
    assert min(task.sample(generator, 1).inputs.shape[1] for _ in range(200)) == task.input_len


def test_probe_batch_has_exactly_input_len_steps(task: Task) -> None:
    generator = np.random.default_rng(0)
    lengths = {task.sample_held_out(generator, 1, task.input_len).inputs.shape[1] for _ in range(50)}
    assert lengths == {task.input_len}


def test_same_generator_state_gives_the_same_batch(task: Task) -> None:
    assert same(task.sample(np.random.default_rng(3), 4), task.sample(np.random.default_rng(3), 4))


def test_sampling_changes_no_state_of_the_task(task: Task) -> None:
    first = task.sample(np.random.default_rng(3), 4)
    task.sample_held_out(np.random.default_rng(4), 7)
    assert same(first, task.sample(np.random.default_rng(3), 4))


def test_another_stream_gives_another_batch(task: Task) -> None:
    first, second = (np.random.default_rng(np.random.SeedSequence([7, stream])) for stream in (0, 1))
    size = task.input_len
    assert not same(task.sample(first, 4, size), task.sample(second, 4, size))


def test_successive_batches_of_a_stream_differ(task: Task) -> None:
    generator = np.random.default_rng(3)
    size = task.input_len
    assert not same(task.sample(generator, 4, size), task.sample(generator, 4, size))


def test_samples_of_a_batch_differ(task: Task) -> None:
    inputs = task.sample(np.random.default_rng(3), 5).inputs
    assert len(torch.unique(inputs, dim=0)) == 5


def test_sampling_leaves_global_generators_alone(task: Task) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    task.sample(np.random.default_rng(3), 4)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002


def test_loss_has_one_value_per_sample_and_step(task: Task) -> None:
    batch = task.sample(np.random.default_rng(3), 4)
    predictions = torch.randn(4, len(batch.loss_steps), task.output_size)
    assert task.loss(predictions, batch.targets).shape == (4, len(batch.loss_steps))


def test_loss_metric_is_the_mean_of_the_loss_over_steps(task: Task) -> None:
    batch = task.sample(np.random.default_rng(3), 4).to(dtype=torch.float64)
    predictions = torch.randn(4, len(batch.loss_steps), task.output_size, dtype=torch.float64)
    expected = task.loss(predictions, batch.targets).mean(dim=1)
    torch.testing.assert_close(task.metrics(predictions, batch.targets)["loss"], expected, rtol=1e-12, atol=0)


def test_loss_of_a_sample_ignores_the_others(task: Task) -> None:
    batch = task.sample(np.random.default_rng(3), 4).to(dtype=torch.float64)
    predictions = torch.randn(4, len(batch.loss_steps), task.output_size, dtype=torch.float64)
    alone = task.loss(predictions[2:3], batch.targets[2:3])
    torch.testing.assert_close(task.loss(predictions, batch.targets)[2:3], alone, rtol=1e-12, atol=0)


def test_loss_is_differentiable_to_second_order(task: Task) -> None:
    targets = task.sample(np.random.default_rng(3), 2).to(dtype=torch.float64).targets[:, -2:]
    predictions = torch.randn(2, targets.shape[1], task.output_size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda p: task.loss(p, targets), predictions)


def test_chance_covers_exactly_the_metrics(task: Task) -> None:
    batch = task.sample(np.random.default_rng(3), 4)
    metrics = task.metrics(oracles(task.name).blind(task, batch), batch.targets)
    assert set(metrics) == set(task.chance)
    assert {"loss", "accuracy"} <= set(metrics)


def test_metrics_have_one_value_per_sample(task: Task) -> None:
    batch = task.sample(np.random.default_rng(3), 4)
    metrics = task.metrics(oracles(task.name).blind(task, batch), batch.targets)
    assert {value.shape for value in metrics.values()} == {(4,)}


def test_perfect_predictor_solves_the_task(task: Task) -> None:
    batch = task.sample_held_out(np.random.default_rng(3), 64).to(dtype=torch.float64)
    metrics = task.metrics(oracles(task.name).perfect(batch), batch.targets)
    means = {name: float(value.mean()) for name, value in metrics.items()}
    assert means["accuracy"] == 1
    assert means["loss"] < 1e-12
    assert task.is_solved(means)


def test_chance_does_not_solve_the_task(task: Task) -> None:
    assert not task.is_solved(task.chance)


def test_nan_does_not_solve_the_task(task: Task) -> None:
    assert not task.is_solved(dict.fromkeys(task.chance, math.nan))


def test_blind_predictor_scores_the_chance_loss(task: Task) -> None:
    batch = task.sample_held_out(np.random.default_rng(3), task.num_held_out or 4000)
    losses = task.metrics(oracles(task.name).blind(task, batch), batch.targets)["loss"]
    standard_error = float(losses.std()) / math.sqrt(len(losses)) * (task.num_held_out is None)
    assert float(losses.mean()) == pytest.approx(task.chance["loss"], rel=1e-9, abs=4 * standard_error)


@pytest.mark.parametrize("name", NAMES)
def test_shortest_sequence_is_the_one_in_which_the_protocol_fits(name: str) -> None:
    assert SHORTEST[name] == oracles(name).SHORTEST


@pytest.mark.parametrize("name", [name for name in NAMES if SHORTEST[name] > 1])
def test_too_short_a_sequence_is_refused_with_the_reason(name: str) -> None:
    kind = type(configured(name, seq_len=SHORTEST[name]))
    expected = rf"`seq_len` must be at least {SHORTEST[name]} for {name} \({kind.min_seq_len_reason}\), got "
    with pytest.raises(ValueError, match=expected + str(SHORTEST[name] - 1)):
        kind(SHORTEST[name] - 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seq_len", [0, -3])
def test_no_sequence_is_refused(name: str, seq_len: int) -> None:
    with pytest.raises(ValueError, match=f"must be at least {SHORTEST[name]} for {name}"):
        type(configured(name))(seq_len)


@pytest.mark.parametrize("name", NAMES)
def test_solved_levels_are_where_the_criterion_turns(name: str) -> None:
    task = configured(name)
    levels = task.solved_levels
    better = {metric: level * (0.99 if "loss" in metric else 1.0) + 1e-9 for metric, level in levels.items()}
    assert task.is_solved(better)
    for metric, level in levels.items():
        worse = level * 1.01 if "loss" in metric else level - 0.01
        assert not task.is_solved({**better, metric: worse})
