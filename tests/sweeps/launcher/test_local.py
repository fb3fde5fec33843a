"""``hydra/launcher=local`` as a user types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from gradhorizon.config import validate
from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.reading import read_runs
from gradhorizon.runs.identity import identity_of
from gradhorizon.status.sweep import run_folders
from tests.runs_on_disk import TINY, assert_same_records, composed

ROOT = Path(__file__).parents[3]
LOCAL = ("-m", "hydra/launcher=local")
NUM_FINISHED = 8

SCAN = """
import sys
import hydra_plugins.gradhorizon_local.local_launcher
import hydra_plugins.gradhorizon_sweep.sweeper
print([name for name in ("torch", "pytorch_lightning", "pandas", "gradhorizon") if name in sys.modules])
"""

LAUNCH_FINISHED = """
import sys, time
from gradhorizon import application
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from gradhorizon.sweeps.launcher.local import LocalSweep

counts, seconds = [], {"hydra": 0.0, "run": 0.0}

def timed(name, original):
    def call(*arguments):
        start = time.process_time()
        try:
            return original(*arguments)
        finally:
            seconds[name] += time.process_time() - start
    return call

LocalSweep.run = timed("run", LocalSweep.run)
_impl = ConfigLoaderImpl._load_configuration_impl
def counted(*arguments, **keywords):
    counts.append(1)
    start = time.process_time()
    found = _impl(*arguments, **keywords)
    seconds["hydra"] += time.process_time() - start
    return found
ConfigLoaderImpl._load_configuration_impl = counted
application.main()
ratio = seconds["run"] / (seconds["hydra"] / len(counts)) / NUM_RUNS
print(ratio, [name for name in ("torch", "pytorch_lightning") if name in sys.modules])
"""

PRELOAD = """
import torch
calls = []
for name in ("init", "_lazy_init", "is_available", "device_count", "current_device"):
    setattr(torch.cuda, name, lambda *_, name=name: calls.append(name))
import pytorch_lightning, wandb
import gradhorizon.sweeps.launcher.warm, gradhorizon.mirrors.weights_and_biases
print(calls)
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gradhorizon.application", *LOCAL, *arguments]


def launch(folder: Path, *arguments: str, python_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONPATH": str(python_path)} if python_path else {})}
    return subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, check=False)


def python(folder: Path, script: str, *arguments: str) -> list[str]:
    line = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_hydra_finds_the_launcher() -> None:
    assert "LocalLauncher" in {found.__name__ for found in Plugins.instance().discover(Launcher)}


def test_what_hydra_imports_at_every_start_is_light(tmp_path: Path) -> None:
    assert python(tmp_path, SCAN) == ["[]"]


def test_finished_runs_cost_a_fraction_of_hydras_composition_and_no_torch(tmp_path: Path) -> None:
    run = validate(composed())
    lengths = range(8, 8 + NUM_FINISHED)
    for seq_len in lengths:
        identity = identity_of(validate(composed(f"seq_len={seq_len}")), "cpu")
        for seed in range(run.num_seeds):
            done = {"seed": seed, "status": "finished", "outcome": "budget exhausted", "outcome_step": 20, "step": 20}
            folder = tmp_path / "runs" / "default" / f"rnn-{identity}" / f"seed-{seed}"
            folder.mkdir(parents=True)
            write_json({**done, "launch": {}}, folder / "member.json")
    sweep = f"seq_len={','.join(map(str, lengths))}"
    script = LAUNCH_FINISHED.replace("NUM_RUNS", str(NUM_FINISHED))
    ratio, heavy = python(tmp_path, script, *LOCAL, *TINY, sweep)[-1].split(" ", 1)
    assert heavy == "[]"
    assert not list(tmp_path.glob("runs/default/*/run.json"))  # none was trained
    assert float(ratio) <= 0.5  # of one composition by Hydra: a fifth was measured


def test_wrong_points_are_all_said_and_start_no_process(tmp_path: Path) -> None:
    result = launch(tmp_path, *TINY, "batch_size=0,-1")
    assert result.returncode == 1
    assert "#0 batch_size=0: FAILED: `batch_size` must be at least 1, got 0" in result.stderr
    assert "2 of 2 runs failed:\n  #0 batch_size=0: `batch_size` must" in result.stderr
    assert "Error: 2 of 2 runs failed, as listed above\n" in result.stderr
    assert "Error executing job" not in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(run_folders(tmp_path / "runs"))
    (asked_for,) = tmp_path.glob("runs/default/sweeps/????????????.json")
    assert [len(run["identities"]) for run in read_json(asked_for)["runs"]] == [0, 0]
    assert len(list(asked_for.parent.glob("*.failed.json"))) == 2


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("hydra.launcher.retries=-1", "Error: `hydra.launcher.retries` must be 0 or more, got -1"),
        ("hydra.launcher.slots=0", "Error: `hydra.launcher.slots` must be at least 1, got 0"),
        ("hydra.launcher.slot=1", "the nearest is `hydra.launcher.slots`"),
        ("hydra.launcher.preload=[absent.cells]", "Error: `hydra.launcher.preload` must name modules that can be"),
    ],
)
@pytest.mark.slow
def test_launcher_arguments_that_cannot_be_are_one_error(tmp_path: Path, argument: str, words: str) -> None:
    result = launch(tmp_path, *TINY, argument)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_preloading_leaves_cuda_alone(tmp_path: Path) -> None:
    assert python(tmp_path, PRELOAD)[-1] == "[]"


