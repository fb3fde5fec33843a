"""Batches are pure functions of what names them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradhorizon.tasks.adding_hochreiter1997 import AddingHochreiter1997
from gradhorizon.tasks.copy_arjovsky2016 import CopyArjovsky2016
from gradhorizon.tasks.digits_sequential import DigitsSequential
from gradhorizon.training.streams import (
    initialization_seed,
    noise_seed,
    probe_batch,
    training_batch,
    validation_batches,
)


def test_training_batch_is_the_same_whatever_was_drawn_before() -> None:
    task = CopyArjovsky2016(seq_len=10)
    first = training_batch(task, 0, 3, 17, 4)
    for number in range(5):
        training_batch(task, 0, 3, number, 4)
    assert torch.equal(training_batch(task, 0, 3, 17, 4).inputs, first.inputs)


@pytest.mark.parametrize("other", [(1, 3, 17), (0, 4, 17), (0, 3, 18)])
def test_training_batch_differs_when_any_part_of_its_name_differs(other: tuple[int, int, int]) -> None:
    task = CopyArjovsky2016(seq_len=10)
    assert not torch.equal(training_batch(task, *other, 8).inputs, training_batch(task, 0, 3, 17, 8).inputs)


def test_validation_has_the_size_asked_for_and_is_shared_by_members() -> None:
    task = CopyArjovsky2016(seq_len=10)
    batches = list(validation_batches(task, 0, size=25, batch_size=10))
    assert [batch.inputs.shape[0] for batch in batches] == [10, 10, 5]
    again = list(validation_batches(task, 0, size=25, batch_size=10))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches, again, strict=True))


def test_held_out_streams_share_no_batch_with_training() -> None:
    task = CopyArjovsky2016(seq_len=10)
    held_out = next(validation_batches(task, 0, 8, 8)).inputs
    training = [training_batch(task, 0, 0, number, 8).inputs for number in range(20)]
    assert not any(torch.equal(held_out, inputs) for inputs in [*training, probe_batch(task, 0, 8).inputs])


def test_probe_batch_has_the_nominal_length_where_training_lengths_vary() -> None:
    task = AddingHochreiter1997(seq_len=50)
    lengths = {training_batch(task, 0, 0, number, 2).inputs.shape[1] for number in range(40)}
    assert len(lengths) > 1
    assert probe_batch(task, 0, 2).inputs.shape[1] == task.input_len == min(lengths)


def test_seeds_of_members_and_steps_do_not_collide() -> None:
    seeds = {initialization_seed(seed) for seed in range(1000)}
    noise = {noise_seed(0, seed, step) for seed in range(10) for step in range(100)}
    assert len(seeds) == len(noise) == 1000
    assert not seeds & noise


def test_torch_keeps_32_bits_of_a_seed_which_is_why_tasks_use_numpy() -> None:
    draws = [torch.rand(1, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5 + 2**32)]
    assert torch.equal(*draws)
    numpy_draws = [np.random.default_rng(seed).random() for seed in (5, 5 + 2**32)]
    assert numpy_draws[0] != numpy_draws[1]


@pytest.mark.parametrize(("size", "expected"), [(100, 100), (360, 360), (1000, 360)])
def test_validation_on_a_finite_set_sees_each_sample_at_most_once(size: int, expected: int) -> None:
    batches = list(validation_batches(DigitsSequential(), 0, size, batch_size=250))
    images = torch.cat([batch.factors["image"] for batch in batches])
    assert len(images) == len(images.unique()) == expected
    assert max(len(batch.inputs) for batch in batches) <= 250
