"""Tasks, measurements, optimizers and data of one's own, from the configuration to what is read and reported."""

from __future__ import annotations

import linecache
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import gradhorizon
from gradhorizon.analysis.command import main as report
from gradhorizon.config import ConfigError, validate
from gradhorizon.late_measurement.command import main as measure
from gradhorizon.machine.data_files import data_digest
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.records.configurations import read_configuration
from gradhorizon.records.files import read_json
from gradhorizon.runs.task_names import task_name
from gradhorizon.status.command import main as status
from gradhorizon.status.verify import main as verify
from gradhorizon.sweeps.launch import launch, look
from gradhorizon.terminal.reasons import RunFailedError
from gradhorizon.training.build import build_setup
from gradhorizon.training.module import EnsembleModule
from tests.runs_on_disk import TINY, all_tables, assert_same_records
from tests.series_files import series

SMALL = tuple(word for word in TINY if not word.startswith("measurement."))
TASK = ("task=external", "task._target_=tests.own_classes.Parity")
NORMS = ("measurement=[input_gradients,external]", "measurement.external._target_=tests.own_classes.WeightNorms")
AGAIN = "gradhorizon.measurements.input_gradients.InputGradients"
OPTIMIZER = ("optimizer=external", "optimizer._target_=torch.optim.Adagrad", "+optimizer.lr_decay=0.1")


def configured(runs_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=[*SMALL, f"runs_dir={runs_dir}", *overrides])


def run(runs_dir: Path, *overrides: str) -> Path:
    return launch(configured(runs_dir, *overrides)).folder


@pytest.fixture
def tide(tmp_path: Path) -> Path:
    """A series of two columns in a file of its own."""
    path = tmp_path / "data" / "tide.csv"
    path.parent.mkdir()
    pd.DataFrame(series(), columns=["one", "other"]).to_csv(path, index=False)
    return path


def forecast(path: Path) -> tuple[str, ...]:
    return "task=from_arrays", f"task.path={path}", "task.steps_ahead=3"


