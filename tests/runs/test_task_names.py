"""A task is called by one true name in its folder and its records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from gradhorizon.config import validate
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.reading import read_member_table
from gradhorizon.runs.task_names import task_name
from gradhorizon.sweeps.launch import launch
from tests.runs_on_disk import TINY
from tests.shipped import shipped

SHIPPED = shipped("task")
CODE = """
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016


class EasyAdding(AddingArjovsky2016):
    pass


class HardAdding(AddingArjovsky2016):
    name = "hard_adding_nobody2026"


def built(seq_len):
    return EasyAdding(seq_len)
"""
PLAIN = "task=adding_arjovsky2016"


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with two tasks, and a folder with files that choose them."""
    module = tmp_path / "tasks_of_mine.py"
    module.write_text(CODE, encoding="utf-8")
    for choice, target in (("recall", "EasyAdding"), ("deep/recall", "HardAdding")):
        path = tmp_path / "conf" / "task" / f"{choice}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"_target_: tasks_of_mine.{target}\nseq_len: ${{seq_len}}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    HydraConfig.instance().cfg = None


def named(tmp_path: Path, *overrides: str) -> str:
    """The task's name in a launch of Hydra."""
    words = [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", *overrides]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=words, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return task_name(validate(cfg))


@pytest.mark.parametrize("task", SHIPPED)
def test_shipped_task_is_called_by_its_protocol(task: str, tmp_path: Path) -> None:
    assert named(tmp_path, f"task={task}") == task


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("task=recall",), "recall"),
        (("task=deep/recall",), "deep_recall"),
        ((PLAIN, "task._target_=tasks_of_mine.EasyAdding"), "easy_adding"),
        ((PLAIN, "task._target_=tasks_of_mine.HardAdding"), "hard_adding_nobody2026"),
        (("task=recall", "task._target_=tasks_of_mine.HardAdding"), "hard_adding_nobody2026"),
        ((PLAIN, "task._target_=tasks_of_mine.built"), "built"),
        ((PLAIN, "task._target_=not_there.at_all.MNISTRows"), "mnist_rows"),
    ],
)
def test_task_from_outside_is_called_by_its_file_or_its_class(
    overrides: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    assert named(tmp_path, *overrides) == name


def test_folder_records_and_sheet_agree_on_the_name(tmp_path: Path) -> None:
    words = [*TINY, "num_seeds=1", f"runs_dir={tmp_path / 'runs'}", "task._target_=tasks_of_mine.EasyAdding"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        folder = launch(compose("train", overrides=words)).folder
    metrics = read_member_table(folder / "seed-0", "metrics")
    assert metrics is not None
    assert folder.name.startswith("rnn_tanh-easy_adding-T8-")
    assert set(metrics["task"]) == {"easy_adding"}
    assert json.loads((folder / "run.json").read_text("utf-8"))["task"] == "easy_adding"


def test_run_keeps_the_name_that_it_was_given_first(tmp_path: Path) -> None:
    words = [*TINY, f"runs_dir={tmp_path / 'runs'}", "task._target_=tasks_of_mine.EasyAdding"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        folder = launch(compose("train", overrides=[*words, "num_seeds=1"])).folder
        write_json({**read_json(folder / "run.json"), "task": "tasks_of_mine"}, folder / "run.json")
        launch(compose("train", overrides=[*words, "num_seeds=2"]))
    later = read_member_table(folder / "seed-1", "metrics")
    assert later is not None
    assert set(later["task"]) == {"tasks_of_mine"}
