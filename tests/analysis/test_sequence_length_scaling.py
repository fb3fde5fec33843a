"""Growth rate and horizon per length against the rates the runs were written with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradhorizon.analysis.drawing.appearance import panels, styled
from gradhorizon.analysis.figures.sequence_length_scaling import draw, plot, summarise
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.analysis.report.charts.sequence_length_scaling import panels as scaling_panels
from tests.synthetic_runs import SyntheticRun, exponential


def _row(cohort: Cohort, stage: str, seq_len: int = 50, series: str = "lstm") -> Any:
    table = summarise(cohort)
    found = table[(table["stage"] == stage) & (table["seq_len"] == seq_len) & (table["series"] == series)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize("seq_len", [50, 100])
def test_rate_is_the_median_of_seeds_between_their_range(cohort: Cohort, seq_len: int) -> None:
    row = _row(cohort, "at init", seq_len)
    assert (row["rate_low"], row["rate"], row["rate_high"]) == pytest.approx((-0.6, -0.5, -0.4), rel=1e-9)
    assert not row["has_interval"]


def test_horizon_is_that_of_the_median_profile_between_the_seeds(cohort: Cohort) -> None:
    row = _row(cohort, "at init")
    assert [row[name] for name in ("horizon_low", "horizon", "horizon_high")] == [12, 14, 18]


@pytest.mark.parametrize(("seq_len", "last_lag"), [(50, 69), (100, 119)])
def test_horizon_beyond_the_sequence_is_censored_at_the_longest_lag(
    cohort: Cohort, seq_len: int, last_lag: int
) -> None:
    row = _row(cohort, "after training", seq_len)
    assert (row["horizon"], row["horizon_is_censored"], row["span"]) == (last_lag, True, last_lag)


def test_three_seeds_have_a_tendency_and_no_verdict(cohort: Cohort) -> None:
    row = _row(cohort, "at init")
    assert (row["tendency"], row["verdict"]) == ("3/3 vanishing", "not estimable (3 seeds)")


def test_five_seeds_have_an_interval_and_a_verdict(tmp_path: Path) -> None:
    rates = [-0.50, -0.52, -0.48, -0.51, -0.49]
    SyntheticRun(init=[exponential(rate) for rate in rates], outcomes=(None,) * 5).write(tmp_path)
    row = _row(read_cohort([tmp_path]), "at init")
    assert row["has_interval"]
    assert row["verdict"] == "vanishing"
    assert -0.52 <= row["rate_low"] <= -0.5 <= row["rate_high"] <= -0.48


def test_seeds_split_between_two_folders_are_one_point(tmp_path: Path) -> None:
    SyntheticRun(experiment="a", init=exponential(-0.4), outcomes=(None,)).write(tmp_path)
    SyntheticRun(experiment="b", init=exponential(-0.6), outcomes=(None,), first_seed=1).write(tmp_path)
    row = _row(read_cohort([tmp_path]), "at init")
    assert row["num_seeds"] == 2
    assert row["rate"] == pytest.approx(-0.5, rel=1e-9)


@pytest.fixture
def partly_censored(tmp_path: Path) -> Cohort:
    """Five seeds over 69 lags: at init the median reaches 14 steps and one beyond, in the end all but one do."""
    slow = [exponential(rate) for rate in (-0.6, -0.5, -0.5, -0.4, 0.0)]
    reaching = [exponential(rate) for rate in (-0.5, 0.0, 0.0, 0.0, 0.0)]
    SyntheticRun(init=slow, trained=reaching, outcomes=(None,) * 5).write(tmp_path)
    return read_cohort([tmp_path])


def test_ends_of_an_interval_are_censored_apart_from_the_point(partly_censored: Cohort) -> None:
    names = [f"{name}{end}" for name in ("horizon_low", "horizon", "horizon_high") for end in ("", "_is_censored")]
    assert [_row(partly_censored, "at init")[name] for name in names] == [12, False, 14, False, 69, True]
    assert [_row(partly_censored, "after training")[name] for name in names] == [14, False, 69, True, 69, True]


@pytest.mark.parametrize(("stage", "num_hollow"), [("at init", 0), ("after training", 1)])
def test_censored_points_are_hollow_and_whatever_is_censored_has_an_arrow(
    partly_censored: Cohort, stage: str, num_hollow: int
) -> None:
    table = summarise(partly_censored)
    with styled():
        ax = panels(1, 1)[1][0, 0]
        plot(table[table["stage"] == stage], ax, "horizon")
    drawn = [(line, np.asarray(line.get_ydata()).tolist()) for line in ax.lines]
    arrows = [y for line, y in drawn if line.get_marker() == r"$\uparrow$" and y]
    assert arrows == [[pytest.approx(69 * 1.16)]] * (1 + num_hollow)
    assert [y for line, y in drawn if line.get_markerfacecolor() == "white" and y] == [[69.0]] * num_hollow


def test_report_draws_censored_horizons_hollow_and_with_an_arrow(partly_censored: Cohort) -> None:
    specs = {panel.title: panel.spec for panel in scaling_panels(summarise(partly_censored))}
    hollow, arrows = {}, {}
    for stage in ("at init", "after training"):
        spec = specs[f"gradient horizon · {stage}"]
        marks = [(layer["mark"], spec["datasets"][layer["data"]["name"]]) for layer in spec["layer"]]
        hollow[stage] = [row["said"] for mark, own in marks if mark.get("filled") is False for row in own]
        arrows[stage] = [list(own[0].values())[-1] for mark, own in marks if mark["type"] == "text"]
    assert hollow == {"at init": [], "after training": ["> 69"]}
    assert arrows == {"at init": [69.0], "after training": [69.0, 69.0]}


def test_legend_says_what_the_bars_cover(partly_censored: Cohort) -> None:
    with styled():
        figure = draw(summarise(partly_censored), "")
    said = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert "Bar: 93.75 % interval of the median over seeds. Hollow: the point itself is censored." in said


def test_zero_lags_are_counted(tmp_path: Path) -> None:
    SyntheticRun(init=lambda lags: np.where(lags < 5, 1.0, 0.0)).write(tmp_path)
    row = _row(read_cohort([tmp_path]), "at init")
    assert (row["num_zero_lags"], row["rate"]) == (65, -np.inf)
