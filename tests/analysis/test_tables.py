"""What `gradhorizon.read` returns, against the files themselves and closed forms; and the page that tells of it."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import gradhorizon
from gradhorizon.records.tables import LEAD_COLUMNS, RecordsError
from tests.analysis.recorded import record
from tests.synthetic_runs import INPUT_GRADIENTS, SyntheticRun, exponential

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reading.md"


def test_tables_hold_the_rows_of_all_members(tmp_path: Path) -> None:
    one, other = SyntheticRun().write(tmp_path), SyntheticRun(model="gru", seq_len=20, input_len=40).write(tmp_path)
    tables = gradhorizon.read(one, other)
    for name in ("metrics", "input_gradients", "parameter_gradients"):
        files = [pq.read_table(path) for path in sorted(tmp_path.rglob(f"{name}.parquet"))]
        assert len(tables[name]) == sum(file.num_rows for file in files)
        expected = pd.concat([file.to_pandas() for file in files])
        keys = list(expected.columns)
        pd.testing.assert_frame_equal(
            tables[name][keys].sort_values(keys, ignore_index=True), expected.sort_values(keys, ignore_index=True)
        )
    assert set(tables["metrics"]["series"]) == {"lstm", "gru"}
    assert len(tables.members) == 6


@pytest.mark.parametrize("is_frozen", [False, True])
def test_every_column_has_its_unit_and_meaning(is_frozen: bool, tmp_path: Path) -> None:
    folder = SyntheticRun().write(tmp_path)
    if is_frozen:  # whose files keep no descriptions
        folder = ROOT / "experiments" / "reach_at_initialization" / "records"
    columns = gradhorizon.read(folder).columns("input_gradients")
    for column in (*LEAD_COLUMNS, *INPUT_GRADIENTS.columns):
        assert tuple(columns.loc[column.name]) == (column.unit, column.description)
    assert (columns != "").all(axis=None)


def test_horizons_are_those_of_the_closed_form(tmp_path: Path) -> None:
    # exp(rate · τ) stays under 1/1000 from the first τ > ln 1000 / −rate.
    rates = (-0.5, -0.3, -0.01)
    SyntheticRun(init=[exponential(rate) for rate in rates], trained=exponential(-0.2)).write(tmp_path)
    horizons = gradhorizon.read(tmp_path).horizons()
    assert list(horizons.groupby("seed").size()) == [2, 2, 2]
    at_init = horizons[horizons["step"] == 0].set_index("seed")
    for seed, rate in enumerate(rates):
        expected = math.floor(math.log(1000) / -rate) + 1
        found = at_init.loc[seed]
        assert found["is_censored"] == (expected > 69)
        assert found["horizon_steps"] == min(expected, 69)
        assert found["growth_rate_nats_per_step"] == pytest.approx(rate, rel=1e-9)
    trained = horizons[horizons["step"] > 0]
    assert set(trained["horizon_steps"]) == {math.floor(math.log(1000) / 0.2) + 1}
    assert set(trained["step"]) == {400, 600, 1000}


def test_steps_after_the_probed_one_are_no_lag_of_the_horizon(tmp_path: Path) -> None:
    rows = pd.DataFrame({"lag": [3, 0, -2, 1, -1, 2], "step": 0, "phase": "init"})
    known = rows.assign(relative_gradient_norm_median=[1e-6, 1.0, 1e-9, 1e-2, 1e-9, 1e-4])
    unknown = rows.assign(relative_gradient_norm_median=[math.nan, math.nan, 1e-9, math.nan, 1e-9, math.nan])
    record(SyntheticRun(outcomes=(None, None), tables=()), tmp_path, "input_gradients", [known, unknown])
    horizons = gradhorizon.read(tmp_path).horizons()
    assert horizons["horizon_steps"].tolist() == pytest.approx([2, math.nan], nan_ok=True)
    assert not horizons["is_censored"].any()
    assert horizons["growth_rate_nats_per_step"][0] == pytest.approx(-2 * math.log(10), rel=1e-12)


def test_another_level_gives_another_horizon(tmp_path: Path) -> None:
    SyntheticRun(init=exponential(-0.5), tables=("input_gradients",)).write(tmp_path)
    horizons = gradhorizon.read(tmp_path).horizons(level=math.exp(-3.25))
    assert set(horizons[horizons["step"] == 0]["horizon_steps"]) == {7}


def test_profiles_that_end_at_zero_or_say_nothing_have_such_horizons(tmp_path: Path) -> None:
    def cut(lags: np.ndarray) -> np.ndarray:
        return np.where(lags < 10, 1.0, 0.0)

    def nothing(lags: np.ndarray) -> np.ndarray:
        return np.full(len(lags), np.nan)

    SyntheticRun(init=[cut, nothing], outcomes=(400, None)).write(tmp_path)
    at_init = gradhorizon.read(tmp_path).horizons().query("step == 0").set_index("seed")
    assert at_init.loc[0, "horizon_steps"] == 10
    assert at_init.loc[0, "growth_rate_nats_per_step"] == -math.inf
    assert math.isnan(float(str(at_init.loc[1, "horizon_steps"])))


def test_a_table_is_yours_to_change(tmp_path: Path) -> None:
    SyntheticRun().write(tmp_path)
    tables = gradhorizon.read(tmp_path)
    rows = tables["metrics"]
    rows["value"] = 0.0
    assert (tables["metrics"]["value"] != 0).any()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    SyntheticRun(tables=("metrics",), outcomes=(400, "failed")).write(tmp_path)
    with pytest.raises(RecordsError, match="no run found"):
        gradhorizon.read(tmp_path / "nowhere")
    with pytest.raises(RecordsError, match="name at least one folder"):
        gradhorizon.read()
    with pytest.raises(RecordsError, match="seed-1: failed"):
        gradhorizon.read(tmp_path)
    tables = gradhorizon.read(tmp_path, partial=True)
    with pytest.raises(KeyError, match="no member recorded a table `gates`, there are: metrics"):
        tables["gates"]
    with pytest.raises(RecordsError, match="no run recorded `input_gradients`"):
        tables.horizons()


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    SyntheticRun().write(tmp_path)
    code = (
        f"import sys, gradhorizon; tables = gradhorizon.read({str(tmp_path)!r})\n"
        "tables.horizons(); tables.columns('metrics'); tables['metrics']\n"
        "print([name for name in ('torch', 'hydra', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_on_reading_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("Agg")
    for experiment, rate in (("one", -0.05), ("other", -0.5)):
        SyntheticRun(experiment=experiment, trained=exponential(rate), untold=experiment).write(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8").replace("```", "\n")
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(examples.examples) > 10
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    result = runner.run(examples, out=said.append)
    assert result.failed == 0, "".join(said)
    assert (tmp_path / "two_experiments.png").is_file()
