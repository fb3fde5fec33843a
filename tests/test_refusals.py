"""What the command line refuses before or while a run is built: one line that says what was wrong, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradhorizon.status.lines import _title
from gradhorizon.status.run import RunLook
from tests.test_command_line import ONE_STEP, launch


@pytest.mark.parametrize("mode", [[], ["-m"]])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# @package _global_\noptimizer: [\n", "own.yaml is no YAML from line 3 on: expected the node content"),
        ("num_steps: 5\n", "experiment/own must begin with the line `# @package _global_`"),
    ],
)
def test_a_file_of_ones_own_that_cannot_be_read_is_one_clear_error(
    tmp_path: Path, content: str, words: str, mode: list[str]
) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "own.yaml").write_text(content)
    done = launch(tmp_path, *mode, "--config-dir", "own", "experiment=own")
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (1, 1, "")
    assert words in done.stderr


def test_options_between_overrides_are_one_clear_error(tmp_path: Path) -> None:
    done = launch(tmp_path, "num_steps=5", "-m", "num_seeds=1")
    assert (done.returncode, done.stderr) == (
        1,
        "Error: options must stand before or after all overrides, got num_seeds=1 apart from others\n",
    )


@pytest.mark.parametrize(
    ("target", "words"),
    [("broken.Cell", "OSError('no disk')"), ("whole.Sell", "importable from module 'whole'")],
)
def test_why_a_class_cannot_be_imported_is_said(tmp_path: Path, target: str, words: str) -> None:
    (tmp_path / "broken.py").write_text("raise OSError('no disk')\n")
    (tmp_path / "whole.py").write_text("class Cell: pass\n")
    own = (*ONE_STEP, "model=external", "model.label=own", f"model.cell._target_={target}")
    done = launch(tmp_path, *own, python_path=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"Error: model: Error locating target '{target}'")
    assert words in last


@pytest.mark.parametrize("override", ["optimizer.betas=[0.9,0.99],[0.5,0.99]", "optimizer.weight_decay=0,0.1"])
def test_a_swept_key_that_its_class_takes_is_to_be_added_with_a_plus(tmp_path: Path, override: str) -> None:
    done = launch(tmp_path, "-m", override)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"its class takes it: add it with a plus: +{override}" in done.stderr


def test_a_run_is_called_by_what_is_known_of_it_alone() -> None:
    known = RunLook(Path("run"), "failed", "experiment", "lstm", "copying", 10)
    assert [_title(look) for look in (known, RunLook(Path("run"), "failed", "experiment", "lstm", None, 10))] == [
        "lstm T=10 copying",
        "lstm T=10",
    ]


def test_null_where_a_value_is_needed_is_one_clear_error(tmp_path: Path) -> None:
    done = launch(tmp_path, "batch_size=null")
    assert (done.returncode, done.stderr) == (
        1,
        "Error: `batch_size` must have a value, got null; leave it out for the one that conf/train.yaml gives\n",
    )


@pytest.mark.parametrize("mode", [[], ["-m", "plan=true"]], ids=" ".join)
@pytest.mark.parametrize("group", ["task", "model", "optimizer", "trainer", "logger", "measurement"])
def test_null_where_a_group_is_needed_is_one_clear_error(tmp_path: Path, group: str, mode: list[str]) -> None:
    done = launch(tmp_path, *mode, f"{group}=null")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"Error: `{group}` must be the name of a configuration file, such as ")
    assert ", got null" in done.stderr
    assert not list(tmp_path.iterdir())


def test_single_run_of_a_sweep_says_which_axes_it_leaves_out(tmp_path: Path) -> None:
    done = launch(tmp_path, "experiment=quickstart", "plan=true")
    assert "note: this experiment sweeps over model, task, seq_len; without -m, one run alone is trained" in done.stderr
    assert "sweeps over" not in launch(tmp_path, "plan=true").stderr


def test_what_a_wrong_point_leaves_lies_below_the_folder_of_the_launch_wherever_hydra_goes(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = launch(
        here, "-m", "batch_size=0", "logger=none", "hydra.job.chdir=true", f"hydra.sweep.dir={tmp_path / 'hydra'}"
    )
    assert done.returncode == 1
    left = sorted(path.relative_to(here).parts[:-1] for path in tmp_path.rglob("*.json"))
    assert left == [("runs", "default", "sweeps")] * 2  # what was asked for, and why it failed