def test_what_comes_from_outside_is_recorded_read_drawn_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "runs", *TASK, *NORMS, *OPTIMIZER)
    tables = gradhorizon.read(tmp_path / "runs")
    assert list(tables) == ["input_gradients", "metrics", "weight_norms"]
    assert set(tables.members["task"]) == {"parity"}
    assert tables.columns("weight_norms").loc["norm", "meaning"] == "its Frobenius norm"
    assert set(tables["weight_norms"]["phase"]) >= {"init", "last"}
    assert read_json(folder / "run.json")["chance"] == {"accuracy": 0.5, "loss": pytest.approx(np.log(2))}
    report([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert "parity" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert status([str(tmp_path / "runs")]) == 0
    assert verify([str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "parity   T = 8" in shown
    assert "nothing wrong" in shown


@pytest.mark.parametrize("kind", ["classes", "data"])
def test_a_run_that_broke_goes_on_to_the_same_bits(
    kind: str, tmp_path: Path, tide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*(TASK if kind == "classes" else forecast(tide)), *NORMS, *OPTIMIZER, "trainer.checkpoint_every_s=0")
    whole = run(tmp_path / "whole", *overrides)
    original = EnsembleModule.training_step

    def breaking(self: EnsembleModule, batch: object, batch_idx: int) -> None:
        if self.first_step + batch_idx == 13:
            raise OSError("the power went out")
        original(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(EnsembleModule, "training_step", breaking)
    with pytest.raises(RunFailedError, match="the power went out"):
        run(tmp_path / "broken", *overrides)
    monkeypatch.undo()
    broken = run(tmp_path / "broken", *overrides)
    for seed in (0, 1):
        assert_same_records(whole, broken, seed)
    assert "weight_norms" in all_tables(broken, 0)


def test_a_table_is_absent_by_its_own_name_and_the_way_out_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run(tmp_path, "measurement=[input_gradients]", "num_seeds=1")
    run(tmp_path, *NORMS, "num_seeds=1")
    words = f"`gradhorizon-measure {folder} measurement=external {NORMS[1]}` adds weight_norms"
    assert f"seed 0 is finished without weight_norms: {words}" in caplog.text
    assert measure([str(folder), "measurement=external", NORMS[1]]) == 0
    assert "weight_norms" in all_tables(folder, 0)
    caplog.clear()
    run(tmp_path, *NORMS, "num_seeds=1")
    assert "finished without" not in caplog.text


def test_a_step_measurement_of_ones_own_is_no_late_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, "measurement=[input_gradients]", "num_seeds=1")
    run(
        tmp_path, NORMS[0], "measurement.external._target_=tests.own_classes.TotalNorm", "num_seeds=1",
        "measurement.external.schedule.num_points=3",
    )  # fmt: skip
    assert "finished without total_norm: total_norm is read while a step is taken" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("task=external",), r"`task._target_` must name your class, got none: task._target_=my_package.MyTask"),
        (("measurement=external",), r"`measurement.external._target_` must name .*_target_=my_package.MyMeasurement"),
        (("optimizer=external",), r"`optimizer._target_` must name your class, .*_target_=my_package.MyOptimizer"),
        (("task=external", "task._target_=no_package.Task"), "task: Error locating target 'no_package.Task'"),
        (("task=external", "task._target_=tests.own_classes.Ten"), "leave it out: ~task.seq_len"),
        (("task=external", "task._target_=tests.own_classes.Ten", "~task.seq_len"), "be that of the task, 10, got 8"),
        (("task=external", "task._target_=gradhorizon.tasks.task.SoftmaxTask"), "task: .*abstract class SoftmaxTask"),
        (("task=external", "task._target_=tests.own_classes.WeightNorms", "~task.seq_len"), "task: "),
        ((NORMS[0], "measurement.external._target_=tests.own_classes.Untold"), "measurement: .*abstract class Untold"),
        ((NORMS[0], f"measurement.external._target_={AGAIN}"), "once at a time, got input_gradients, external; leave"),
        ((OPTIMIZER[0], "optimizer._target_=torch.nn.Identity", "~optimizer.lr"), "`_target_` must build a Optimizer"),
        (("task=from_arrays",), "task: `path` must name a file"),
        (("task=from_arrays", "task.path=nowhere.csv"), "task: `path` must be a file, got nowhere.csv"),
    ],
)
@pytest.mark.parametrize("is_plan", [False, True])
def test_what_cannot_be_built_is_refused_in_one_line(
    overrides: tuple[str, ...], words: str, is_plan: bool, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        run(tmp_path, *overrides, f"plan={is_plan}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("None", "`Mine.table` must be a gradhorizon.records.tables.Table, got NoneType"),
        ("Table('metrics', '', ())", "must be called by small letters, digits and _, and not metrics, got 'metrics'"),
        ("Table('../up', '', ())", "must be called by small letters, digits and _, and not metrics, got '../up'"),
        ("Table('mine', '', (Column('step', 'int64', '', ''),))", "must have each column once, .* got `step` twice"),
    ],
)
def test_a_table_that_cannot_be_kept_is_refused(
    table: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"mine_{abs(hash(table))}"
    (tmp_path / f"{name}.py").write_text(
        "from gradhorizon.measurements.measurement import ProbeMeasurement\n"
        "from gradhorizon.records.tables import Column, Table\n\n"
        f"class Mine(ProbeMeasurement):\n    table = {table}\n\n    def read(self, probe):\n        raise OSError\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=words):
        run(tmp_path / "runs", NORMS[0], f"measurement.external._target_={name}.Mine")


def test_a_run_on_data_is_called_by_the_file_and_known_by_its_bytes(tmp_path: Path, tide: Path) -> None:
    runs = tmp_path / "runs"
    folder = run(runs, *forecast(tide), "num_seeds=1")
    assert folder.name.startswith("rnn_tanh-tide-T8-")
    assert set(gradhorizon.read(runs).members["task"]) == {"tide"}
    assert read_configuration(folder)["task"]["digest"] == data_digest(str(tide))
    copy = tmp_path / "elsewhere.csv"
    shutil.copy(tide, copy)
    assert look(configured(runs, *forecast(copy), "num_seeds=1")).folder == folder
    tide.write_text(tide.read_text().replace("0.1", "0.2", 1))
    changed = look(configured(runs, *forecast(tide), "num_seeds=1"))
    assert changed.folder != folder
    assert len(changed.todo) == 1


def test_a_file_that_changes_between_the_look_and_the_training_is_refused(tmp_path: Path, tide: Path) -> None:
    cfg = configured(tmp_path / "runs", *forecast(tide))
    look(cfg)
    tide.write_text(tide.read_text() + "1.0,2.0\n")
    with pytest.raises(ConfigError, match=r"task: `path`=.* must be the file of the digest .* it has changed since"):
        build_setup(cfg, validate(cfg))


def test_finished_runs_on_data_are_measured_later_while_the_file_is_the_same(
    tmp_path: Path, tide: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run(tmp_path / "runs", *forecast(tide), "num_seeds=1", "measurement=[input_gradients]")
    assert measure([str(folder), "measurement=recurrent_weights"]) == 0
    assert "recurrent_weights" in all_tables(folder, 0)
    tide.write_text("one,other\n1,2\n")
    assert measure([str(folder), "measurement=gradient_noise"]) == 1
    assert "it has changed since" in caplog.text


def test_a_relative_path_starts_in_the_folder_of_the_launch(
    tmp_path: Path, tide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tide.parent)
    cfg = configured(tmp_path / "runs", *forecast(Path(tide.name)))
    assert cfg.task.digest == data_digest(str(tide))
    assert task_name(validate(cfg)) == "tide"
    assert build_setup(cfg, validate(cfg)).task.num_held_out


def test_another_source_of_a_task_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "changing_task.py"
    module.write_text("from tests.own_classes import Parity\n\n\nclass Changing(Parity):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ("task=external", "task._target_=changing_task.Changing", "num_seeds=1")
    run(tmp_path / "runs", *overrides)
    module.write_text(module.read_text() + "    name = 'changed'\n")

    linecache.clearcache()
    caplog.set_level(logging.INFO)
    run(tmp_path / "runs", *overrides)
    assert "finished members were trained with another source of the external task" in caplog.text
