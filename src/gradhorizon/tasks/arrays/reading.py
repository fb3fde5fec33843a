"""A data file as arrays: NumPy's own formats, CSV and Parquet, by the libraries that own them; nothing is unpickled."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from gradhorizon.machine.data_files import data_path, digest_of
from gradhorizon.terminal.words import one_line, shortened

Name = str | int
_MOST_SHOWN = 200  # characters of a list of names, or of what a library says
_NUMBERS = "iufb"  # kinds of NumPy's types that are real numbers


class DataError(ValueError):
    """Data that no task can be made of: what was wrong, what was received, what to do."""


def read_file(path: str | None, digest: str | None) -> Mapping[str, np.ndarray] | pd.DataFrame:
    """What a file holds: arrays by name of NumPy's formats, else a table.

    Args:
        path: ends in .npz, .npy, .csv or .parquet.
        digest: what must stand for its bytes; None for any.

    Raises:
        DataError: it is not there, is of no such format, or is no longer what it was.
    """
    if not path:
        raise DataError("`path` must name a file that ends in .npz, .npy, .csv or .parquet, got none: task.path=…")
    read = _READERS.get(Path(path).suffix.lower().removeprefix("."))
    if read is None:
        raise DataError(
            f"`path` must end in {', '.join(f'.{kind}' for kind in _READERS)}, got {path}; convert it to one of them"
        )
    place = data_path(path)
    if not place.is_file():
        raise DataError(f"`path` must be a file, got {path}, and there is none at {place}")
    try:
        content = place.read_bytes()
    except OSError as error:
        raise DataError(f"`path`={path} cannot be read: {error.strerror}") from error
    if digest is not None and digest_of(content) != digest:
        raise DataError(
            f"`path`={path} must be the file of the digest {digest}, got {digest_of(content)}: it has changed since; "
            "restore it, or launch again, which is another run"
        )
    try:
        found: Mapping[str, np.ndarray] | pd.DataFrame = read(content)
    except DataError as error:
        raise DataError(f"`path`={path} {error}") from error
    except Exception as error:
        words = shortened(one_line(error) or type(error).__name__, _MOST_SHOWN)
        raise DataError(f"`path`={path} cannot be read as {place.suffix}: {words}; write it anew") from error
    return found


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    found: Any = _without_objects(content)
    if isinstance(found, np.ndarray):
        raise DataError("must hold arrays by name, got a single one, as of numpy.save; name it .npy")
    with found:
        return {name: _without_pickle(found.__getitem__, name) for name in found.files}


def _array(content: bytes) -> dict[str, np.ndarray]:
    found = _without_objects(content)
    if not isinstance(found, np.ndarray):
        raise DataError("must hold a single array, got several, as of numpy.savez; name it .npz")
    return {"inputs": found}


def _without_objects(content: bytes) -> Any:
    return _without_pickle(partial(np.load, allow_pickle=False), io.BytesIO(content))


def _without_pickle(read: Callable[[Any], Any], what: object) -> Any:
    try:
        return read(what)
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise DataError(
            "must hold plain numbers or text, got Python objects, which would have to be executed to be read; save "
            "arrays of one shape and type, such as array.astype(numpy.float32)"
        ) from error


def _csv(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content))


def _parquet(content: bytes) -> pd.DataFrame:
    table = pq.read_table(io.BytesIO(content))
    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()  # pandas' notes would be taken for orders
    return frame


_READERS: Mapping[str, Callable[[bytes], Any]] = {"npz": _arrays, "npy": _array, "csv": _csv, "parquet": _parquet}


def as_table(array: np.ndarray) -> pd.DataFrame:
    """An array of one series as a table, whose columns are called by their numbers from 0 on.

    Args:
        array: shape (steps,) or (steps, features).

    Raises:
        DataError: another number of dimensions.
    """
    if array.ndim not in (1, 2):
        raise DataError(f"`inputs` must be of shape (steps,) or (steps, features), got {array.shape}")
    flat = array.reshape(len(array), -1)
    return pd.DataFrame(flat, columns=[str(number) for number in range(flat.shape[1])])


def named(table: pd.DataFrame, names: Iterable[Name], key: str) -> list[str]:
    """Columns of a table by what the user calls them.

    Args:
        table: whose columns are searched.
        names: as they are configured; numbers stand for names of digits.
        key: of the configuration, for the message.

    Raises:
        DataError: the table has no such column, or two.
    """
    columns, found = [str(column) for column in table.columns], [str(name) for name in names]
    for name in found:
        if columns.count(name) != 1:
            there = shortened(", ".join(columns), _MOST_SHOWN)
            raise DataError(f"`{key}` must name a column of the data, got {name}; there are: {there}")
    return found


def numbers(table: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Columns as numbers, shape (rows, columns), float64.

    Args:
        table: with text for column names.
        columns: some of them.

    Raises:
        DataError: one holds something else than real numbers, or misses values.
    """
    each = [_numbers(table[column], column) for column in columns]
    return np.stack(each, axis=1) if each else np.empty((len(table), 0))


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    refuse_missing(column, name)
    if column.dtype.kind not in _NUMBERS:
        is_text = pd.to_numeric(column.astype(str), errors="coerce").isna().to_numpy()
        row = int(is_text.argmax())
        raise DataError(
            f"column `{name}` must hold real numbers, got {shortened(str(column.iloc[row]), 40)!r} in row {row + 1}; "
            "leave it out by task.features=[…] with all columns that are to be fed"
        )
    values = column.to_numpy(dtype=np.float64)
    _refuse_first(~np.isfinite(values), f"column `{name}`", "infinite values")
    return values


