"""Every file in ``conf/model`` is a model, every cell has one, and no two look alike on a figure."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from matplotlib.markers import MarkerStyle
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

import gradhorizon.cells
import gradhorizon.config  # registers the schema of the root
from gradhorizon.cells.cell import Layer
from gradhorizon.machine.installed import CONF_DIR
from tests.models import MODELS, build_network, compose_model

CELL_MODULES = sorted(
    path.stem
    for path in Path(gradhorizon.cells.__path__[0]).glob("*.py")
    if path.stem not in {"__init__", "cell", "fused", "adapters", "called", "initialization", "unroll"}
)
LOOKS = {name: compose_model(name).model for name in MODELS}

# Machado, Oliveira & Fernandes (2009), severity 1, acting on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def _lab(color: str, vision: np.ndarray) -> np.ndarray:
    encoded = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    ratio = TO_XYZ @ np.clip(vision @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("name", MODELS)
def test_label_is_the_name_of_the_file(name: str) -> None:
    assert LOOKS[name].label == name


@pytest.mark.parametrize("name", MODELS)
def test_model_names_an_existing_cell_and_its_constructor_arguments(name: str) -> None:
    cell = LOOKS[name].cell
    target = get_class(cell._target_)
    assert issubclass(target, Layer)
    assert {key for key in cell if not str(key).startswith("_")} <= set(inspect.signature(target).parameters)
    assert cell.hidden_size == 5


@pytest.mark.parametrize("name", MODELS)
def test_model_builds_a_network(name: str) -> None:
    assert len(build_network(name).cells()) >= 1


@pytest.mark.parametrize("module", CELL_MODULES)
def test_cell_has_at_least_one_model(module: str) -> None:
    used = {look.cell._target_.rpartition(".")[0] for look in LOOKS.values()}
    assert f"gradhorizon.cells.{module}" in used


@pytest.mark.parametrize("key", ["label", "color", "marker"])
def test_no_two_models_share(key: str) -> None:
    values = [look[key] for look in LOOKS.values()]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", MODELS)
def test_marker_is_one_that_matplotlib_knows(name: str) -> None:
    assert MarkerStyle(LOOKS[name].marker).get_marker() == LOOKS[name].marker


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_visibly_from_each_other_and_from_paper(vision: str) -> None:
    colours = {name: _lab(look.color, VISIONS[vision]) for name, look in LOOKS.items()}
    colours["paper"] = _lab("#FFFFFF", VISIONS[vision])
    distances = {pair: np.linalg.norm(colours[pair[0]] - colours[pair[1]]) for pair in combinations(colours, 2)}
    assert {pair: distance for pair, distance in distances.items() if distance < 15} == {}


@functools.cache
def _compose_root(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", list(overrides))


def test_deep_model_sets_the_number_of_layers() -> None:
    cfg = _compose_root("model=deep_lstm")
    assert (cfg.num_layers, cfg.model.label) == (3, "deep_lstm")


@pytest.mark.parametrize("overrides", [("model=deep_lstm", "num_layers=2"), ("num_layers=2", "model=deep_lstm")])
def test_number_of_layers_on_the_command_line_wins(overrides: tuple[str, ...]) -> None:
    assert _compose_root(*overrides).num_layers == 2


@pytest.mark.parametrize("name", [name for name in MODELS if name != "deep_lstm"])
def test_model_leaves_the_root_scalars_alone(name: str) -> None:
    scalars = {key: value for key, value in _compose_root(f"model={name}").items() if key != "model"}
    assert scalars == {key: value for key, value in _compose_root().items() if key != "model"}


def test_external_model_takes_any_cell_and_its_arguments() -> None:
    cfg = _compose_root(
        "model=external",
        "model.label=my_cell",
        "model.cell._target_=tests.synthetic_cells.LinearRecurrence",
        "+model.cell.spectral_radius=0.5",
        "hidden_size=7",
    )
    cell = instantiate(cfg.model.cell)(input_size=2)
    assert (type(cell).__name__, cell.hidden_size) == ("LinearRecurrence", 7)
    assert (cfg.model.label, cfg.model.color, cfg.model.marker) == ("my_cell", None, None)


def test_external_model_demands_a_class_and_is_called_by_its_name() -> None:
    with pytest.raises(MissingMandatoryValue):
        OmegaConf.select(_compose_root("model=external"), "model.cell._target_", throw_on_missing=True)
    assert _compose_root("model=external", "model.cell._target_=some.package.LEMCell").model.label == "LEMCell"


IMPORT_ALL = """
import importlib, json, random, sys
import numpy, torch
from torch.backends import cudnn
def state():
    return [torch.get_rng_state().tolist(), str(random.getstate()), str(numpy.random.get_state()),
            str(torch.get_default_dtype()), torch.get_float32_matmul_precision(), cudnn.allow_tf32,
            cudnn.deterministic, cudnn.benchmark, torch.get_num_threads(), torch.is_grad_enabled()]
before = state()
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps([one == other for one, other in zip(before, state())]))
"""


def test_importing_cells_networks_and_gate_changes_no_global_state() -> None:
    modules = [f"gradhorizon.cells.{module}" for module in (*CELL_MODULES, "initialization")]
    modules += ["gradhorizon.cells.unroll", "gradhorizon.network", "gradhorizon.kernels.gate"]
    command = [sys.executable, "-c", IMPORT_ALL, *modules]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == [True] * 10


def test_cell_modules_are_found() -> None:
    assert {"elman", "lstm", "gru"} <= set(CELL_MODULES)
    assert all(importlib.import_module(f"gradhorizon.cells.{module}").__doc__ for module in CELL_MODULES)
