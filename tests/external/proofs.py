"""What is proved of a module from elsewhere: trained, broken off and resumed to the same bits, measured as it is."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from gradhorizon.cells.cell import Recurrent
from gradhorizon.config import ConfigError, validate
from gradhorizon.kernels import external
from gradhorizon.kernels.casting import cast
from gradhorizon.sweeps.launch import launch
from gradhorizon.terminal.reasons import RunFailedError
from gradhorizon.training.build import build_setup
from gradhorizon.training.module import EnsembleModule
from gradhorizon.training.streams import probe_batch
from tests.external.naive import QUANTILES, RELATIVE, Naive, NaiveRecurrence
from tests.external.specimens import Specimen, is_killed
from tests.oracles_gradients import log_quantile, summary
from tests.runs_on_disk import all_tables, assert_same_records, composed

WITH_STATE = ("state_gradients", "lyapunov_spectrum", "temporal_contributions", "state_jacobians")
TABLES = ("input_gradients", *WITH_STATE)
HIDDEN_SIZE, SEQ_LEN, NUM_STEPS, BREAKS_AT = 4, 10, 20, 13
SETTINGS = (
    "model=external",
    f"hidden_size={HIDDEN_SIZE}",
    f"seq_len={SEQ_LEN}",
    f"num_steps={NUM_STEPS}",
    "num_seeds=1",
    "val_every_steps=10",
    "val_size=8",
    f"measurement=[parameter_gradients,{','.join(TABLES)}]",
    "measurement.lyapunov_spectrum.num_exponents=null",
    *(f"measurement.{name}.schedule.num_points=0" for name in TABLES),
    "trainer.checkpoint_every_s=0",
)
_KILLED = """
import os, signal, sys
from omegaconf import OmegaConf
from gradhorizon.sweeps.launch import launch
from gradhorizon.training.module import EnsembleModule

original = EnsembleModule.training_step

def dying(self, batch, batch_idx):
    if self.first_step + batch_idx == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, batch, batch_idx)

