"""Quantiles, norms and counts of which every gradient table is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradhorizon.measurements.summaries import (
    entry_counts,
    log_quantiles,
    norm_summaries,
    sample_norms,
    table_rows,
)
from gradhorizon.records.tables import Column, Table
from tests.oracles_gradients import norm


@pytest.mark.parametrize("scale", [1e-320, 1e-308, 1e-200, 1e-30, 1.0, 1e200, 1e307])
def test_norm_equals_hypot_at_every_magnitude(scale: float) -> None:
    vectors = scale * torch.tensor([[[0.3, -0.2, 0.1]], [[0.0, 0.5, 0.25]]], dtype=torch.float64)
    expected = [norm(vector[0].tolist()) for vector in vectors]
    np.testing.assert_allclose(sample_norms(vectors)[:, 0], expected, rtol=1e-15 if scale > 1e-307 else 1e-2, atol=0)


def test_float32_entries_whose_squares_vanish_have_a_float64_norm() -> None:
    found = sample_norms(torch.full((1, 1, 4), 1e-30))
    np.testing.assert_allclose(found, 2e-30, rtol=1e-6, atol=0)
    assert found.dtype == torch.float64


def test_norm_of_zeros_is_exactly_zero() -> None:
    assert sample_norms(torch.zeros(1, 1, 3)).item() == 0


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_norm_with_an_infinite_entry_is_infinite(bad: float) -> None:
    assert sample_norms(torch.tensor([[[1.0, bad]]])).item() == np.inf


def test_norm_with_a_nan_entry_is_nan() -> None:
    assert np.isnan(sample_norms(torch.tensor([[[1.0, np.nan, np.inf]]])).item())


def test_quantiles_equal_numpy_quantiles_of_logs(generator: np.random.Generator) -> None:
    values = np.exp(generator.normal(scale=20, size=(17, 5)))
    expected = np.exp(np.quantile(np.log(values), [0.1, 0.5, 0.9], axis=0))
    np.testing.assert_allclose(log_quantiles(values, [0.1, 0.5, 0.9]), expected, rtol=1e-12, atol=0)


def test_quantile_between_the_extremes_of_float64_is_their_geometric_mean() -> None:
    found = log_quantiles(np.array([[1e-300], [1e300]]), [0.5])
    np.testing.assert_allclose(found, 1.0, rtol=1e-12, atol=0)


def test_twice_the_values_give_exactly_twice_the_quantiles(generator: np.random.Generator) -> None:
    values = np.exp(generator.normal(scale=50, size=(8, 40)))
    assert (log_quantiles(2 * values, [0.1, 0.5, 0.9]) == 2 * log_quantiles(values, [0.1, 0.5, 0.9])).all()


def test_quantile_that_touches_a_zero_is_exactly_zero() -> None:
    assert log_quantiles(np.array([[0.0], [1.0]]), [0.0, 0.5, 1.0]).ravel().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_non_finite_values_are_left_out_of_quantiles(bad: float) -> None:
    assert log_quantiles(np.array([[bad], [3.0], [bad]]), [0.1, 0.5, 0.9]).ravel().tolist() == [3.0, 3.0, 3.0]


def test_quantile_of_no_finite_value_is_nan() -> None:
    assert np.isnan(log_quantiles(np.array([[np.nan], [np.inf]]), [0.5])).all()


@pytest.mark.parametrize("reference", [0.0, np.inf, np.nan])
def test_relative_norm_without_a_reference_is_counted_not_invented(reference: float) -> None:
    found = norm_summaries(np.array([[1.0, 4.0], [1.0, 3.0]]), np.array([reference, 2.0]))
    assert found["num_undefined_relative_norms"].tolist() == [1, 1]
    assert found["relative_gradient_norm_median"].tolist() == [0.5, 1.5]


def test_relative_norm_that_overflows_is_counted() -> None:
    found = norm_summaries(np.array([[1e300]]), np.array([1e-300]))
    assert found["num_undefined_relative_norms"].tolist() == [1]
    assert np.isnan(found["relative_gradient_norm_median"]).all()


@pytest.mark.parametrize(("dtype", "subnormal"), [(torch.float32, 1e-40), (torch.float64, 1e-310)])
def test_entries_are_counted_in_their_own_precision(dtype: torch.dtype, subnormal: float) -> None:
    entries = torch.tensor([[[0.0, -subnormal, 1.0]], [[torch.inf, torch.nan, -0.0]]], dtype=dtype)
    counts = {name: int(rows[0]) for name, rows in entry_counts(entries).items()}
    assert counts == {
        "num_entries": 6,
        "num_zero_entries": 2,
        "num_subnormal_entries": 1,
        "num_non_finite_entries": 2,
    }


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(KeyError, match="b"):
        table_rows(Table("x", "", (Column("a", "int64", "", ""), Column("b", "int64", "", ""))), {"a": [1]})


def test_no_rows_keep_the_types_of_their_columns() -> None:
    table = Table(
        "x", "", (Column("a", "int64", "", ""), Column("b", "float64", "", ""), Column("c", "string", "", ""))
    )
    assert table_rows(table, {"a": [], "b": [], "c": []}).dtypes.astype(str).tolist() == ["int64", "float64", "object"]


def test_rows_have_the_types_of_their_columns_whatever_they_were_given_as() -> None:
    columns = (Column("a", "int64", "", ""), Column("b", "float64", "", ""), Column("c", "string", "", ""))
    frame = table_rows(Table("x", "", columns), {"a": [1.0, 2.0], "b": 3, "c": "each", "unwanted": [0, 0]})
    assert frame.dtypes.astype(str).to_dict() == {"a": "int64", "b": "float64", "c": "object"}
    assert frame.to_numpy().tolist() == [[1, 3.0, "each"], [2, 3.0, "each"]]


def test_nan_is_no_integer() -> None:
    with pytest.raises(ValueError, match="NA or inf"):
        table_rows(Table("x", "", (Column("a", "int64", "", ""),)), {"a": [1.0, np.nan]})
