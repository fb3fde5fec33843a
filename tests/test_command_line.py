"""The command as a user types it: in a process of its own, interrupted, killed, and given bad input."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradhorizon.machine import stopping
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.records.reading import read_runs
from gradhorizon.status.sweep import run_folders
from tests.runs_on_disk import TINY, assert_same_records

ROOT = Path(__file__).parents[1]
SWEEP = (
    "-m",
    "logger=none",
    "model=rnn_tanh,lstm",
    "task=adding_hochreiter1997",
    "seq_len=20,30",
    "num_seeds=2",
    "hidden_size=8",
    "batch_size=8",
    "num_steps=150",
    "val_every_steps=10",
    "val_size=50",
    "probe_batch_size=4",
    "trainer.checkpoint_every_s=0",
    "device=cpu",
)


ONE_STEP = (
    *(item for item in TINY if not item.startswith("measurement.")),
    "num_seeds=1",
    "num_steps=1",
    "measurement=[input_gradients]",
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gradhorizon.application", *arguments]


def launch(folder: Path, *arguments: str, python_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    return subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, check=False)


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / "output.txt").open("ab") as log:
        return subprocess.Popen(
            command(*arguments),
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509, this process has no threads that hold a lock
        )


def _heed_ctrl_c() -> None:
    # Where the tests themselves run in the background of a shell, Ctrl-C is ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(folder: Path, pattern: str, count: int) -> None:
    """Return once so many files match, which may be at any moment of the sweep that writes them."""
    deadline = time.monotonic() + 240
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline, (folder / "output.txt").read_text()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hidden_size=0"], "Error: `hidden_size` must be at least 1, got 0"),
        (["model=no_such_model"], "Error: `model`=no_such_model is not there; the nearest is"),
        (["num_step=1"], "Error: `num_step` is no key of the configuration; the nearest is `num_steps`"),
        (["+num_step=1"], "Error: `num_step` is no key of the configuration; the nearest is `num_steps`"),
        (["-m", "num_step=1,2"], "Error: `num_step` is no key of the configuration; the nearest is `num_steps`"),
        (["plan=true", "+tbptt=5"], "Error: `tbptt` is no key of the configuration; the nearest is"),
        (["--config-name=nope"], "Error: `--config-name`=nope is no file of the configuration"),
        (["--config-dir=nope"], "Error: Additional config directory"),
        (["--help", "num_step=1"], "Error: `num_step` is no key of the configuration"),
        (["--run", "-m"], "Error: Only one of --run, --multirun"),
        (["runs_dir='~nobody_of_this_name/runs'"], "Error: `runs_dir` must be a folder, got ~nobody_of_this_name/runs"),
        (["seq_len=1", "task=adding_hochreiter1997"], "Error: task: `seq_len` must be at least"),
    ],
)
def test_bad_input_gives_one_error_without_a_traceback(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = launch(tmp_path, *arguments)
    assert result.returncode != 0
    assert words in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert "HYDRA_FULL_ERROR" not in result.stderr
    assert "To append" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", ["basic", "joblib", "local"])
def test_a_sweep_with_a_key_that_one_point_does_not_know_ends_before_its_first_run(
    tmp_path: Path, launcher: str
) -> None:
    result = launch(
        tmp_path, "-m", *TINY, f"hydra/launcher={launcher}", "optimizer=sgd,adam", "+optimizer.nesterov=false"
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Error: `optimizer.nesterov` is no argument of torch.optim.Adam; the nearest is")
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", ["basic", "joblib", "local"])
def test_records_lie_below_the_folder_of_the_launch_wherever_hydra_goes(tmp_path: Path, launcher: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    result = launch(
        here,
        "-m",
        *ONE_STEP,
        "model=rnn_tanh,gru",
        f"hydra/launcher={launcher}",
        "hydra.job.chdir=true",
        f"hydra.sweep.dir={there}",
        "runs_dir=mine",
    )
    assert result.returncode == 0, result.stderr
    assert set(read_runs([here / "mine"]).members["model"]) == {"rnn_tanh", "gru"}
    assert [path.name for path in here.iterdir()] == ["mine"]
    assert not list(there.rglob("run.json"))


def test_two_spellings_of_a_number_are_trained_once(tmp_path: Path) -> None:
    result = launch(tmp_path, "-m", *ONE_STEP, "optimizer=sgd", "optimizer.momentum=0,0.0,-0.0")
    assert result.returncode == 0, result.stderr
    assert len(read_runs([tmp_path / "runs"]).members) == 1
    assert result.stderr.count("finished, skipped: seed 0") == 2


def test_files_of_ones_own_folder_are_found_and_their_keys_checked(tmp_path: Path) -> None:
    own = tmp_path / "own"
    for name, text in {
        "model/mine": "defaults: [gru, _self_]\nlabel: mine\ncolor: null\nmarker: null\n",
        "experiment/good": "# @package _global_\ndefaults: [override /model: mine]\noptimizer: {weight_decay: 0.5}\n",
        "experiment/bad": "# @package _global_\nnum_step: 3\n",
        "experiment/worse": "# @package _global_\noptimizer: {weight_decya: 0.5}\n",
    }.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / f"{name}.yaml").write_text(text)
    for experiment, words in (
        ("bad", "Error: experiment/bad: `num_step` is no key of the configuration; the nearest is `num_steps`"),
        (
            "worse",
            "`optimizer.weight_decya` is no argument of torch.optim.Adam; the nearest is `optimizer.weight_decay`",
        ),
        ("god", "Error: `experiment`=god is not there; the nearest is `good`"),
    ):
        result = launch(tmp_path, "--config-dir=own", *ONE_STEP, f"experiment={experiment}")
        assert words in result.stderr
        assert not (tmp_path / "runs").exists()
    settings = [item for item in ONE_STEP if not item.startswith("model=")]
    result = launch(tmp_path, "--config-dir=own", "-m", *settings, "experiment=good", "hydra/launcher=local")
    assert result.returncode == 0, result.stderr
    assert set(read_runs([tmp_path / "runs"]).members["model"]) == {"mine"}


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_runs_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, mode: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    result = launch(tmp_path, *mode, "runs_dir=file", *TINY)
    assert result.returncode != 0
    assert "`runs_dir` must be a folder that can be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_sweep_says_every_error_and_trains_the_other_points(tmp_path: Path) -> None:
    result = launch(tmp_path, "-m", *TINY[:-1], "num_seeds=1", "num_steps=1", "optimizer.lr=-1,-2,0.1")
    assert result.returncode != 0
    assert "Invalid learning rate: -1" in result.stderr
    assert "Invalid learning rate: -2" in result.stderr
    assert read_runs([tmp_path / "runs"]).members["status"].tolist() == ["finished"]


def test_the_plan_of_a_sweep_ends_with_its_sum(tmp_path: Path) -> None:
    result = launch(tmp_path, "-m", *TINY, "seq_len=8,9", "plan=true")
    assert result.returncode == 0, result.stderr
    assert "plan of 2 runs: 0 members are done, 4 would be trained" in result.stderr
    assert not list(tmp_path.glob("runs/*/*/*"))


def test_help_opens_with_what_it_is_and_how_it_is_called(tmp_path: Path) -> None:
    result = launch(tmp_path, "--help")
    assert result.stdout.startswith("gradhorizon trains recurrent networks and measures how far back")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_lists_every_file_in_a_line_and_every_setting_with_its_unit(tmp_path: Path) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text("# What I propose.\nlabel: mine\n")
    shown = launch(tmp_path, "--config-dir=own", "--help").stdout
    assert re.search(r"^  mine +What I propose\.$", shown, re.MULTILINE)
    for group in ("model", "task", "measurement", "optimizer", "logger", "experiment"):
        for path in (CONF_DIR / group).glob("*.yaml"):
            assert re.search(rf"^  {path.stem}\s+\S", shown, re.MULTILINE), path
    for path in (CONF_DIR / "model" / "zoo").glob("*.yaml"):
        assert re.search(rf"^  zoo/{path.stem}\s+\S", shown, re.MULTILINE), path
    words = " ".join(shown.split())
    assert "seq_len=100 T, steps, as the protocol's paper prints it" in words
    assert "Recall of 10 symbols of an alphabet of 8, T + 10 steps after each was shown" in words
    root = (CONF_DIR / "train.yaml").read_text().partition("\nhydra:")[0]
    for key, value, comment in re.findall(r"^(\w+): (\S+) # (.*)$", root, re.MULTILINE):
        assert f"{key}={value} {comment}" in words


def test_help_does_not_load_torch(tmp_path: Path) -> None:
    code = "import sys, runpy; sys.argv = ['gradhorizon', '--help']\n"
    code += "try: runpy.run_module('gradhorizon.application', run_name='__main__')\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_verbose_shows_where_bad_input_was_found(tmp_path: Path) -> None:
    result = launch(tmp_path, "hidden_size=0", "hydra.verbose=true")
    assert "Traceback" in result.stderr
    assert "`hidden_size` must be at least 1" in result.stderr


def test_the_example_cell_goes_through_training_measurements_analysis_and_report(tmp_path: Path) -> None:
    example = ROOT / "examples" / "leaky_cell"
    cell = ("model=external", "model.label=leaky", "model.cell._target_=leaky_cell.LeakyRNN")
    measured = "measurement=[input_gradients,state_gradients]"
    tiny = [item for item in TINY[2:] if not item.startswith("measurement.")]
    result = launch(tmp_path, *tiny, *cell, measured, "logger=none", python_path=example)
    assert result.returncode == 0, result.stderr
    runs = read_runs([tmp_path / "runs"])
    assert set(runs.members["model"]) == {"leaky"}
    assert set(runs.table("state_gradients")["model"]) == {"leaky"}
    figures = subprocess.run(
        [sys.executable, "-m", "gradhorizon.analysis.command", "runs/default", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert figures.returncode == 0, figures.stderr
    assert "leaky" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_a_sweep_interrupted_and_killed_completes_with_the_numbers_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert launch(whole, *SWEEP).returncode == 0

    process = start(broken, *SWEEP)
    wait_for(broken, "runs/default/*/seed-1/checkpoint.pt", 1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) != 0

    process = start(broken, *SWEEP)
    wait_for(broken, "runs/default/*/seed-1/checkpoint.pt", 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=120)

    result = launch(broken, *SWEEP)
    assert result.returncode == 0, result.stderr
    assert "finished, skipped: seeds 0, 1" in result.stderr
    folders = list(run_folders(whole / "runs" / "default"))
    assert len(folders) == 4
    for folder in folders:
        for seed in (0, 1):
            assert_same_records(folder, broken / "runs" / "default" / folder.name, seed)

    more = launch(broken, *(argument.replace("num_seeds=2", "num_seeds=3") for argument in SWEEP))
    assert more.returncode == 0, more.stderr
    assert sorted(read_runs([broken / "runs"]).members["seed"].unique()) == [0, 1, 2]
    for folder in folders:
        assert_same_records(folder, broken / "runs" / "default" / folder.name, 0)


@pytest.mark.slow
def test_a_run_that_is_asked_to_end_commits_and_goes_on_from_there(tmp_path: Path) -> None:
    run = (
        "model=rnn_tanh",
        "task=adding_arjovsky2016",
        "seq_len=30",
        "num_seeds=1",
        "num_steps=3000",
        "val_every_steps=3000",
        "logger=none",
    )
    process = start(tmp_path, *run)
    wait_for(tmp_path, "runs/default/*/seed-0/checkpoints/init.pt", 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == stopping.EXIT_CODE
    result = launch(tmp_path, *run)
    assert result.returncode == 0, result.stderr
    assert [int(step) > 0 for step in re.findall(r"seed 0: resumes from step (\d+)", result.stderr)] == [True]
