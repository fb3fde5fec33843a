"""The horizon and range that the mirror logs of a profile, against the analysis, which has them from the records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import growth
from gradhorizon.mirrors.mirror import RunInfo
from gradhorizon.mirrors.profiles import gradient_horizon
from gradhorizon.mirrors.run_log import HORIZON_KEY, PROFILE_KEY, RunLog
from tests.mirrors.rows import input_gradient_rows
from tests.mirrors.test_mirror import run_info

PROFILES = {
    "decays": 10.0 ** (-0.7 * np.arange(12)),
    "stays": np.full(6, 0.5),
    "is exactly on the level": np.array([1.0, 1e-2, 1e-3, 1e-3]),
    "dips and comes back": np.array([1.0, 1e-5, 1e-1, 1e-5]),
    "reaches the end alone": np.array([1.0, 1e-5, 1e-1]),
    "is cut off": np.array([1.0, 0.1, 0.0, 0.0]),
    "is under from the start": np.full(4, 1e-9),
    "is unknown in the middle": np.array([1.0, 1e-5, np.nan, 1e-5, 1e-6]),
    "overflows": np.array([1.0, np.inf, np.inf]),
    "is one step": np.array([1.0]),
}


@pytest.mark.parametrize("name", PROFILES)
def test_horizon_is_that_of_the_analysis(name: str) -> None:
    norms = PROFILES[name]
    lags = np.arange(len(norms))
    with np.errstate(divide="ignore"):
        found = gradient_horizon(pd.Series(np.log10(norms), index=lags))
    expected = growth.gradient_horizon(lags, norms)
    assert found == (expected.lag, expected.is_censored)


def test_horizon_counts_no_lag_before_the_probed_step() -> None:
    profile = pd.Series([0.0, 0.0, 0.0, -4.0, -5.0], index=[-2, -1, 0, 1, 2])
    assert gradient_horizon(profile) == (1, False)


def test_nothing_measured_has_no_horizon() -> None:
    assert gradient_horizon(pd.Series([np.nan, np.nan])) is None


class Rows:
    """A history in memory."""

    resumed = False

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []

    def define_metric(self, name: str, *, step_metric: str | None = None, hidden: bool | None = None) -> None:
        pass

    def log(self, data: dict[str, Any]) -> None:
        self.rows.append(data)


@pytest.fixture
def history(tmp_path: Path) -> Rows:
    """Three members at init: one of them cut off at lag 2, one that keeps everything."""
    rows = Rows()
    info: RunInfo = run_info(tmp_path)
    log = RunLog(rows, info)
    for seed, profile in enumerate(([1.0, 1e-2, 0.0, 0.0], [1.0, 1e-1, 1e-4, 1e-6], [1.0, 1.0, 1.0, 1.0])):
        log.table("input_gradients", input_gradient_rows(seed, 0, "init", profile))
    log.profiles()
    return rows


def test_summary_holds_the_horizon_of_members_and_median(history: Rows) -> None:
    measured = {name: history.summary[f"{HORIZON_KEY}_init/{name}"] for name in ("seed_0", "seed_1", "median")}
    assert measured == {"seed_0": 2, "seed_1": 2, "median": 2}
    assert not any(history.summary[f"{HORIZON_KEY}_init/{name}_is_beyond"] for name in measured)
    assert not any(f"{HORIZON_KEY}_init/{name}_beyond" in history.summary for name in measured)


def test_censored_horizon_is_no_number_of_steps_but_what_it_lies_beyond(history: Rows) -> None:
    key = f"{HORIZON_KEY}_init/seed_2"
    assert (history.summary[f"{key}_is_beyond"], history.summary[f"{key}_beyond"]) == (True, 3)
    assert key not in history.summary


def test_profile_of_two_directions_is_logged_by_the_distance_to_the_nearest_end(tmp_path: Path) -> None:
    rows = Rows()
    log = RunLog(rows, replace(run_info(tmp_path), config={"model": {"bidirectional": True}}))
    profile = 10.0 ** -np.array([0.0, 2.0, 4.0, 6.0, 4.0, 2.5, 0.0])
    frame = input_gradient_rows(0, 0, "init", profile.tolist())
    same = dict.fromkeys(("gradient_norm_median", "training_loss_gradient_norm_median"), 1.0)
    log.table("input_gradients", frame.assign(lag_from_start=6 - frame["lag"], **same))
    log.profiles()
    key = f"{PROFILE_KEY}_init/median"
    points = {row["lag"]: row[key] for row in rows.rows if key in row}
    assert points == {0: 0.0, 1: pytest.approx(-2.0), 2: pytest.approx(-4.0), 3: pytest.approx(-6.0)}
    assert rows.summary[f"{HORIZON_KEY}_init/median"] == 2
    log.rest(is_finished=True)
    longest = "probe/log10_relative_input_gradient/longest_lag/median"
    assert [row[longest] for row in rows.rows if longest in row] == [pytest.approx(-6.0)]


def test_range_of_the_members_is_logged_over_lag(history: Rows) -> None:
    low, high = f"{PROFILE_KEY}_init/low", f"{PROFILE_KEY}_init/high"
    assert [(row["lag"], row.get(low), row[high]) for row in history.rows if high in row] == [
        (0, 0.0, 0.0),
        (1, -2.0, 0.0),
        (2, None, 0.0),
        (3, None, 0.0),
    ]


def test_range_has_no_horizon(history: Rows) -> None:
    assert not any("/low" in key or "/high" in key for key in history.summary if HORIZON_KEY in key)
