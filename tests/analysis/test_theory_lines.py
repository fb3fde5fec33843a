"""Theory lines follow the network that was built, whatever it is called."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gradhorizon import theory
from gradhorizon.analysis.drawing.theory_lines import theory_line
from gradhorizon.analysis.figures import gradient_profile
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.machine.installed import CONF_DIR
from tests.synthetic_runs import SyntheticRun, config_of

LAGS = np.arange(0.0, 60.0)
SHIPPED = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml") if path.stem != "external")


def launched(*overrides: str) -> dict[str, Any]:
    """The configuration that a launch writes down."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", overrides=["logger=none", "task=adding_arjovsky2016", "seq_len=40", *overrides])
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def profile(config: dict[str, Any]) -> np.ndarray | None:
    line = theory_line(config)
    return None if line is None else line.profile(LAGS)


EXPECTED = {
    "rnn_tanh": (1 / math.sqrt(3)) ** LAGS,
    "irnn": np.ones(60),
    "rnn_orthogonal": np.ones(60),
    "rnn_gaussian": np.exp(theory.mean_field_tanh_growth_rate(1.5) * LAGS),
    "lstm": 0.5**LAGS,
    "lstm_forget_bias": (1 + math.exp(-1)) ** -LAGS,
    "lstm_chrono": theory.chrono_profile(LAGS, 40),
}
"""Shipped models with a theory; the others have none."""


@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_model_has_its_own_theory_or_none(model: str) -> None:
    found = profile(launched(f"model={model}"))
    if model in EXPECTED:
        assert found is not None
        np.testing.assert_allclose(found, EXPECTED[model], rtol=1e-12)
    else:
        assert found is None


ORTHOGONAL = "model.cell.initialization._target_=gradhorizon.cells.initialization.orthogonal"
GAUSSIAN = "model.cell.initialization._target_=gradhorizon.cells.initialization.gaussian"


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        (["model=rnn_tanh", ORTHOGONAL, "+model.cell.initialization.gain=0.5"], math.log(0.5)),
        (["model=rnn_tanh", ORTHOGONAL], 0.0),
        (["model=rnn_tanh", GAUSSIAN, "+model.cell.initialization.gain=0.7"], math.log(0.7)),
        (["model=rnn_orthogonal", "model.cell.initialization.gain=0.9"], math.log(0.9)),
        (["model=rnn_gaussian", "model.cell.initialization.gain=0.8"], math.log(0.8)),
        (["model=irnn", "+model.cell.initialization.scale=0.5"], math.log(0.5)),
        (["model=irnn", "+model.cell.initialization.input_std=0.1"], 0.0),
        (["model=irnn", "+model.cell.initialization.scale=0.5", "model.cell.nonlinearity=tanh"], math.log(0.5)),
        (["model=lstm_forget_bias", "model.cell.initialization.value=-2"], -math.log1p(math.exp(2))),
        (["model=lstm_forget_bias", "model.cell.initialization.value=0"], math.log(0.5)),
        (["model=lstm", "model.cell.initialization._target_=gradhorizon.cells.lstm.forget_bias"],
         -math.log1p(math.exp(-1))),
        (["model=lstm", "hidden_size=7", "learning_rate=0.5"], math.log(0.5)),
    ],
)  # fmt: skip
def test_line_follows_the_initialisation_and_its_arguments(overrides: list[str], rate: float) -> None:
    found = profile(launched(*overrides))
    assert found is not None
    np.testing.assert_allclose(found, np.exp(rate * LAGS), rtol=1e-12)


def test_chrono_follows_its_own_range_and_not_the_length_of_the_run() -> None:
    found = profile(launched("model=lstm_chrono", "model.cell.initialization.seq_len=300"))
    np.testing.assert_allclose(found, theory.chrono_profile(LAGS, 300), rtol=1e-12)  # type: ignore[arg-type]
    line = theory_line(launched("model=lstm_chrono", "model.cell.initialization.seq_len=2"))
    assert line is not None
    assert np.isnan(line.profile(LAGS)).all()


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=rnn_tanh", "model.cell.nonlinearity=relu"],
        ["model=rnn_orthogonal", "model.cell.nonlinearity=relu"],
        ["model=rnn_tanh", "num_layers=2"],
        ["model=lstm", "num_layers=3"],
        ["model=lstm", "model.bidirectional=true"],
        ["model=lstm", "model.cell.initialization._target_=my_package.my_initialization"],
        ["model=lstm", ORTHOGONAL],
        ["model=lstm", GAUSSIAN, "+model.cell.initialization.gain=2"],
        ["model=lstm", "model.readout._target_=my_package.MyReadout"],
        ["model=lstm", "model.cell._target_=my_package.LSTM"],
        ["model=irnn", "+model.cell.initialization.scale=-1"],
        ["model=rnn_orthogonal", "model.cell.initialization.gain=0"],
        ["model=rnn_orthogonal", "+model.cell.initialization.unheard_of=1"],
        ["model=lstm", "+model.cell.unheard_of=1"],
    ],
    ids=" ".join,
)
def test_what_has_no_theory_has_no_line(overrides: list[str]) -> None:
    assert theory_line(launched(*overrides)) is None


@pytest.mark.parametrize("config", [{}, {"model": "lstm"}, {"model": {"cell": None}}])
def test_configuration_that_says_nothing_has_no_line(config: dict[str, Any]) -> None:
    assert theory_line(config) is None


def test_figure_draws_the_line_of_what_was_built_under_a_shipped_label(tmp_path: Path) -> None:
    built = config_of("elman.Elman", "initialization.orthogonal", nonlinearity="tanh", gain=0.5)
    SyntheticRun(model="rnn_tanh", outcomes=(None,), config=built).write(tmp_path)
    table = gradient_profile.summarise(read_cohort([tmp_path]))
    curve = table[table["stage"] == "at init"].set_index("lag")
    np.testing.assert_allclose(curve["expected"].astype(float), 0.5**curve.index, rtol=1e-12)
    assert curve["assumption"].unique().tolist() == ["λ = ln 0.5, no saturation"]


def test_run_without_its_configuration_has_no_line(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(None,)).write(tmp_path)
    assert gradient_profile.summarise(read_cohort([tmp_path]))["expected"].isna().all()


def test_runs_of_one_label_that_were_built_differently_have_each_its_own_line(tmp_path: Path) -> None:
    for seed, initialization in enumerate(("initialization.uniform", "lstm.forget_bias")):
        config = config_of("lstm.LSTM", initialization)
        SyntheticRun(experiment=f"e{seed}", first_seed=seed, outcomes=(None,), config=config).write(tmp_path)
    table = gradient_profile.summarise(read_cohort([tmp_path]))
    found = {str(one) for one in table.loc[table["stage"] == "at init", "assumption"].unique()}
    assert found == {"λ = ln σ(0), forget gate alone", "λ = ln σ(1), forget gate alone"}
    assert table.loc[table["stage"] == "at init"].groupby("series")["assumption"].nunique().tolist() == [1, 1]
