r"""Summaries of per-sample gradient norms: quantiles in log space, zeros kept exact, exclusions counted.

A norm of 0 is :math:`-\infty` in log space: a quantile that touches one is exactly 0. A norm that is infinite or NaN is
left out of the quantiles and counted; where no sample is left the summary is NaN. Nothing here raises on any value.

Notation: B batch, R rows (lags, cuts), F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.records.tables import Column, Table

PROBABILITIES = {"median": 0.5, "p10": 0.1, "p90": 0.9}
LAYER_COLUMNS = (
    Column("layer", "int64", "dimensionless", "0 is the layer nearest to the input"),
    Column("direction", "string", "name", "forward or backward"),
)
"""Of a quantity that each layer and direction has."""


def norm_columns(unit: str, reference: str) -> tuple[Column, ...]:
    """Columns that `norm_summaries` and `entry_counts` fill.

    Args:
        unit: unit of the gradient.
        reference: what a relative norm was divided by, in words.
    """
    absolute = "of the gradient's norm over samples, quantile taken in log space"
    relative = f"of the gradient's norm divided, per sample, by {reference}"
    counted = "gradient entries (over samples and features) that are"
    return (
        *(Column(f"gradient_norm_{name}", "float64", unit, f"{name} {absolute}") for name in PROBABILITIES),
        *(
            Column(f"relative_gradient_norm_{name}", "float64", "dimensionless", f"{name} {relative}")
            for name in PROBABILITIES
        ),
        Column("num_samples", "int64", "samples", "samples measured, those that the summaries leave out included"),
        Column("num_zero_norms", "int64", "samples", "samples whose norm is exactly 0"),
        Column("num_non_finite_norms", "int64", "samples", "samples left out: their norm is infinite or NaN"),
        Column(
            "num_undefined_relative_norms",
            "int64",
            "samples",
            "samples left out of the relative summaries: norm not finite, or reference 0 or not finite",
        ),
        Column("num_entries", "int64", "entries", "gradient entries counted, over samples and features"),
        Column("num_zero_entries", "int64", "entries", f"{counted} exactly 0"),
        Column("num_subnormal_entries", "int64", "entries", f"{counted} not 0 and below the smallest normal number"),
        Column("num_non_finite_entries", "int64", "entries", f"{counted} infinite or NaN"),
    )


def sample_norms(gradient: Float[Tensor, "B R F"]) -> Float[Tensor, "B R"]:
    """Euclidean norm over features of each sample and row, shape (B, R), float64.

    Each vector is divided by its largest entry first: in float64 too, squares vanish below 1e-162 and overflow
    above 1e154, and gradients reach both.

    Example:
        >>> sample_norms(torch.tensor([[[3e-200, 4e-200]]], dtype=torch.float64)).item()
        5e-200
    """
    exact = gradient.to(torch.float64)
    largest = exact.abs().amax(dim=-1)
    scale = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    norms: Tensor = torch.linalg.vector_norm(exact / scale.unsqueeze(-1), dim=-1, dtype=torch.float64)
    return scale * norms


def entry_counts(gradient: Float[Tensor, "B R F"]) -> dict[str, np.ndarray]:
    """Zero, subnormal (in the gradient's own dtype) and non-finite entries per row, each of shape (R,), int64."""
    size = gradient.abs()
    smallest_normal = torch.finfo(gradient.dtype).tiny
    counts = dict.fromkeys(_COUNTED_KINDS, np.zeros(gradient.shape[1], dtype=np.int64))
    if not _is_all_normal(size, smallest_normal):
        num_zero = (size == 0).sum(dim=(0, 2))
        found = (num_zero, (size < smallest_normal).sum(dim=(0, 2)) - num_zero, (~size.isfinite()).sum(dim=(0, 2)))
        counts = {kind: number.numpy(force=True) for kind, number in zip(_COUNTED_KINDS, found, strict=True)}
    return {"num_entries": np.full(gradient.shape[1], gradient.shape[0] * gradient.shape[2]), **counts}


_COUNTED_KINDS = ("num_zero_entries", "num_subnormal_entries", "num_non_finite_entries")


def _is_all_normal(size: Tensor, smallest_normal: float) -> bool:
    # Mostly nothing is to be counted, and one look at both ends is cheaper than three counts.
    if size.numel() == 0:
        return True
    lowest, highest = size.aminmax()
    return bool((lowest >= smallest_normal) & (highest < torch.inf))  # false for NaN


def norm_summaries(norms: Float[np.ndarray, "B R"], reference: Float[np.ndarray, " B"]) -> dict[str, np.ndarray]:
    """Column name -> summary over samples of every row, each of shape (R,).

    Args:
        norms: norm of each sample and row, shape (B, R).
        reference: what each sample's norms are divided by for the relative summaries, shape (B,).
    """
    relative = _relative(norms, reference)
    absolute_quantiles = log_quantiles(norms, list(PROBABILITIES.values()))
    relative_quantiles = log_quantiles(relative, list(PROBABILITIES.values()))
    return {
        **{f"gradient_norm_{name}": row for name, row in zip(PROBABILITIES, absolute_quantiles, strict=True)},
        **{f"relative_gradient_norm_{name}": row for name, row in zip(PROBABILITIES, relative_quantiles, strict=True)},
        "num_samples": np.full(norms.shape[1], norms.shape[0]),
        "num_zero_norms": (norms == 0).sum(axis=0),
        "num_non_finite_norms": (~np.isfinite(norms)).sum(axis=0),
        "num_undefined_relative_norms": (~np.isfinite(relative)).sum(axis=0),
    }


def log_quantiles(values: Float[np.ndarray, "B R"], probabilities: list[float]) -> Float[np.ndarray, "P R"]:
    r"""Quantiles over samples of non-negative values, interpolated in log space, shape (P, R).

    Between the two neighbours :math:`a \le b` of a quantile lies :math:`a^{1-w} b^w`, which is 0 if :math:`a` is.
    Infinite and NaN values are left out. Twice the values give exactly twice the quantiles.

    Args:
        values: shape (B, R).
        probabilities: P numbers in [0, 1].

    Example:
        >>> log_quantiles(np.array([[1e-2], [1e4], [np.inf], [np.nan]]), [0.0, 0.5]).ravel().round(6).tolist()
        [0.01, 10.0]
    """
    is_kept = np.isfinite(values)
    num_kept = is_kept.sum(axis=0)
    ordered = np.sort(np.where(is_kept, values, np.inf), axis=0)
    last = np.maximum(num_kept - 1, 0)
    position = np.multiply.outer(np.asarray(probabilities, dtype=np.float64), last)
    below = np.floor(position).astype(np.int64)
    low = np.take_along_axis(ordered, below, axis=0)
    high = np.take_along_axis(ordered, np.minimum(below + 1, last), axis=0)
    return np.where(num_kept == 0, np.nan, _geometric_mean(low, high, position - below))


def _geometric_mean(low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    is_mixed = (weight > 0) & (low > 0) & np.isfinite(high)
    # Exponents apart from mantissas: the ratio of two float64 numbers may overflow, and doubling both must be exact.
    low_mantissa, low_exponent = np.frexp(np.where(is_mixed, low, 1.0))
    high_mantissa, high_exponent = np.frexp(np.where(is_mixed, high, 1.0))
    log2_shift = weight * (high_exponent - low_exponent + np.log2(high_mantissa / low_mantissa))
    whole = np.floor(log2_shift).astype(low_exponent.dtype)
    return np.where(is_mixed, np.ldexp(low_mantissa * np.exp2(log2_shift - whole), low_exponent + whole), low)


def _relative(norms: np.ndarray, reference: np.ndarray) -> np.ndarray:
    is_usable = np.isfinite(reference) & (reference > 0)
    with np.errstate(over="ignore"):
        return np.where(is_usable, norms.T / np.where(is_usable, reference, 1.0), np.nan).T


_NUMPY_DTYPES = {
    "string": np.dtype(object),
    "int64": np.dtype("int64"),
    "float64": np.dtype("float64"),
    "bool": np.dtype(bool),
}


def table_rows(table: Table, columns: Mapping[str, Any]) -> pd.DataFrame:
    """Rows with exactly the table's own columns, in its order and its types, also where there are none.

    Args:
        table: the quantity's table.
        columns: column name -> values of every row, or one value for all.

    Raises:
        KeyError: a column of the table is missing.
    """
    typed = {column.name: _typed(columns[column.name], _NUMPY_DTYPES[column.dtype]) for column in table.columns}
    num_rows = max((len(values) for values in typed.values() if values.ndim), default=1)
    # Arrays of their final types: to let pandas find out, and cast, takes longer than many a measurement.
    filled = {
        name: values if values.ndim else np.full(num_rows, values.item(), values.dtype)
        for name, values in typed.items()
    }
    return pd.DataFrame(
        {name: pd.Series(values, dtype=object) if values.dtype.hasobject else values for name, values in filled.items()}
    )


def stacked_rows(table: Table, frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all frames, one below the other; the table's columns without a row where there is no frame."""
    if not frames:
        return table_rows(table, {column.name: [] for column in table.columns})
    return pd.concat(frames, ignore_index=True)


def _typed(values: Any, dtype: np.dtype) -> np.ndarray:
    array = np.asarray(values, dtype if dtype.hasobject else None)
    if array.dtype == dtype:
        return array
    return pd.Series(array.reshape(-1)).astype(dtype).to_numpy().reshape(array.shape)  # which refuses NaN as an integer