EnsembleModule.training_step = dying
launch(OmegaConf.load(sys.argv[1]))
"""


@dataclass(frozen=True)
class Proof:
    """What came of one class.

    Attributes:
        specimen: the class.
        calling: how it is called, in the words of the note.
        refusal: why it is not trained; empty if it is.
        tables: what was measured, and equal to naive autograd.
    """

    specimen: Specimen
    calling: str = ""
    refusal: str = ""
    tables: tuple[str, ...] = ()


@cache
def proved(specimen: Specimen) -> Proof:
    """Train, break off, resume and measure one class.

    Args:
        specimen: the class.

    Raises:
        AssertionError: a bit of the records or of the parameters, or a number differs.
    """
    with TemporaryDirectory() as folder, _notes() as notes:
        whole, broken = Path(folder, "whole"), Path(folder, "broken")
        try:
            trained = launch(configuration(specimen, whole)).folder
        except ConfigError as error:
            return Proof(specimen, refusal=str(error).removeprefix("model: "))
        (_kill if is_killed(specimen) else _break_off)(configuration(specimen, broken))
        resumed = launch(configuration(specimen, broken)).folder
        assert_same_records(trained, resumed, seed=0)
        _assert_same_parameters(trained, resumed)
        tables = held_against_naive(configuration(specimen, whole), trained)
    calling = notes[-1].partition(" is run ")[2] if notes else "on whole segments, as torch.nn calls its own"
    return Proof(specimen, calling, tables=tables)


@cache
def _composed() -> DictConfig:
    return composed(*SETTINGS, "model.cell._target_=torch.nn.GRUCell")


@cache
def _composed_with_encoder() -> DictConfig:
    return composed(*SETTINGS, "model.cell._target_=torch.nn.GRUCell", "model/encoder=linear")


def configuration(specimen: Specimen, runs_dir: Path) -> DictConfig:
    """What ``gradhorizon model=external …`` composes; once for all, as composing takes as long as training."""
    has_encoder = "model/encoder=linear" in specimen.options
    cfg = copy.deepcopy(_composed_with_encoder() if has_encoder else _composed())
    OmegaConf.set_struct(cfg, False)
    written = [one.removeprefix("+") for one in specimen.options if not one.startswith("model/")]
    for one in (f"runs_dir={runs_dir}", f"model.cell._target_={specimen.target}", *written):
        key, _, value = one.partition("=")
        OmegaConf.update(cfg, key, yaml.safe_load(value))
    OmegaConf.set_struct(cfg, True)
    return cfg


@contextmanager
def _notes() -> Iterator[list[str]]:
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external, "say_once", lambda _, words: notes.append(words))
        yield notes


def _break_off(cfg: DictConfig) -> None:
    original = EnsembleModule.training_step

    def breaking(self: EnsembleModule, batch: object, batch_idx: int) -> None:
        if self.first_step + batch_idx == BREAKS_AT:
            raise OSError("the power went out")
        original(self, batch, batch_idx)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnsembleModule, "training_step", breaking)
        with pytest.raises(RunFailedError, match="the power went out"):
            launch(cfg)


def _kill(cfg: DictConfig) -> None:
    path = Path(cfg.runs_dir).with_suffix(".yaml")
    OmegaConf.save(cfg, path)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path), str(BREAKS_AT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr
    assert list(path.parent.glob("broken/*/*/seed-0/checkpoint.pt"))


def _assert_same_parameters(first: Path, second: Path) -> None:
    one, other = (_weights(folder) for folder in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def _weights(folder: Path, phase: str = "last") -> dict[str, torch.Tensor]:
    path = folder / "seed-0" / "checkpoints" / f"{phase}.pt"
    content = torch.load(path, map_location="cpu", weights_only=True)
    assert content["step"] == {"init": 0, "last": NUM_STEPS}[phase]
    weights: dict[str, torch.Tensor] = content["network"]
    return weights


def held_against_naive(cfg: DictConfig, folder: Path) -> tuple[str, ...]:
    """Names of the tables of a finished run, each held against naive autograd on the trained weights."""
    run = validate(cfg)
    setup = build_setup(cfg, run)
    network = setup.build_network()
    network.load_state_dict(_weights(folder))
    network = cast(network, torch.float64).eval()
    (cell,) = network.cells()
    module: Any = cell.module
    batch = probe_batch(setup.task, run.data_seed, run.probe_batch_size)
    tables = {name: rows[rows["phase"] == "last"] for name, rows in all_tables(folder, 0).items() if name in TABLES}
    naive = (NaiveRecurrence if isinstance(cell, Recurrent) else Naive)(network, module, batch, setup.task)
    assert set(tables) == set(TABLES if isinstance(cell, Recurrent) else TABLES[:1])
    _check_inputs(tables["input_gradients"], naive)
    if isinstance(naive, NaiveRecurrence):
        _check_states(tables["state_gradients"], naive)
        _check_spectrum(tables["lyapunov_spectrum"], naive)
        _check_contributions(tables["temporal_contributions"], naive)
        _check_jacobians(tables["state_jacobians"], naive)
    return tuple(name for name in TABLES if name in tables)


def _check_inputs(found: pd.DataFrame, naive: Naive) -> None:
    expected = naive.input_gradients()
    assert found["lag"].tolist() == list(range(SEQ_LEN))
    _assert_close(found, expected)


def _assert_close(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    for name in expected.columns:
        np.testing.assert_allclose(
            found[name].to_numpy(dtype=float), expected[name].to_numpy(dtype=float), rtol=RELATIVE, err_msg=name
        )


def _check_states(found: pd.DataFrame, naive: NaiveRecurrence) -> None:
    components = list(dict.fromkeys(found["component"]))
    assert {0, 1, SEQ_LEN} <= set(found["lag"])
    references = [float(np.linalg.norm(own)) for own in naive.state_gradients(SEQ_LEN)["total"][-1]]
    for t, rows in found.groupby("t"):
        by_part = naive.state_gradients(int(str(t)))
        for part, of_components in by_part.items():
            assert len(of_components) == len(components)
            for name, own in zip(components, of_components, strict=True):
                row = rows[(rows["part"] == part) & (rows["component"] == name)]
                expected = summary([vector.tolist() for vector in own], references)
                _assert_close(row, pd.DataFrame([expected]))


def _check_spectrum(found: pd.DataFrame, naive: NaiveRecurrence) -> None:
    values, errors, is_whole = naive.exponents()
    assert found["exponent"].tolist() == list(range(1, values.shape[1] + 1))
    below = found["num_below_resolution"].to_numpy()
    is_decided = np.isfinite(errors).all(axis=0)
    assert is_decided[0]
    np.testing.assert_array_equal(below[is_decided], np.isneginf(values).sum(axis=0)[is_decided])
    for rank in np.flatnonzero(is_decided):
        own = values[np.isfinite(values[:, rank]), rank]
        for name, probability in QUANTILES.items():
            recorded = found[f"exponent_{name}_nats_per_step"].iloc[rank]
            if len(own):
                allowed = RELATIVE * np.abs(own).max() + errors[:, rank].max()
                assert abs(recorded - np.quantile(own, probability)) <= allowed, (name, rank)
            else:
                assert np.isnan(recorded), (name, rank)
    if is_whole.all():
        assert found["sum_rule_residual_nats_per_step"].max() <= 2 * errors.sum(axis=1).max()


def _check_contributions(found: pd.DataFrame, naive: NaiveRecurrence) -> None:
    bins = list(zip(found["lag_from"], found["lag_to"], strict=True))
    assert bins == [(lag, lag) for lag in range(SEQ_LEN)]
    expected = naive.contributions(bins)
    _assert_close(found, expected.drop(columns=["layer", "direction"]))


def _check_jacobians(found: pd.DataFrame, naive: NaiveRecurrence) -> None:
    for row in found.to_dict("records"):
        products = naive.products(row["t"])
        spectra = [np.linalg.svd(own, compute_uv=False) for own in products]
        values = {
            "frobenius_norm": [np.linalg.norm(own) / np.sqrt(row["state_size"]) for own in products],
            "sigma_max": [spectrum[0] for spectrum in spectra],
        }
        for quantity, of_samples in values.items():
            for name, probability in QUANTILES.items():
                expected = log_quantile(sorted(of_samples), probability)
                assert row[f"{quantity}_{name}"] == pytest.approx(expected, rel=RELATIVE), (quantity, row["lag"])