def refuse_missing(column: pd.Series, name: str) -> None:
    """Refuse a column with empty cells, None or NaN.

    Args:
        column: of a table.
        name: its name.

    Raises:
        DataError: which column, which row, how many.
    """
    _refuse_first(column.isna().to_numpy(), f"column `{name}`", "missing values")


def check_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """An array of any shape as float64.

    Args:
        array: samples or steps first.
        name: for the message.

    Raises:
        DataError: it holds something else than finite real numbers.
    """
    if array.dtype.kind not in _NUMBERS:
        raise DataError(f"`{name}` must hold real numbers, got an array of {array.dtype}; convert it, or leave it out")
    values = array.astype(np.float64)
    is_bad: np.ndarray = ~np.isfinite(values.reshape(len(values), -1))
    _refuse_first(np.any(is_bad, axis=1), f"`{name}`", "missing or infinite values", int(is_bad.sum()))
    return values


def _refuse_first(is_bad: np.ndarray, what: str, found: str, count: int | None = None) -> None:
    if is_bad.any():
        row = int(is_bad.argmax()) + 1
        count = int(is_bad.sum()) if count is None else count
        raise DataError(
            f"{what} must hold a number or a name in every row, got {count} {found}, the first in row {row} of "
            f"{len(is_bad)} (counted from 1, without a header); fill them or leave those rows out"
        )


def refuse_disorder(table: pd.DataFrame, column: str, groups: np.ndarray) -> None:
    """Refuse rows whose time does not rise.

    Args:
        table: the data.
        column: its time.
        groups: number of the sequence that each row belongs to, shape (rows,).

    Raises:
        DataError: time stands still or falls within a sequence.
    """
    refuse_missing(table[column], column)
    order = np.argsort(groups, kind="stable")
    times = table[column].iloc[order].reset_index(drop=True)
    is_later = (times[1:].reset_index(drop=True) > times[:-1]).to_numpy() | (np.diff(groups[order]) > 0)
    if not is_later.all():
        place = int(is_later.argmin()) + 1
        raise DataError(
            f"column `{column}` must rise from row to row{' of a sample' if groups.any() else ''}, got {times[place]} "
            f"after {times[place - 1]} in row {order[place] + 1}; sort the file by it, with one row a step"
        )
