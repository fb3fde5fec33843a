"""Real small runs at a W&B server: every value against the records, whole, synced, interrupted, resumed, extended."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gradhorizon.records.files import read_json
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.terminal.reasons import RunFailedError
from gradhorizon.training.module import EnsembleModule
from tests.mirrors.recorded_points import HEAT_MAP, Point, points_of_records, points_of_server
from tests.runs_on_disk import run
from tests.wandb_stub import StubRun, WandbStub

ONLINE = ("logger=wandb_online", "logger.finish_timeout_s=30", "trainer.checkpoint_every_s=0")


def train_and_break(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, *overrides: str) -> Path:
    """A run that breaks in optimizer step `at_step`, with commits at every validation."""
    original = EnsembleModule.training_step

    def breaking(self: EnsembleModule, batch: object, batch_idx: int) -> None:
        if self.first_step + batch_idx == at_step:
            raise OSError("the power went out")
        original(self, batch, batch_idx)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(EnsembleModule, "training_step", breaking)
        with pytest.raises(RunFailedError, match="the power went out"):
            run(runs_dir, *overrides)
    return next(path for path in (runs_dir / "default").iterdir() if path.is_dir())


def assert_each_point_once(server: StubRun, folder: Path, num_seeds: int = 2) -> None:
    received = points_of_server(server)
    assert set(received) == points_of_records(folder, range(num_seeds))
    assert set(received.values()) == {1}


def steps_of(points: Counter[Point]) -> list[int]:
    return sorted({x for axis, x, _, _ in points if axis == "step"})


def test_every_value_of_a_run_is_at_the_server_once(stub: WandbStub, tmp_path: Path) -> None:
    folder = run(tmp_path, *ONLINE)
    assert_each_point_once(stub.run, folder)
    rows = [row["step"] for row in stub.run.rows if "step" in row and HEAT_MAP not in row]
    assert rows == sorted(set(rows))
    outcomes = read_json(folder / "run.json")["outcomes"]
    for seed, outcome in outcomes.items():
        assert {key: stub.run.summary[f"seed_{seed}/{key}"] for key in outcome} == outcome


@pytest.mark.parametrize("at_step", [13, pytest.param(16, marks=pytest.mark.slow)])
def test_resumed_run_goes_on_in_the_same_run_and_lacks_nothing(
    stub: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int
) -> None:
    folder = train_and_break(tmp_path, monkeypatch, at_step, *ONLINE)
    broken_off = points_of_server(stub.run)
    assert broken_off
    assert run(tmp_path, *ONLINE) == folder
    received = points_of_server(stub.run)
    assert set(received) == points_of_records(folder, range(2))
    twice = Counter({point: count for point, count in received.items() if count > 1})
    assert all(step >= steps_of(broken_off)[-1] - 1 for step in steps_of(twice))
    assert (stub.run.exit_code, stub.run.summary["status"]) == (0, "finished")


@pytest.mark.slow
def test_run_whose_rows_got_lost_is_made_up_for_when_it_is_resumed(
    stub: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_and_break(tmp_path, monkeypatch, 13, *ONLINE)
    del stub.run.lines[2:]
    stub.run.whole_summary = {**stub.run.whole_summary, "step": stub.run.rows[-1]["step"], "_step": 1}
    run(tmp_path, *ONLINE)
    assert set(points_of_server(stub.run)) == points_of_records(folder, range(2))


@pytest.mark.slow
def test_resumed_run_with_a_finished_member_keeps_its_run_and_its_medians(
    stub: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path, *ONLINE, "num_seeds=1")
    train_and_break(tmp_path, monkeypatch, 13, *ONLINE)
    run(tmp_path, *ONLINE)
    assert len(stub.runs) == 2
    whole = next(one for one in stub.runs.values() if one.config["seeds"] == [0, 1])
    received = points_of_server(whole)
    assert set(received) == points_of_records(folder, range(2))


@pytest.mark.slow
def test_frozen_member_leaves_no_gap(stub: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validations = itertools.count()
    monkeypatch.setattr(AddingArjovsky2016, "is_solved", lambda *_: next(validations) == 4)
    folder = run(tmp_path, *ONLINE)
    outcomes = read_json(folder / "run.json")["outcomes"]
    assert [outcome["outcome_step"] for outcome in outcomes.values()] == [10, 20]
    assert_each_point_once(stub.run, folder)


@pytest.mark.slow
def test_diverged_members_leave_no_gap(stub: WandbStub, tmp_path: Path) -> None:
    folder = run(tmp_path, *ONLINE, "optimizer=sgd", "learning_rate=1e30")
    assert read_json(folder / "run.json")["outcomes"]["0"]["outcome"] == "diverged"
    assert_each_point_once(stub.run, folder)


@pytest.mark.slow
def test_killed_training_is_resumed_in_the_same_run_and_lacks_nothing(stub: WandbStub, tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from gradhorizon.training.module import EnsembleModule\n"
        "from tests.runs_on_disk import run\n"
        "original = EnsembleModule.training_step\n"
        "def dying(self, batch, batch_idx):\n"
        "    if self.first_step + batch_idx == 13:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    original(self, batch, batch_idx)\n"
        "EnsembleModule.training_step = dying\n"
        "run(Path(sys.argv[1]), *sys.argv[2:])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), *ONLINE]
    assert subprocess.run(command, env=os.environ.copy(), check=False, capture_output=True).returncode == -9
    folder = run(tmp_path, *ONLINE)
    assert set(points_of_server(stub.run)) == points_of_records(folder, range(2))


def sync(folder: Path) -> None:
    for offline_run in sorted(folder.glob("wandb/offline-run-*")):
        command = [sys.executable, "-m", "wandb", "sync", "--yes", str(offline_run)]
        subprocess.run(command, cwd=folder, env=os.environ.copy(), check=True, capture_output=True)


@pytest.mark.slow
def test_offline_run_that_is_synced_shows_the_same(
    stub: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_and_break(tmp_path, monkeypatch, 13, *ONLINE, "logger=wandb")
    run(tmp_path, *ONLINE, "logger=wandb")
    sync(folder)
    assert_each_point_once(stub.run, folder)
    assert (stub.run.exit_code, stub.run.summary["status"]) == (0, "finished")


@pytest.mark.slow
def test_run_with_a_server_that_dies_records_the_same_bits(stub: WandbStub, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    stub.die()
    alone = run(tmp_path / "alone", *ONLINE, "logger.init_timeout_s=1")
    shutil.rmtree(alone / "wandb")
    assert points_of_records(whole, range(2)) == points_of_records(alone, range(2))
