"""A task of one's own that breaks a rule of the contract is refused in one line before anything is trained."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from gradhorizon.config import ConfigError
from gradhorizon.tasks.conduct import TaskError, check_declared, check_samples
from gradhorizon.tasks.task import Task
from tests import own_classes
from tests.runs_on_disk import run
from tests.tasks.test_conf_tasks import NAMES, configured

WRONG = {
    "NoParent": r"`NoParent.__init__` must call super\(\).__init__\(seq_len\), got",
    "NoFeatures": "`NoFeatures.input_size` must be a whole number from 1 on, got 0",
    "TextSize": "`TextSize.output_size` must be a whole number from 1 on, got two",
    "NoChance": "`NoChance.chance` must have `loss`, the loss of a guess, got accuracy",
    "InfiniteChance": "`InfiniteChance.chance` must map names of metrics to finite numbers, got .*inf",
    "Easy": "`Easy.solved_levels` must be out of reach of chance, .* got {'accuracy': 0.5}",
    "NoHeldOut": "`NoHeldOut.num_held_out` must be None or a whole number from 1 on, got 0",
    "Rough": "`Rough.sample` must run on 3 samples, got KeyError: 'lost'",
    "NoBatch": "`NoBatch.sample` must return a gradhorizon.tasks.task.Batch, got Tensor",
    "Doubles": r"inputs of `Doubles.sample` must be .* in torch.float32, got \(3, 8, 1\) in torch.float64",
    "Flat": r"inputs of `Flat.sample` must be a tensor of shape \(3, 8, 1\), .*, got \(3, 8\)",
    "Longer": r"inputs of `Longer.sample` must be a tensor of shape \(3, 9, 1\), .*, got \(3, 8, 1\)",
    "Holes": "inputs of `Holes.sample` must be finite, got NaN",
    "FlatTargets": r"targets of `FlatTargets.sample` must be a tensor of shape \(3, 1\), .*, got \(3,\)",
    "FloatTargets": r"targets of `FloatTargets.sample` must be a tensor of shape \(3, 1, 2\), .*, got \(3, 1\)",
    "StepZero": r"loss_steps of `StepZero.sample` must be ascending whole numbers in 1 … 8, got \(0,\)",
    "Unsorted": r"loss_steps of `Unsorted.sample` must be ascending .*, got \(2, 1\)",
    "BeyondEnd": r"loss_steps of `BeyondEnd.sample` must be ascending .*, got \(9,\)",
    "OneFactor": r"factor `delay` of `OneFactor.sample` must be a tensor of shape \(B, …\), got",
    "Wild": "`Wild.sample` must be a function of its generator alone, got two batches",
    "WildTorch": "`WildTorch.sample` must be a function of its generator alone",
    "WildHeldOut": "`WildHeldOut.sample_held_out` must be a function of its generator alone",
    "Counting": "`Counting.sample` must be a function of its generator alone",
    "MeanLoss": r"`MeanLoss.loss` must return .*, shape \(3, 1\), got \(\): reduction='none'",
    "FixedLoss": "`FixedLoss.loss` must be differentiable in its predictions",
    "NoAccuracy": "`NoAccuracy.metrics` must have `accuracy`, got",
    "OneMetric": r"`OneMetric.metrics` must have a value a sample, shape \(3,\), got \(\) of `loss`",
}


def check(task: Task) -> None:
    check_declared(task, getattr(task, "seq_len", 8))
    check_samples(task)


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_rule_is_told_in_one_line(name: str) -> None:
    with pytest.raises(TaskError, match=WRONG[name]) as caught:
        check(getattr(own_classes, name)(8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_tasks_are_let_pass(name: str) -> None:
    check(configured(name))


def test_another_length_than_the_records_would_say_is_refused() -> None:
    with pytest.raises(TaskError, match=r"`seq_len` must be that of the task, 10, got 100, .*: seq_len=10"):
        check_declared(own_classes.Ten(), 100)


def test_no_generator_is_moved() -> None:
    def states() -> tuple[object, ...]:
        of_numpy = np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
        return torch.get_rng_state().tolist(), of_numpy, random.getstate()

    before = states()
    check(own_classes.Parity(8))
    with pytest.raises(TaskError):
        check(own_classes.WildTorch(8))
    assert states() == before


@pytest.mark.parametrize("name", ["Wild", "Flat", "NoChance"])
def test_a_run_is_refused_before_it_has_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"task: .*{name}"):
        run(tmp_path, "task=external", f"task._target_=tests.own_classes.{name}")
    assert not list(tmp_path.rglob("run.json"))
