"""Data in two parts, one to train on and one that is held out, in units of the first.

Notation: n samples or windows, N steps, D features, S steps of a whole series, O targets, h steps ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.model_selection import train_test_split

from gradhorizon.tasks.arrays.forms import Sequences, Series
from gradhorizon.tasks.arrays.reading import DataError

_FEWEST_OF_A_CLASS = 2


@dataclass(frozen=True)
class Part:
    """Samples to draw from.

    Attributes:
        inputs: shape (n, N, D), float32; windows of one series are views of it.
        targets: shape (n, 1), int64, or (n, 1, O), float32.
        last: the targets' values at the last step that is fed, shape (n, O), float32; None of classes.
        places: row of the sample, or of the window's first step, in the data, shape (n,), int64.
    """

    inputs: np.ndarray
    targets: np.ndarray
    last: np.ndarray | None
    places: np.ndarray


def sequence_parts(data: Sequences, split: str, fraction: float, seed: int, standardize: bool) -> tuple[Part, Part]:
    """Sequences to train on, and sequences that are held out.

    Args:
        data: all of them.
        split: ``random``, stratified by class; ``time``: the last ones are held out.
        fraction: that is held out.
        seed: of the random split.
        standardize: to the mean and the standard deviation of each feature in the first part.

    Raises:
        DataError: too few samples or classes, or a class that is missing from a part.
    """
    counts = np.bincount(data.classes, minlength=len(data.names))
    if len(data.names) < 2:  # noqa: PLR2004
        raise DataError(f"at least two classes must be there, got {len(data.names)}: {', '.join(data.names) or 'none'}")
    if counts.min() < _FEWEST_OF_A_CLASS:
        rare = data.names[int(counts.argmin())]
        raise DataError(
            f"every class needs a sample in each part, got {counts.min()} of class {rare}; add samples, or leave the "
            "class out"
        )
    rows = np.arange(len(data.classes))
    if split == "time":
        first = _boundary(rows.size, fraction)
        parts = [rows[:first], rows[first:]]
    else:
        held = max(round(fraction * rows.size), len(data.names))
        if held > rows.size - len(data.names):
            raise DataError(
                f"`held_out_fraction` must leave a sample of each of the {len(data.names)} classes in each part, got "
                f"{fraction} of {rows.size} samples"
            )
        parts = train_test_split(rows, test_size=held, stratify=data.classes, random_state=seed)
    for words, part in zip(("train on", "hold out"), parts, strict=True):
        missing = sorted(set(range(len(data.names))) - set(data.classes[part].tolist()))
        if missing:
            raise DataError(
                f"every class must be in each part, got none of class {data.names[missing[0]]} to {words}; "
                "task.split=random keeps the shares, or add samples"
            )
    scale = _scale(data.inputs[parts[0]], standardize)
    made = [Part(scale(data.inputs[part]), data.classes[part, None], None, part) for part in parts]
    return made[0], made[1]


def series_parts(data: Series, seq_len: int, steps_ahead: int, fraction: float, standardize: bool) -> tuple[Part, Part]:
    """Windows of a series' beginning to train on, and windows of its end, with no step in common.

    Args:
        data: the series.
        seq_len: N, steps of a window.
        steps_ahead: h, from a window's last step to what is forecast.
        fraction: of the steps that is held out, at the end.
        standardize: see `sequence_parts`; targets too, so that the loss is in units of their variance.

    Raises:
        DataError: a part is too short for two windows.
    """
    length = len(data.inputs)
    first = _boundary(length, fraction)
    shortest = seq_len + steps_ahead + 1
    for words, size in (("trained on", first), ("held out", length - first)):
        if size < shortest:
            raise DataError(
                f"`seq_len`={seq_len} and `steps_ahead`={steps_ahead} need {shortest} steps for two windows, got "
                f"{size} that are {words} of {length}; shorten one of them, or change `held_out_fraction`"
            )
    inputs = _scale(data.inputs[:first], standardize)(data.inputs)
    targets = _scale(data.targets[:first], standardize)(data.targets)
    ends = ((0, first), (first, length))
    made = [_windows(inputs[slice(*end)], targets[slice(*end)], end[0], seq_len, steps_ahead) for end in ends]
    return made[0], made[1]


def _windows(inputs: np.ndarray, targets: np.ndarray, start: int, seq_len: int, steps_ahead: int) -> Part:
    count = len(inputs) - seq_len - steps_ahead + 1
    windows = sliding_window_view(inputs, seq_len, axis=0)[:count].transpose(0, 2, 1)
    due = targets[seq_len + steps_ahead - 1 :][:count, None]
    last = targets[seq_len - 1 :][:count]
    return Part(windows, due, last, np.arange(start, start + count))


def _boundary(size: int, fraction: float) -> int:
    return size - max(round(fraction * size), 1)


def _scale(train: np.ndarray, standardize: bool) -> Callable[[np.ndarray], np.ndarray]:
    """What brings values to units of the training part; a feature that is constant there is only shifted."""
    axes: Sequence[int] = tuple(range(train.ndim - 1))
    mean, deviation = np.zeros(train.shape[-1]), np.ones(train.shape[-1])
    if standardize:
        # Of equal values, rounding may leave a mean beside them and a deviation that is not 0.
        is_constant = np.ptp(train.reshape(-1, train.shape[-1]), axis=0) == 0
        mean = np.where(is_constant, train.reshape(-1, train.shape[-1])[0], train.mean(axis=axes))
        deviation = np.where(is_constant, 1.0, train.std(axis=axes))

    def scaled(values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            found = ((values - mean) / deviation).astype(np.float32)
        if not np.isfinite(found).all():
            raise DataError("values must fit 32-bit floats, got larger ones; scale them, or set standardize=true")
        return found

    return scaled
