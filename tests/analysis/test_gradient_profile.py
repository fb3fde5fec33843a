"""Profiles: numbers of the table, and figures that are the same bytes when drawn again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from gradhorizon.analysis import command as figures
from gradhorizon.analysis.drawing.appearance import styled
from gradhorizon.analysis.figures import gradient_profile, sequence_length_scaling, training_curves
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from tests.analysis.conftest import HOSTILE, ODD
from tests.synthetic_runs import SyntheticRun, exponential

FIGURES = (gradient_profile, sequence_length_scaling, training_curves)


def _curve(table: pd.DataFrame, stage: str, series: str = "lstm", seq_len: int = 50) -> pd.DataFrame:
    is_meant = (table["series"] == series) & (table["stage"] == stage) & (table["seq_len"] == seq_len)
    return table[is_meant].set_index("lag").sort_index()


def test_line_is_the_median_of_seeds_and_the_band_their_range(cohort: Cohort) -> None:
    curve = _curve(gradient_profile.summarise(cohort), "at init")
    lags = curve.index.to_numpy()
    np.testing.assert_allclose(curve["median"], np.exp(-0.5 * lags), rtol=1e-12, atol=0)
    np.testing.assert_allclose(curve["low"], np.exp(-0.6 * lags), rtol=1e-12, atol=0)
    np.testing.assert_allclose(curve["high"], np.exp(-0.4 * lags), rtol=1e-12, atol=0)


def test_five_seeds_have_a_band_of_quartiles(tmp_path: Path) -> None:
    SyntheticRun(init=[exponential(-0.1 * (seed + 1)) for seed in range(5)], outcomes=(None,) * 5).write(tmp_path)
    curve = _curve(gradient_profile.summarise(read_cohort([tmp_path])), "at init")
    np.testing.assert_allclose(curve["low"], np.exp(-0.4 * curve.index), rtol=1e-12, atol=0)
    np.testing.assert_allclose(curve["high"], np.exp(-0.2 * curve.index), rtol=1e-12, atol=0)


def test_diverged_member_counts_at_init_alone(cohort: Cohort) -> None:
    table = gradient_profile.summarise(cohort)
    assert _curve(table, "at init", HOSTILE)["num_seeds"].unique().tolist() == [3]
    assert _curve(table, "after training", HOSTILE)["num_seeds"].unique().tolist() == [2]


def test_diverged_member_is_named_on_the_figure(cohort: Cohort) -> None:
    assert f"Diverged, so without an end: {HOSTILE} T50 seed 1" in gradient_profile.left_out(
        cohort, "copy_arjovsky2016"
    )


def test_theory_of_the_default_lstm_halves_at_each_step(cohort: Cohort) -> None:
    table = gradient_profile.summarise(cohort)
    curve = _curve(table, "at init")
    np.testing.assert_allclose(curve["expected"], 0.5**curve.index, rtol=1e-12, atol=0)
    assert _curve(table, "after training")["expected"].isna().all()
    assert _curve(table, "at init", HOSTILE)["expected"].isna().all()


def test_exact_zeros_stay_zeros(tmp_path: Path) -> None:
    SyntheticRun(init=lambda lags: np.where(lags < 5, 1.0, 0.0)).write(tmp_path)
    curve = _curve(gradient_profile.summarise(read_cohort([tmp_path])), "at init")
    assert (curve.loc[5:, ["median", "low", "high"]] == 0).all(axis=None)


def test_curve_of_exact_zeros_is_drawn_on_the_floor(tmp_path: Path) -> None:
    SyntheticRun(init=lambda lags: np.where(lags < 5, 1.0, 0.0)).write(tmp_path)
    table = gradient_profile.summarise(read_cohort([tmp_path]))
    with styled():
        ax = gradient_profile.draw(table, "").axes[0]
    floor = [line for line in ax.lines if line.get_transform() == ax.get_xaxis_transform()]
    assert [float(lags[0]) for line in floor if len(lags := np.asarray(line.get_xdata()))] == [5.0]
    assert "exactly 0" in [text.get_text() for text in ax.texts]


def test_lags_after_the_probed_step_are_left_out(cohort: Cohort) -> None:
    assert gradient_profile.seed_profiles(cohort)["lag"].min() == 0


@pytest.mark.parametrize("module", FIGURES, ids=lambda module: module.__name__.split(".")[-1])
def test_redrawn_figures_are_the_same_bytes(module: ModuleType, cohort: Cohort, tmp_path: Path) -> None:
    first = module.write(cohort, tmp_path / "first")
    second = module.write(cohort, tmp_path / "second")
    assert {path.suffix for path in first} == {".png", ".pdf"}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("module", FIGURES, ids=lambda module: module.__name__.split(".")[-1])
def test_odd_runs_are_drawn(module: ModuleType, case: str, tmp_path: Path) -> None:
    ODD[case]().write(tmp_path)
    with styled():
        for draw in module.figures(read_cohort([tmp_path])).values():
            draw().canvas.draw()


@pytest.mark.parametrize("module", FIGURES, ids=lambda module: module.__name__.split(".")[-1])
def test_program_refuses_missing_members_in_one_line_each(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SyntheticRun(outcomes=(None, "failed")).write(tmp_path)
    with pytest.raises(SystemExit, match="seed-1: failed"):
        figures.main([str(tmp_path), "--out", str(tmp_path / "out"), "--only", module.__name__.rpartition(".")[2]])
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out").exists()
