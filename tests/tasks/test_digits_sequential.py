"""Digits pixel by pixel: the split, the order of pixels, chance."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor

from gradhorizon.tasks.digits_sequential import DigitsSequential
from gradhorizon.tasks.task import Batch, Task
from tests.oracles_tasks import certain_of_class

NUM_HELD_OUT = 360
NUM_TRAIN = 1437
GOLDEN_FIRST = [21, 24, 28, 34, 35]
GOLDEN_SUM = 337944
SHORTEST = 64


@cache
def _labels() -> dict[tuple[float, ...], int]:
    images, labels = load_digits(return_X_y=True)
    return {tuple(image): int(label) for image, label in zip(images.tolist(), labels, strict=True)}


def targets(inputs: Tensor) -> Tensor:
    keys = [tuple(16.0 * ink for ink in row.flatten().tolist()) for row in inputs]
    return torch.tensor([_labels()[key] for key in keys]).reshape(-1, 1)


def perfect(batch: Batch) -> Tensor:
    return certain_of_class(batch, 10)


def blind(task: Task, batch: Batch) -> Tensor:
    held_out = task.sample_held_out(np.random.default_rng(0), 360).targets.flatten()
    log_frequencies = (torch.bincount(held_out).double() / 360).log()
    return log_frequencies.expand(*batch.targets.shape, 10)


@pytest.fixture(scope="module")
def task() -> DigitsSequential:
    return DigitsSequential()


@pytest.fixture(scope="module")
def held_out(task: DigitsSequential) -> Batch:
    return task.sample_held_out(np.random.default_rng(1), NUM_HELD_OUT)


@pytest.fixture(scope="module")
def train(task: DigitsSequential) -> Batch:
    return task.sample(np.random.default_rng(1), 20_000)


def test_held_out_images_are_drawn_once_each(held_out: Batch) -> None:
    assert len(set(held_out.factors["image"].tolist())) == NUM_HELD_OUT


def test_held_out_stream_covers_no_more_than_the_split(task: DigitsSequential, held_out: Batch) -> None:
    more = task.sample_held_out(np.random.default_rng(2), 20_000).factors["image"]
    assert set(more.tolist()) == set(held_out.factors["image"].tolist())


def test_training_covers_exactly_the_other_images(train: Batch, held_out: Batch) -> None:
    trained = set(train.factors["image"].tolist())
    assert len(trained) == NUM_TRAIN
    assert trained.isdisjoint(held_out.factors["image"].tolist())
    assert trained | set(held_out.factors["image"].tolist()) == set(range(1797))


def test_no_held_out_image_has_a_copy_in_the_training_set(train: Batch, held_out: Batch) -> None:
    copies = {tuple(row) for row in train.inputs.flatten(1).unique(dim=0).tolist()}
    assert copies.isdisjoint(tuple(row) for row in held_out.inputs.flatten(1).tolist())


def test_split_is_stratified(held_out: Batch) -> None:
    in_all = Counter(load_digits().target.tolist())
    in_held_out = Counter(held_out.targets.flatten().tolist())
    assert all(abs(in_held_out[digit] - count * NUM_HELD_OUT / 1797) < 1 for digit, count in in_all.items())


def test_split_is_the_same_everywhere(held_out: Batch) -> None:
    images = held_out.factors["image"].sort().values
    assert images[:5].tolist() == GOLDEN_FIRST
    assert int(images.sum()) == GOLDEN_SUM


def test_pixels_come_row_by_row_from_left_to_right(train: Batch) -> None:
    images = load_digits().images[train.factors["image"][:50].numpy()]
    expected = np.stack([[image[row, column] for row in range(8) for column in range(8)] for image in images]) / 16
    assert np.array_equal(train.inputs[:50, :, 0].numpy(), expected)


def test_pixels_fill_the_unit_interval(train: Batch) -> None:
    assert train.inputs.min() == 0
    assert train.inputs.max() == 1


def test_only_the_last_pixel_is_a_loss_step(train: Batch) -> None:
    assert train.loss_steps == (64,)


def test_a_batch_does_not_share_memory_with_the_data(task: DigitsSequential) -> None:
    task.sample(np.random.default_rng(1), 5).inputs.fill_(-1.0)
    assert task.sample(np.random.default_rng(1), 5).inputs.min() == 0


def test_chance_accuracy_is_that_of_the_most_frequent_digit(task: DigitsSequential, held_out: Batch) -> None:
    [(_, count)] = Counter(held_out.targets.flatten().tolist()).most_common(1)
    assert task.chance["accuracy"] == pytest.approx(count / NUM_HELD_OUT, rel=1e-12)


def test_chance_loss_is_the_entropy_of_the_digits(task: DigitsSequential, held_out: Batch) -> None:
    counts = Counter(held_out.targets.flatten().tolist()).values()
    entropy = math.log(NUM_HELD_OUT) - sum(count * math.log(count) for count in counts) / NUM_HELD_OUT
    assert task.chance["loss"] == pytest.approx(entropy, rel=1e-12)
    assert task.chance["loss"] == pytest.approx(math.log(10), rel=1e-3)


@pytest.mark.parametrize("seq_len", [63, 65, 100])
def test_another_length_is_refused(seq_len: int) -> None:
    with pytest.raises(ValueError, match=rf"`seq_len` must be .*64 for digits_sequential \(one step .*got {seq_len}"):
        DigitsSequential(seq_len)


@pytest.mark.parametrize(("accuracy", "is_solved"), [(0.951, True), (0.949, False)])
def test_solved_from_95_percent(accuracy: float, is_solved: bool, task: DigitsSequential) -> None:
    assert task.is_solved({"accuracy": accuracy, "loss": 1.0}) is is_solved


@pytest.mark.parametrize(("num_last_pixels", "is_solved"), [(32, False), (40, True)])
def test_solving_takes_more_than_half_of_the_image(
    num_last_pixels: int, is_solved: bool, task: DigitsSequential, train: Batch, held_out: Batch
) -> None:
    shown, seen = train.inputs[:6000, -num_last_pixels:, 0], held_out.inputs[:, -num_last_pixels:, 0]
    machine = SVC(C=10).fit(shown.numpy(), train.targets[:6000].flatten().numpy())
    accuracy = machine.score(seen.numpy(), held_out.targets.flatten().numpy())
    assert task.is_solved({"accuracy": float(accuracy), "loss": 0.0}) is is_solved


def test_labels_are_those_of_the_images(train: Batch) -> None:
    labels = torch.from_numpy(load_digits().target)[train.factors["image"]]
    assert torch.equal(train.targets.flatten(), labels)
