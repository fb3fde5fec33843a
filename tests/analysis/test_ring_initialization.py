"""The ring study: closed forms of its arms, and what its frozen records say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from experiments.ring_initialization import figure as ring_initialization
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.measurements.state_gradients import StateGradients, state_gradient_rows
from gradhorizon.records.parquet import write_parquet
from gradhorizon.records.tables import RecordsError
from tests.records_on_disk import list_as_found
from tests.synthetic_runs import SyntheticRun

TOLD = {
    (0.0, 0.99, 64): "exponential", (0.0, 0.99, 4096): "neither",
    (0.0, 0.999, 64): "neither", (0.0, 0.999, 4096): "neither",
    (0.0, 1.0, 64): "neither", (0.0, 1.0, 4096): "power law",
    (0.99, 0.99, 64): "exponential", (0.99, 0.99, 4096): "exponential",
    (0.99, 0.999, 64): "neither", (0.99, 0.999, 4096): "neither",
    (0.99, 1.0, 64): "undecided", (0.99, 1.0, 4096): "undecided",
}  # fmt: skip
STUDY = Path(__file__).parents[2] / "experiments" / "ring_initialization"
LAGS = np.arange(41)


def write_run(root: Path, r_min: float, r_max: float, moduli: np.ndarray, cell: str = "ring") -> None:
    """Two seeds of one run, whose units have the given moduli: shape (2, H)."""
    synthetic = SyntheticRun(outcomes=(None, None), tables=(), untold=f"{r_min}{r_max}{cell}")
    folder = synthetic.write(root)
    config = {"hidden_size": moduli.shape[1], "model": {"cell": {"initialization": {"r_min": r_min, "r_max": r_max}}}}
    OmegaConf.save(OmegaConf.create(config if cell == "ring" else {}), folder / "config.yaml")
    for seed, own in enumerate(moduli):
        reached = torch.from_numpy(own[np.newaxis, np.newaxis] ** LAGS[np.newaxis, :, np.newaxis])
        back = [torch.where(torch.from_numpy(LAGS)[:, np.newaxis] > 0, reached, 0.0), torch.zeros_like(reached)]
        direct = [reached - back[0], torch.zeros_like(reached)]
        rows = state_gradient_rows(["real", "imag"], (40 - LAGS).tolist(), LAGS.tolist(), back, direct)
        copied = ("experiment", "model", "task", "seq_len", "input_len")
        lead: dict[str, Any] = {name: getattr(synthetic, name) for name in copied}
        lead |= {"run": synthetic.name, "seed": seed, "step": 0, "phase": "init"}
        path = folder / f"seed-{seed}" / "records" / "state_gradients.parquet"
        write_parquet(StateGradients.table.to_arrow(rows.assign(**lead)), path)
        list_as_found(folder / f"seed-{seed}", seed)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A circle of modulus 0.9, and a disc of two units whose moduli are known."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root, 0.9, 0.9, np.full((2, 5), 0.9))
    write_run(root, 0.0, 1.0, np.array([[0.5, 1.0], [0.5, 0.8]]))
    return read_cohort([root])


@pytest.fixture(scope="module")
def frozen() -> Cohort:
    return read_cohort([STUDY / "records"])


def test_profile_is_the_root_mean_square_of_the_powers_of_the_moduli(tiny: Cohort) -> None:
    table = ring_initialization.profiles_at_init(tiny).query("r_max == 1.0")
    for seed, (one, other) in enumerate([(0.5, 1.0), (0.5, 0.8)]):
        own = table[table["seed"] == seed]
        expected = np.sqrt((one ** (2 * own["lag"]) + other ** (2 * own["lag"])) / 2)
        np.testing.assert_allclose(own["relative_norm"], expected, rtol=1e-12, atol=0)


def test_circle_is_the_power_of_its_radius_in_every_seed(tiny: Cohort) -> None:
    table = ring_initialization.summarise(tiny).query("r_max == 0.9")
    assert table["lag"].tolist() == list(LAGS)
    for name in ("median", "low", "high", "expected"):
        np.testing.assert_allclose(table[name], 0.9 ** table["lag"], rtol=1e-12, atol=0)
    assert (table["num_seeds"] == 2).all()


def test_settings_are_read_from_the_configuration(tiny: Cohort) -> None:
    table = ring_initialization.laws(tiny)
    assert table[["r_min", "r_max", "hidden_size"]].to_numpy().tolist() == [[0.0, 1.0, 2], [0.9, 0.9, 5]]
    assert table["rate"].iloc[1] == pytest.approx(np.log(0.9), rel=1e-12)
    assert (table["decay_reason"] == "not estimable (2 seeds)").all()


def test_runs_of_another_cell_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, 0.9, 0.9, np.full((2, 5), 0.9), cell="other")
    with pytest.raises(RecordsError, match=r"has no `model.cell.initialization.r_min`"):
        ring_initialization.summarise(read_cohort([tmp_path]))


def test_runs_without_state_gradients_are_refused(tmp_path: Path) -> None:
    SyntheticRun().write(tmp_path)
    with pytest.raises(SystemExit, match="no run recorded `state_gradients`"):
        ring_initialization.main([str(tmp_path), "--out", str(tmp_path)])


def test_frozen_profiles_of_many_units_follow_the_closed_form(frozen: Cohort) -> None:
    table = ring_initialization.summarise(frozen).query("hidden_size > 1000 and lag <= 100")
    np.testing.assert_allclose(table["median"], table["expected"], rtol=0.1, atol=0)


def test_mean_square_over_frozen_seeds_agrees_with_the_closed_form_within_its_error(frozen: Cohort) -> None:
    members = ring_initialization.profiles_at_init(frozen).query("lag == 10")
    for _, group in members.groupby(ring_initialization.ARM):
        squares = group["relative_norm"] ** 2
        (r_min,), (r_max,) = group["r_min"].unique(), group["r_max"].unique()
        width = 11 * (r_max**2 - r_min**2)
        expected = (r_max**22 - r_min**22) / width if width else r_max**20
        assert abs(squares.mean() - expected) < 5 * squares.std() / len(squares) ** 0.5 + 1e-6 * expected


def test_frozen_laws_are_those_that_the_study_tells(frozen: Cohort) -> None:
    assert ring_initialization.laws(frozen).set_index(ring_initialization.ARM)["decay_law"].to_dict() == TOLD