@pytest.mark.slow
def test_a_plan_is_summed_and_trains_nothing(tmp_path: Path) -> None:
    result = launch(tmp_path, *TINY, "seq_len=8,9", "plan=true")
    assert result.returncode == 0, result.stderr
    assert "plan of 2 runs: 0 members are done, 4 would be trained" in result.stderr
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.slow
def test_the_numbers_are_those_of_the_basic_launcher(tmp_path: Path) -> None:
    (tmp_path / "basic").mkdir()
    (tmp_path / "local").mkdir()
    sweep = (*TINY, "model=rnn_tanh,lstm", "seq_len=8,9", "logger=wandb")
    basic = [item for item in command(*sweep) if item != LOCAL[1]]
    subprocess.run(basic, cwd=tmp_path / "basic", capture_output=True, check=True)
    result = launch(tmp_path / "local", *sweep, "hydra.launcher.slots=2")
    assert result.returncode == 0, result.stderr
    folders = list(run_folders(tmp_path / "basic" / "runs" / "default"))
    assert len(folders) == 4
    for folder in folders:
        found = tmp_path / "local" / "runs" / "default" / folder.name
        assert read_json(found / "run.json")["status"] == "finished"
        assert (found / "config.yaml").read_text() == (folder / "config.yaml").read_text()
        for seed in (0, 1):
            assert_same_records(folder, found, seed)


BREAKING = """
import os
import sys
import traceback
from pathlib import Path

from gradhorizon.cells.elman import Elman

class Breaking(Elman):
    def __init__(self, input_size, hidden_size, way):
        super().__init__(input_size, hidden_size)
        self.way = way

    def segment(self, *arguments):
        callers = [frame.name for frame in traceback.extract_stack()]
        if "training_step" in callers and not Path("healed").exists():
            {"raise": self.fail, "exit": self.leave, "kill": self.die, "none": list}[self.way]()
        return super().segment(*arguments)

    def fail(self):
        raise OSError("the cell broke")

    def leave(self):
        sys.exit(3)

    def die(self):
        os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_runs_that_break_are_recorded_and_listed_and_the_others_finish(tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text(BREAKING)
    cell = ("model=external", "model.label=breaking", "model.cell._target_=breaking.Breaking")
    sweep = (TINY[0], *TINY[2:], *cell, "+model.cell.way=raise,exit,kill,none", "num_seeds=1")
    result = launch(tmp_path, *sweep, python_path=tmp_path)
    assert result.returncode == 1
    assert "3 of 4 runs failed:" in result.stderr
    left = {path.parent: read_json(path) for path in tmp_path.glob("runs/*/*/failed.json")}
    by_way = {next(item for item in one["overrides"] if ".way=" in item)[16:]: one for one in left.values()}
    assert by_way["raise"]["reason"] == "OSError: the cell broke"
    assert "in fail" in "\n".join(by_way["raise"]["traceback"])
    assert by_way["exit"]["reason"] == "SystemExit: exited with code 3"
    assert by_way["kill"]["reason"] == "killed by signal 9, SIGKILL (out of memory?)"
    assert all(one["reason"] in result.stderr for one in by_way.values())
    assert all(read_json(folder / "run.json")["status"] == "failed" for folder in left)
    assert sorted(read_runs([tmp_path / "runs"]).members["status"]).count("finished") == 1

    (tmp_path / "healed").touch()
    again = launch(tmp_path, *sweep, python_path=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "was finished before" in again.stderr
    assert set(read_runs([tmp_path / "runs"]).members["status"]) == {"finished"}
    assert not list(tmp_path.glob("runs/*/*/failed.json"))


@pytest.mark.slow
def test_a_value_and_a_seed_more_leave_what_was_trained_before_as_it_is(tmp_path: Path) -> None:
    assert launch(tmp_path, *TINY, "seq_len=20", "num_seeds=1").returncode == 0
    (first,) = tmp_path.glob("runs/default/*/seed-0")
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}

    more = launch(tmp_path, *TINY, "seq_len=20,30", "num_seeds=2")
    assert more.returncode == 0, more.stderr
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert len(list(run_folders(tmp_path / "runs"))) == 2
    members = read_runs([tmp_path / "runs"]).members
    assert sorted(zip(members["seq_len"], members["seed"], strict=True)) == [(20, 0), (20, 1), (30, 0), (30, 1)]
    assert set(members["status"]) == {"finished"}


@pytest.mark.slow
def test_ctrl_c_commits_and_the_same_command_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    sweep = (*TINY, "seq_len=20,30,40", "num_steps=300", "val_every_steps=150", "trainer.checkpoint_every_s=0")
    assert launch(whole, *sweep).returncode == 0

    process = subprocess.Popen(
        command(*sweep, "hydra.launcher.slots=2"), cwd=broken, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: len(list(broken.glob("runs/default/*/seed-1/checkpoint.pt"))) >= 1)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert "launch the same command again to go on" in said
    assert "Traceback" not in said

    result = launch(broken, *sweep)
    assert result.returncode == 0, result.stderr
    for folder in run_folders(whole / "runs"):
        for seed in (0, 1):
            assert_same_records(folder, broken / "runs" / "default" / folder.name, seed)
