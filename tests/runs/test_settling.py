"""A run whose process was killed when all was done: launched again, it says that it has finished, and is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradhorizon.records.files import read_json, remove_orphans, write_json
from gradhorizon.records.layout import FAILURE
from gradhorizon.runs.claims import latest_claim
from gradhorizon.runs.locks import members_locked
from gradhorizon.runs.settling import settle
from tests.runs_on_disk import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "default" / finished.name))


def kill_before_the_end(folder: Path, status: str) -> None:
    sheet = read_json(folder / "run.json")
    unknown = {"status": "running", "outcome": None, "outcome_step": None}
    write_json({**sheet, "status": status, "outcomes": {"0": unknown}}, folder / "run.json")


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("status", ["running", "failed", "finished"])
def test_a_run_that_is_launched_again_says_that_it_has_finished(finished: Path, folder: Path, status: str) -> None:
    kill_before_the_end(folder, status)
    write_json({"reason": "killed by signal 9"}, folder / FAILURE)
    assert run(folder.parents[1]) == folder
    assert read_json(folder / "run.json") == read_json(finished / "run.json")
    assert not (folder / FAILURE).exists()


def test_a_run_that_another_process_is_at_is_left_to_it(folder: Path) -> None:
    kill_before_the_end(folder, "running")
    with members_locked(folder, [1]):
        settle(folder)
    assert read_json(folder / "run.json")["status"] == "running"


def test_a_run_with_a_member_that_has_not_ended_is_left_as_it_is(folder: Path) -> None:
    kill_before_the_end(folder, "failed")
    (folder / "seed-2").mkdir()
    settle(folder)
    assert read_json(folder / "run.json")["status"] == "failed"


def test_a_run_that_has_said_all_is_not_touched(folder: Path) -> None:
    claim = latest_claim(folder / "seed-0")
    before = (folder / "run.json").stat().st_mtime_ns
    settle(folder)
    assert (folder / "run.json").stat().st_mtime_ns == before
    assert latest_claim(folder / "seed-0") == claim


@pytest.mark.parametrize("content", [None, "{"])
def test_a_run_without_a_readable_sheet_is_left_as_it_is(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    settle(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"] * (content is not None)


def test_what_dead_processes_have_half_written_is_removed(tmp_path: Path) -> None:
    dead, alive = (tmp_path / f".run.json.{pid}.tmp" for pid in (dead_process(), os.getpid()))
    dead.touch()
    alive.touch()
    (tmp_path / ".other.tmp").touch()
    assert remove_orphans(tmp_path) == [dead]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, ".other.tmp"])


def test_a_launch_removes_what_a_killed_one_has_half_written(folder: Path) -> None:
    stray = folder / f".run.json.{dead_process()}.tmp"
    stray.touch()
    kill_before_the_end(folder, "running")
    run(folder.parents[1])
    assert not stray.exists()
