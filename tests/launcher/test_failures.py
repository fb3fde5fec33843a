"""What is left of a run that failed: more files, and none of the others changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gradhorizon.launcher.failures import Failure

from gradhorizon.launcher import failures
from gradhorizon.launcher.process import Report
from gradhorizon.records import RecordsError, read_json, write_json

KILLED = Report("failed", reason="killed by signal 9, SIGKILL (out of memory?)")
RAISED = Report("failed", reason="ValueError: no", traceback="Traceback:\n  there\nValueError: no")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json({"status": "running", "run": "gru-1", "launches": [{"seeds": [0]}]}, tmp_path / "run.json")
    (tmp_path / "log.txt").write_text("".join(f"line {number}\n" for number in range(50)))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    return tmp_path


def record(folder: Path, report: Report) -> None:
    failures.record(folder, report, ["model=gru"], attempt=2, wall_s=1.5)


def test_a_killed_run_is_left_with_its_signal_and_its_last_words(folder: Path) -> None:
    record(folder, KILLED)
    left = read_json(folder / "failed.json")
    assert left["reason"] == "killed by signal 9, SIGKILL (out of memory?)"
    assert left["last_lines"] == [f"line {number}" for number in range(30, 50)]
    assert (left["overrides"], left["attempt"], left["wall_s"]) == (["model=gru"], 2, 1.5)


def test_a_run_that_raised_is_left_with_its_traceback(folder: Path) -> None:
    record(folder, RAISED)
    assert read_json(folder / "failed.json")["traceback"] == ["Traceback:", "  there", "ValueError: no"]


def test_a_run_sheet_that_says_running_says_failed_and_nothing_else_changes(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    record(folder, KILLED)
    assert read_json(folder / "run.json") == {**json.loads(before.pop("run.json")), "status": "failed"}
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("content", ['{"status": "finished"}', '{"status": "fail', None])
def test_a_run_sheet_that_says_anything_else_is_left_alone(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    record(tmp_path, KILLED)
    assert (tmp_path / "run.json").exists() == (content is not None)
    assert content is None or (tmp_path / "run.json").read_text() == content


def test_a_disk_that_takes_nothing_is_said_and_ends_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: dict[str, Any], path: Path) -> None:
        raise RecordsError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(failures, "write_json", full)
    record(folder, KILLED)
    assert "failed.json cannot be written: No space left on device" in caplog.text


def test_the_listing_names_every_failure_and_its_logs(folder: Path) -> None:
    record(folder, RAISED)
    failed = [Failure("#3 model=gru", "ValueError: no", folder), Failure("#4", "no task", None)]
    said = failures.listing(failed, total=9)
    assert said.splitlines() == [
        "2 of 9 runs failed:", "  #3 model=gru: ValueError: no", f"    {folder}: failed.json, log.txt", "  #4: no task",
    ]  # fmt: skip
