"""Every task has a file in conf/task that instantiates it, and the other way round."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import gradhorizon.config  # registers the schema of the root
import gradhorizon.tasks
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.tasks.task import Task
from tests.series_files import STEPS_AHEAD, series_path
from tests.shipped import shipped

CONF = Path(__file__).parents[2] / "conf" / "task"
MODULES = sorted(path.stem for path in Path(gradhorizon.tasks.__path__[0]).glob("*.py"))
NAMES = [name for name in MODULES if name not in {"__init__", "conduct", "task"}]
REQUIRED = {"from_arrays": {"path": series_path(), "steps_ahead": STEPS_AHEAD}}
"""Arguments without which a task is refused."""


def content(name: str) -> DictConfig:
    """The task's file as it stands in the root: a file may set root scalars beside its own node."""
    loaded = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    return loaded if "task" in loaded else OmegaConf.create({"task": loaded})


OF_ONE_LENGTH = [name for name in NAMES if "seq_len" in content(name)]


def configured(name: str, **root: Any) -> Task:
    config = OmegaConf.merge({"seq_len": 100}, content(name), {"task": REQUIRED.get(name, {})}, root)
    task = instantiate(config.task)
    assert isinstance(task, Task)
    return task


def test_tasks_and_their_files_pair_up() -> None:
    assert shipped("task") == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_file_instantiates_the_task_of_its_name(name: str) -> None:
    task = configured(name)
    assert task.name == name
    assert type(task).__module__ == f"gradhorizon.tasks.{name}"


@pytest.mark.parametrize("name", NAMES)
def test_module_holds_one_task(name: str) -> None:
    module = importlib.import_module(f"gradhorizon.tasks.{name}")
    own = [item for item in vars(module).values() if inspect.isclass(item) and item.__module__ == module.__name__]
    assert len(own) == 1


@pytest.mark.parametrize("name", NAMES)
def test_file_names_every_argument_of_the_constructor(name: str) -> None:
    config = content(name).task
    assert set(config) - {"_target_"} == set(inspect.signature(type(configured(name))).parameters)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_ONE_LENGTH])
def test_seq_len_comes_from_the_root(name: str) -> None:
    assert configured(name, seq_len=57).seq_len == 57


def test_digits_set_the_length_that_everything_else_reads() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["task=digits_sequential", "model=lstm_chrono"])
    assert (cfg.seq_len, cfg.task.seq_len, cfg.model.cell.initialization.seq_len) == (64, 64, 64)


def test_digits_refuse_another_length() -> None:
    with pytest.raises(InstantiationException, match="`seq_len` must be 64"):
        configured("digits_sequential", seq_len=100)
