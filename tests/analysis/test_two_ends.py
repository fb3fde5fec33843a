"""Bidirectional networks from records to table, figures, report and W&B: one U of known rate, measured at both ends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradhorizon.analysis import verdicts
from gradhorizon.analysis.drawing.appearance import styled
from gradhorizon.analysis.figures import gradient_profile, sequence_length_scaling
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.analysis.report import report
from gradhorizon.analysis.wandb_report import report as wandb_report
from gradhorizon.analysis.wandb_report.keys import logged_keys
from gradhorizon.mirrors.run_log import HORIZON_KEY, PROFILE_KEY
from tests.runs_on_disk import run
from tests.synthetic_runs import Profile, SyntheticRun, config_of, exponential

TWO_ENDS = config_of("lstm.LSTM", "initialization.uniform", model={"bidirectional": True})
ONE_END = config_of("lstm.LSTM", "initialization.uniform")


def u_shape(rate: float, seed: int | None = None) -> Profile:
    """exp(rate · distance to the nearer end), with 5 % scatter if there is a seed."""

    def norms(lags: np.ndarray) -> np.ndarray:
        scatter = 0.0 if seed is None else 0.05 * np.random.default_rng(seed).standard_normal(len(lags))
        return np.asarray(np.exp(rate * np.minimum(lags, lags.max() - lags) + scatter))

    return norms


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Bilstm with a U of rate −0.4 over 100 steps at init that reaches everything in the end, beside an lstm."""
    root = tmp_path_factory.mktemp("runs")
    scattered = [u_shape(-0.4, seed) for seed in range(5)]
    SyntheticRun(model="bilstm", color="#770055", marker="<", seq_len=100, input_len=100, init=scattered,
                 trained=u_shape(-0.01), outcomes=(None,) * 5, config=TWO_ENDS).write(root)  # fmt: skip
    SyntheticRun(seq_len=100, input_len=100, init=exponential(-0.4), outcomes=(None,) * 5, config=ONE_END).write(root)
    return read_cohort([root])


def row(cohort: Cohort, series: str = "bilstm", stage: str = "at init") -> Any:
    table = sequence_length_scaling.summarise(cohort)
    return table[(table["series"] == series) & (table["stage"] == stage)].iloc[0]


def test_u_has_the_rate_the_verdict_and_the_horizon_of_its_sides(both: Cohort) -> None:
    found = row(both)
    assert found["rate"] == pytest.approx(-0.4, abs=3e-3)
    assert (found["verdict"], found["span"], found["decay_law"]) == ("vanishing", 49, "exponential")
    assert np.exp(-0.4 * 18) < 1e-3 < np.exp(-0.4 * 17)
    assert (found["horizon"], found["horizon_is_censored"]) == (18, False)


def test_u_that_stays_is_stable_and_censored_at_its_middle(both: Cohort) -> None:
    found = row(both, stage="after training")
    assert (found["verdict"], found["horizon"], found["horizon_is_censored"]) == ("stable", 49, True)
    assert found["rate"] == pytest.approx(-0.01, rel=1e-9)


def test_other_models_are_measured_by_the_lag(both: Cohort) -> None:
    found = row(both, "lstm")
    assert (found["span"], found["horizon"], found["has_two_ends"]) == (99, 18, False)
    assert found["rate"] == pytest.approx(-0.4, rel=1e-12)


def test_the_same_records_without_a_second_direction_are_left_as_they_are(tmp_path: Path) -> None:
    for name, config in (("told", ONE_END), ("untold", None)):
        SyntheticRun(init=u_shape(-0.4), outcomes=(None,) * 5, config=config).write(tmp_path / name)
    told, untold = (sequence_length_scaling.summarise(read_cohort([tmp_path / name])) for name in ("told", "untold"))
    pd.testing.assert_frame_equal(told, untold)
    assert told["span"].tolist() == [69, 69]


@pytest.mark.parametrize("input_len", [1, 2, 3, 50, 51])
def test_lengths_odd_and_even_are_drawn_and_reported(input_len: int, tmp_path: Path) -> None:
    synthetic = SyntheticRun(seq_len=input_len, input_len=input_len, init=u_shape(-0.3), trained=u_shape(-0.1),
                       outcomes=(None,) * 5, config=TWO_ENDS)  # fmt: skip
    synthetic.write(tmp_path)
    cohort = read_cohort([tmp_path])
    found = row(cohort, "lstm")
    assert found["span"] == (input_len - 1) // 2
    if input_len >= 50:
        assert found["rate"] == pytest.approx(-0.3, rel=1e-9)
    for module in (gradient_profile, sequence_length_scaling):
        with styled():
            for draw in module.figures(cohort).values():
                draw().canvas.draw()
    assert "panels" in report.html(cohort)


def test_axes_say_which_distance_is_drawn(both: Cohort, tmp_path: Path) -> None:
    table = gradient_profile.summarise(both)
    labels = {name: gradient_profile.lag_label(rows, "lag") for name, rows in table.groupby("series")}
    assert labels == {"bilstm": "distance to the nearest read end [steps]", "lstm": "lag [steps]"}
    assert gradient_profile.lag_label(table, "lag") == "lag or distance to the nearest read end [steps]"
    with styled():
        figure = gradient_profile.draw(table, "")
    assert figure.axes[-1].get_xlabel().endswith("or distance to the nearest read end [steps]")
    assert "or distance to the nearest read end [steps]" in report.html(both)
    spec = json.loads(wandb_report.write(both, tmp_path, "lab", "p").read_text(encoding="utf-8"))
    assert "lag τ = t* − t or distance to the nearest read end [steps]" in json.dumps(spec, ensure_ascii=False)


def test_theory_of_one_direction_is_not_drawn_for_two(both: Cohort) -> None:
    table = gradient_profile.summarise(both)
    assert table.loc[table["series"] == "bilstm", "expected"].isna().all()
    assert table.loc[table["series"] == "lstm", "expected"].notna().any()


def test_mirror_logs_the_distance_and_its_horizon(both: Cohort) -> None:
    logged = {name: keys for (_, name), keys in logged_keys(both).items()}
    (bilstm,) = (keys for name, keys in logged.items() if name.startswith("bilstm"))
    assert f"{HORIZON_KEY}_init/median" in bilstm.summary
    assert f"{HORIZON_KEY}_last/median_beyond" in bilstm.summary
    assert ("lag", f"{PROFILE_KEY}_init/median") in bilstm.history


def test_table_says_vanishing_and_the_report_too(both: Cohort) -> None:
    spoken = verdicts.spoken(verdicts.summarise(both))
    assert spoken.loc[spoken["model"] == "bilstm", "verdict at init"].tolist() == ["vanishing"]
    assert re.search(r'data-series="bilstm">.*?<td>18</td><td>&gt; 49</td>', report.html(both), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bilstm", "bigru"])
def test_real_networks_of_two_directions_vanish_as_those_of_one(model: str, tmp_path: Path) -> None:
    shared = ("seq_len=60", "hidden_size=16", "num_seeds=5", "num_steps=1", "val_every_steps=1")
    names = (model, model.removeprefix("bi"))
    cohort = read_cohort([run(tmp_path / name, f"model={name}", *shared) for name in names])
    found, single = (row(cohort, name) for name in names)
    assert (found["verdict"], single["verdict"]) == ("vanishing", "vanishing")
    assert found["rate"] == pytest.approx(single["rate"], rel=0.2)
    assert not found["horizon_is_censored"]
    assert abs(found["horizon"] - single["horizon"]) <= 5
