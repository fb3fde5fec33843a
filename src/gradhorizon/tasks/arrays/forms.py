"""The two forms that data may have: sequences with a class each, and one long series.

Notation: n samples, N steps, D features, S steps of a whole series, O targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradhorizon.tasks.arrays.reading import (
    DataError,
    Name,
    as_table,
    check_numbers,
    named,
    numbers,
    refuse_disorder,
    refuse_missing,
)

DEFAULT_TARGET = "target"
Data = Mapping[str, np.ndarray] | pd.DataFrame


@dataclass(frozen=True)
class Columns:
    """Which columns of the data are what; None for the rule that stands at `FromArrays`.

    Attributes:
        target: the class's, or those that are forecast.
        sample: what tells which sequence a row belongs to.
        time: what must rise from row to row; it is not fed.
        features: those that are fed.
    """

    target: Name | Sequence[Name] | None = None
    sample: Name | None = None
    time: Name | None = None
    features: Sequence[Name] | None = None


@dataclass(frozen=True)
class Sequences:
    """Sequences of one length with a class each.

    Attributes:
        inputs: shape (n, N, D), float64.
        classes: index of the class of each, shape (n,), int64.
        names: of the classes, in ascending order.
    """

    inputs: np.ndarray
    classes: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Series:
    """One long series.

    Attributes:
        inputs: shape (S, D), float64.
        targets: what is forecast, shape (S, O), float64.
    """

    inputs: np.ndarray
    targets: np.ndarray


def sequences(data: Data, columns: Columns) -> Sequences:
    """Data as sequences with a class each.

    Args:
        data: arrays `inputs` (n, N) or (n, N, D) and `targets` (n,); or a table with a row a step, where
            `columns.sample` is given, or with a row a sample.
        columns: which are what; of arrays, none is looked at.

    Raises:
        DataError: it has another form.
    """
    if isinstance(data, pd.DataFrame):
        table = data.set_axis([str(name) for name in data.columns], axis=1)
        inputs, labels = _of_steps(table, columns) if columns.sample is not None else _of_rows(table, columns)
    else:
        inputs, labels = _of_arrays(data, columns)
    return Sequences(inputs, *_classes(labels))


def series(data: Data, columns: Columns) -> Series:
    """Data as one long series.

    Args:
        data: an array `inputs` (S,) or (S, D), whose columns are called by their numbers; or a table with a row a step.
        columns: which are what.

    Raises:
        DataError: it has another form.
    """
    if columns.sample is not None:
        raise DataError("`sample_column` cannot be forecast across: one series at a time is forecast; leave it out")
    if isinstance(data, pd.DataFrame):
        table = data.set_axis([str(name) for name in data.columns], axis=1)
    else:
        table = as_table(check_numbers(_array(data, "inputs"), "inputs"))
    features = _features(table, columns, ())
    targets = features if columns.target is None else named(table, _listed(columns.target), "target")
    return Series(numbers(table, features), numbers(table, targets))


def _listed(names: Name | Sequence[Name]) -> list[Name]:
    return [names] if isinstance(names, str | int) else list(names)


def _array(data: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in data:
        there = ", ".join(data) or "none"
        raise DataError(f"an array `{name}` must be there, there are: {there}; numpy.savez(path, {name}=…)")
    if data[name].ndim == 0:
        raise DataError(f"`{name}` must be an array of samples or steps, got a single value")
    return data[name]


def _of_arrays(data: Mapping[str, np.ndarray], columns: Columns) -> tuple[np.ndarray, pd.Series]:
    given = [key for key in ("target", "sample", "time", "features") if getattr(columns, key) is not None]
    if given:
        raise DataError(f"`{given[0]}` names a column, and arrays have none; save what is to be fed as `inputs`")
    inputs, labels = check_numbers(_array(data, "inputs"), "inputs"), _array(data, "targets")
    if inputs.ndim not in (2, 3):
        raise DataError(
            f"`inputs` must be of shape (samples, steps) or (samples, steps, features), got {inputs.shape}; to "
            "forecast one series, task.steps_ahead=1"
        )
    if labels.shape != inputs.shape[:1]:
        raise DataError(f"`targets` must be of shape ({len(inputs)},), a class a sample, got {labels.shape}")
    return inputs.reshape(*inputs.shape[:2], -1), pd.Series(labels, name="targets")


def _of_rows(table: pd.DataFrame, columns: Columns) -> tuple[np.ndarray, pd.Series]:
    target = _target(table, columns)
    if columns.time is not None:
        raise DataError("`time_column` is of a table with a row a step; name what tells samples apart: sample_column")
    return numbers(table, _features(table, columns, (target,)))[:, :, None], table[target]


def _of_steps(table: pd.DataFrame, columns: Columns) -> tuple[np.ndarray, pd.Series]:
    target = _target(table, columns)
    (sample,) = named(table, [columns.sample or 0], "sample_column")
    refuse_missing(table[sample], sample)
    groups, samples = pd.factorize(table[sample])
    values = numbers(table, _features(table, columns, (target, sample), groups))
    lengths = np.bincount(groups)
    if lengths.size and lengths.min() != lengths.max():
        short, long = int(lengths.argmin()), int(lengths.argmax())
        raise DataError(
            f"every sample must have equally many steps, got {lengths[short]} of sample {samples[short]} and "
            f"{lengths[long]} of sample {samples[long]}; cut or pad them to one length"
        )
    refuse_missing(table[target], target)
    labels = table[target].groupby(groups, sort=True)
    differs = (table[target] != labels.transform("first")).to_numpy()
    if differs.any():
        sample = samples[groups[differs.argmax()]]
        raise DataError(f"column `{target}` must be the same in all rows of a sample, got several of sample {sample}")
    order = np.argsort(groups, kind="stable")
    return values[order].reshape(len(samples), -1, values.shape[1]), labels.first()


def _target(table: pd.DataFrame, columns: Columns) -> str:
    names = _listed(DEFAULT_TARGET if columns.target is None else columns.target)
    if len(names) != 1:
        raise DataError(f"`target` must be the one column of the class, got {len(names)}: {', '.join(map(str, names))}")
    return named(table, names, "target")[0]


def _features(
    table: pd.DataFrame, columns: Columns, others: Sequence[str], groups: np.ndarray | None = None
) -> list[str]:
    """Names of the columns that are fed; the time is checked on the way."""
    time = [] if columns.time is None else named(table, [columns.time], "time_column")
    for column in time:
        refuse_disorder(table, column, np.zeros(len(table), dtype=int) if groups is None else groups)
    if columns.features is not None:
        found = named(table, columns.features, "features")
    else:
        found = [name for name in map(str, table.columns) if name not in (*others, *time)]
    leaking = [name for name in found if name in others]
    if leaking or not found:
        received = f"`{leaking[0]}`, which tells the answer" if leaking else "none"
        raise DataError(f"`features` must be columns that may be fed, got {received}")
    return named(table, found, "features")


def _classes(labels: pd.Series) -> tuple[np.ndarray, list[str]]:
    refuse_missing(labels, str(labels.name))
    values = labels.to_numpy()
    if values.dtype.kind == "f" and (values % 1).any():
        raise DataError(
            f"classes must be whole numbers or text, got {values[values % 1 != 0][0]}; to forecast a number, give one "
            "long series and task.steps_ahead=1"
        )
    if values.dtype.kind == "O":
        values = values.astype(str)
    names, classes = np.unique(values, return_inverse=True)
    return classes.astype(np.int64), [str(name) for name in names]
