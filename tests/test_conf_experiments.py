"""Every point of every experiment's sweep composes, builds and passes its checks."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from gradhorizon.config import validate
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.training.build import build_setup

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


def points(name: str) -> list[list[str]]:
    """Overrides of every point of the experiment's sweep."""
    content = OmegaConf.load(CONF_DIR / "experiment" / f"{name}.yaml")
    axes = OmegaConf.select(content, "hydra.sweeper.params", default={})
    choices = [[f"{axis}={value}" for value in str(values).split(",")] for axis, values in axes.items()]
    return [list(point) for point in product(*choices)]


POINTS = [(name, point) for name in EXPERIMENTS for point in points(name)]


def composed(name: str, point: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=[f"experiment={name}", *point])


@pytest.mark.parametrize(
    ("name", "point"), POINTS, ids=lambda value: "-".join(value) if isinstance(value, list) else value
)
def test_every_point_of_a_sweep_builds(name: str, point: list[str]) -> None:
    cfg = composed(name, point)
    run = validate(cfg)
    setup = build_setup(cfg, run)
    assert run.experiment_name == name
    assert setup.num_parameters > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_file_opens_with_its_package_and_the_question_it_answers(name: str) -> None:
    lines = (CONF_DIR / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
    assert "?" in lines[1]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_has_a_study_that_tells_what_was_found(name: str) -> None:
    readme = Path(__file__).parents[1] / "experiments" / name / "README.md"
    headings = [line for line in readme.read_text().splitlines() if line.startswith("## ")]
    assert headings == ["## Question", "## Protocol", "## Expectation", "## Finding", "## Redraw"]
