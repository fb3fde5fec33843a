"""Slow, obvious twins of the tasks: targets read off the inputs alone, perfect predictors, and blind ones.

A task called ``x`` has ``x_targets(inputs)``, ``x_perfect(batch)`` and ``x_blind(task, batch)`` here.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import one_hot

from gradhorizon.tasks.task import Batch, Task

CERTAIN = 50.0


def copy_arjovsky2016_targets(inputs: Tensor) -> Tensor:
    targets = torch.full(inputs.shape[:2], 8)
    for row, tokens in zip(targets, inputs.argmax(dim=-1).tolist(), strict=True):
        cue = tokens.index(9)
        row[cue + 1 :] = torch.tensor([token for token in tokens if token < 8])
    return targets


def adding_arjovsky2016_targets(inputs: Tensor) -> Tensor:
    sums = [sum(value for value, mark in row if mark == 1) for row in inputs.tolist()]
    return torch.tensor(sums).reshape(-1, 1, 1)


def adding_hochreiter1997_targets(inputs: Tensor) -> Tensor:
    sums = [sum(value for value, mark in row if mark == 1) for row in inputs.tolist()]
    return torch.tensor([0.5 + total / 4 for total in sums]).reshape(-1, 1, 1)


def temporal_order_hochreiter1997_targets(inputs: Tensor) -> Tensor:
    rows = ["".join("EBabcdXY"[token] for token in row) for row in inputs.argmax(dim=-1).tolist()]
    words = ["".join(letter for letter in row if letter in "XY") for row in rows]
    return torch.tensor([["XX", "XY", "YX", "YY"].index(word) for word in words]).reshape(-1, 1)


def temporal_order_pascanu2013_targets(inputs: Tensor) -> Tensor:
    rows = ["".join("ABcdef"[token] for token in row) for row in inputs.argmax(dim=-1).tolist()]
    words = ["".join(letter for letter in row if letter in "AB") for row in rows]
    return torch.tensor([["AA", "AB", "BA", "BB"].index(word) for word in words]).reshape(-1, 1)


def digits_sequential_targets(inputs: Tensor) -> Tensor:
    keys = [tuple(16.0 * ink for ink in row.flatten().tolist()) for row in inputs]
    return torch.tensor([_labels()[key] for key in keys]).reshape(-1, 1)


@cache
def _labels() -> dict[tuple[float, ...], int]:
    images, labels = load_digits(return_X_y=True)
    return {tuple(image): int(label) for image, label in zip(images.tolist(), labels, strict=True)}


def _certain_of_class(batch: Batch, num_classes: int) -> Tensor:
    return CERTAIN * (2.0 * one_hot(batch.targets, num_classes).double() - 1.0)


def copy_arjovsky2016_perfect(batch: Batch) -> Tensor:
    return _certain_of_class(batch, 9)


def adding_arjovsky2016_perfect(batch: Batch) -> Tensor:
    return batch.targets.double()


def adding_hochreiter1997_perfect(batch: Batch) -> Tensor:
    return batch.targets.double().logit()


def temporal_order_hochreiter1997_perfect(batch: Batch) -> Tensor:
    return _certain_of_class(batch, 4)


def temporal_order_pascanu2013_perfect(batch: Batch) -> Tensor:
    return _certain_of_class(batch, 4)


def digits_sequential_perfect(batch: Batch) -> Tensor:
    return _certain_of_class(batch, 10)


def copy_arjovsky2016_blind(task: Task, batch: Batch) -> Tensor:
    predictions = torch.zeros(*batch.targets.shape, 9, dtype=torch.float64)
    predictions[:, : task.seq_len + 10, 8] = 2 * CERTAIN
    predictions[:, task.seq_len + 10 :, 8] = -2 * CERTAIN
    return predictions


def adding_arjovsky2016_blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    return torch.ones(batch.targets.shape, dtype=torch.float64)


def adding_hochreiter1997_blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    return torch.zeros(batch.targets.shape, dtype=torch.float64)


def temporal_order_hochreiter1997_blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    """The best for the loss is 1/4 from every logistic output; the best for the accuracy always names one class."""
    return torch.full((*batch.targets.shape, 4), 0.25, dtype=torch.float64).logit()


def temporal_order_pascanu2013_blind(task: Task, batch: Batch) -> Tensor:  # noqa: ARG001
    return torch.zeros(*batch.targets.shape, 4, dtype=torch.float64)


def digits_sequential_blind(task: Task, batch: Batch) -> Tensor:
    held_out = task.sample_held_out(np.random.default_rng(0), 360).targets.flatten()
    log_frequencies = (torch.bincount(held_out).double() / 360).log()
    return log_frequencies.expand(*batch.targets.shape, 10)
