"""The precision study against records written by hand: exponentials whose underflow lags are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.precision_horizon import figure, precision_error, precision_horizon
from experiments.precision_horizon.precision_horizon import SMALLEST_NORMAL, interval_of_median, middle
from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort, records
from gradhorizon.measurements.precision import Precision
from gradhorizon.records.writing import MemberRecords
from tests.records_on_disk import end
from tests.synthetic_runs import SyntheticRun

LAGS = np.array([0, 1, 2, 5, 10, 20, 50, 99])
SCALES = (1.0, 1024.0)


def precision_rows(rate: float, start: float, underflow_lag: float, error: float, is_supported: bool) -> pd.DataFrame:
    """Rows of one member: its entries are exponential in every format, its lags and errors are what is given."""
    parts = []
    for dtype in SMALLEST_NORMAL:
        for scale in SCALES:
            values = {
                **{column.name: 0.0 for column in Precision.table.columns},
                "dtype": dtype,
                "loss_scale": scale,
                "is_supported": is_supported or dtype != "float16",
                "largest_entry_median": scale * start * np.exp(rate * LAGS),
                "relative_error_median": error,
                "underflow_lag_steps": min(underflow_lag, 99.0) if is_supported or dtype != "float16" else np.nan,
                "is_underflow_censored": math.isinf(underflow_lag),
                "zero_lag_steps": 99.0,
                "is_zero_censored": True,
                "num_undefined_errors": 0,
                "num_samples": 32,
            }
            parts.append(pd.DataFrame({**values, "lag": LAGS}))
    return pd.concat(parts, ignore_index=True)


def write_run(
    root: Path,
    rates: Sequence[float],
    lags: Sequence[float],
    model: str = "lstm",
    start: float = 0.1,
    is_supported: bool = True,
) -> None:
    run = SyntheticRun(model=model, input_len=100, outcomes=(None,) * len(rates), tables=())
    folder = run.write(root)
    lead = {name: getattr(run, name) for name in ("experiment", "model", "task", "seq_len", "input_len")}
    for seed, (rate, lag) in enumerate(zip(rates, lags, strict=True)):
        writer = MemberRecords(folder / f"seed-{seed}", {**lead, "run": run.name, "seed": seed})
        writer.append(Precision.table, precision_rows(rate, start, lag, 10.0**-seed, is_supported), 0, "init")
        end(writer)


def read(root: Path) -> Cohort:
    return read_cohort([root])


def row(cohort: Cohort, dtype: str, scale: float = 1.0) -> dict[str, Any]:
    table = precision_horizon.summarise(cohort)
    found = table[(table["dtype"] == dtype) & (table["loss_scale"] == scale)]
    assert len(found) == 1
    return records(found)[0]


RATES = [-0.5, -0.52, -0.48, -0.51, -0.49]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    write_run(tmp_path, RATES, [20, 22, 24, 26, 28])
    return read(tmp_path)


def test_rate_start_and_lags_are_those_written(cohort: Cohort) -> None:
    found = row(cohort, "float16")
    assert (found["rate"], found["start"]) == pytest.approx((-0.5, 0.1), rel=1e-9)
    assert (found["underflow_lag"], found["span"], found["num_seeds"]) == (24, 99, 5)
    assert math.isinf(found["zero_lag"])


@pytest.mark.parametrize(("dtype", "exponent"), [("float16", 14), ("bfloat16", 126), ("float32", 126)])
@pytest.mark.parametrize(("scale", "digits"), [(1.0, 0), (1024.0, 10)])
def test_expected_lag_counts_binary_digits(
    cohort: Cohort, dtype: str, exponent: int, scale: float, digits: int
) -> None:
    nats = (exponent + digits) * math.log(2) + math.log(0.1)
    assert row(cohort, dtype, scale)["expected"] == pytest.approx(nats / 0.5, rel=1e-9)


def test_intervals_of_five_seeds_lie_within_their_range(cohort: Cohort) -> None:
    found = row(cohort, "float32")
    assert 20 <= found["underflow_lag_low"] < 24 < found["underflow_lag_high"] <= 28
    assert -0.52 - 1e-9 <= found["rate_low"] < -0.5 < found["rate_high"] <= -0.48 + 1e-9


def test_a_censored_lag_stays_infinite_and_is_never_averaged(tmp_path: Path) -> None:
    write_run(tmp_path, RATES, [20, 22, math.inf, math.inf, math.inf])
    found = row(read(tmp_path), "float32")
    assert (found["underflow_lag"], found["underflow_lag_high"]) == (math.inf, math.inf)
    assert found["underflow_lag_low"] == 20


def test_middle_of_an_even_number_is_the_lower_of_two() -> None:
    assert middle(np.array([math.inf, 3.0, 1.0, math.inf])) == 3


def test_interval_of_few_seeds_is_their_range() -> None:
    assert interval_of_median(np.array([3.0, math.inf, 2.0])) == (2, math.inf)


def test_interval_of_enough_seeds_runs_between_two_of_them_and_may_be_censored() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, math.inf, math.inf])
    assert interval_of_median(values) == (2, math.inf)
    assert interval_of_median(values[:5]) == (1, 16)


def test_stable_gradient_is_never_expected_to_underflow(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 5, [math.inf] * 5)
    assert row(read(tmp_path), "float16")["expected"] == math.inf


def test_gradient_that_is_zero_at_lag_zero_has_no_rate(tmp_path: Path) -> None:
    write_run(tmp_path, [-0.5] * 5, [0.0] * 5, start=0.0)
    found = row(read(tmp_path), "float16")
    assert np.isnan([found["rate"], found["expected"]]).all()
    assert found["underflow_lag"] == 0


def test_errors_are_the_median_and_quartiles_of_the_seeds(cohort: Cohort) -> None:
    table = precision_error.summarise(cohort)
    assert set(table["dtype"]) == {"float16", "bfloat16", "float32"}
    assert len(table) == 3 * len(LAGS)
    for name, error in (("low", 1e-3), ("median", 1e-2), ("high", 1e-1)):
        np.testing.assert_allclose(table[name], error, rtol=1e-12)


@pytest.mark.parametrize("program", [precision_horizon, precision_error], ids=["lags", "errors"])
@pytest.mark.parametrize("oddity", ["unsupported", "stable", "dead"])
def test_odd_records_are_drawn(program: Any, oddity: str, tmp_path: Path) -> None:
    start = 0.0 if oddity == "dead" else 0.1
    rates, lags = [0.0] * 5 if oddity == "stable" else RATES, [0, 22, 24, math.inf, math.inf]
    write_run(tmp_path, rates, lags, start=start, is_supported=oddity != "unsupported")
    with appearance.styled():
        assert [draw().axes for draw in program.figures(read(tmp_path)).values()]


@pytest.mark.parametrize("program", [precision_horizon, precision_error], ids=["lags", "errors"])
def test_every_model_of_a_format_stands_in_its_panel(program: Any, tmp_path: Path) -> None:
    write_run(tmp_path, RATES, [20, 22, 24, 26, 28])
    write_run(tmp_path, [0.0, 0.01], [math.inf] * 2, model="irnn")
    cohort = read(tmp_path)
    with appearance.styled():
        (figure,) = (draw() for draw in program.figures(cohort).values())
    for ax in figure.axes:
        assert {line.get_color() for line in ax.lines} >= set(cohort.look["color"])


def test_program_explains_itself_and_redraws_the_study_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        figure.main(["--help"])
    assert "run folders" in capsys.readouterr().out
    write_run(tmp_path / "runs", RATES, [20, 22, 24, 26, 28])
    figure.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    stems = {path.stem.partition("-")[0] for path in (tmp_path / "out").iterdir()}
    assert stems == {"precision_horizon", "precision_error"}
