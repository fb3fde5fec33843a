"""What is left of a run that failed: more files, and none of the others changed; and what is said of it."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from gradhorizon.config import ConfigError
from gradhorizon.machine import stopping
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.layout import FAILURE
from gradhorizon.records.seals import digest_of_json
from gradhorizon.runs import endings
from gradhorizon.runs.endings import marked, record
from gradhorizon.runs.failures import forgive
from gradhorizon.runs.locks import MemberHeldError
from gradhorizon.runs.results import FailedRun, failures_in_words
from gradhorizon.terminal.reasons import RunFailedError, attached, phase, reason_of
from tests.breaking import Unspeakable
from tests.status_runs import StatusRun

KILLED = "killed by signal 9, SIGKILL (out of memory?)"
LINES = ["Traceback:", "  there", "ValueError: no"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json({"status": "running", "run": "gru-1", "launches": [{"seeds": [0]}]}, tmp_path / "run.json")
    (tmp_path / "log.txt").write_text("".join(f"line {number}\n" for number in range(50)))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    return tmp_path


def mark(folder: Path, reason: str = KILLED, **facts: Any) -> None:
    record(folder / FAILURE, reason, facts.pop("lines", ()), ["model=gru"], facts.pop("seeds", (2, 0)), **facts)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no"), "ValueError: no"),
        (RuntimeError("\n  first\n\n  second\n"), "RuntimeError: first second"),
        (StopIteration(), "StopIteration (no message)"),
        (MemoryError("  "), "MemoryError (no message)"),
        (KeyError("key"), "KeyError: 'key'"),
        (OSError("\x1b[31mred"), "OSError: \N{REPLACEMENT CHARACTER}[31mred"),
        (SystemExit(3), "SystemExit: exited with code 3"),
        (SystemExit(), "SystemExit: exited with code 0"),
        (SystemExit("enough"), "SystemExit: enough"),
        (ConfigError("`seed` must not be negative, got -1"), "`seed` must not be negative, got -1"),
        (RecordsError(""), "RecordsError (no message)"),
        (Unspeakable(), "Unspeakable (no message)"),
        (ValueError("x" * 5000), f"ValueError: {'x' * 1000}…"),
    ],
)
def test_every_reason_is_one_line_that_names_what_was_raised(error: BaseException, words: str) -> None:
    assert reason_of(error) == words


def test_the_innermost_phase_counts_and_a_stop_iteration_is_no_end_of_anything() -> None:
    with pytest.raises(OSError, match="no") as caught, phase("outer"), phase("inner"):
        raise OSError("no")
    assert attached(caught.value, "phase") == "inner"
    with pytest.raises(Exception, match=r"StopIteration \(no message\)") as stopped, phase("outer"), phase("inner"):
        next(iter(()))
    assert not isinstance(stopped.value, StopIteration)
    assert attached(stopped.value, "phase") == "inner"


def test_a_killed_run_is_left_with_its_signal_and_its_last_words(folder: Path) -> None:
    mark(folder, attempt=2, wall_s=1.5)
    left = read_json(folder / FAILURE)
    assert left["reason"] == KILLED
    assert left["last_lines"] == [f"line {number}" for number in range(30, 50)]
    assert (left["overrides"], left["attempt"], left["wall_s"], left["seeds"]) == (["model=gru"], 2, 1.5, [0, 2])


def test_a_launcher_adds_to_what_the_run_itself_has_left_of_the_same_failure_and_of_no_other(folder: Path) -> None:
    mark(folder, "ValueError: no", lines=LINES, phase="building")
    mark(folder, "ValueError: no", attempt=1)
    left = read_json(folder / FAILURE)
    assert (left["traceback"], left["phase"], left["attempt"]) == (LINES, "building", 1)
    mark(folder, KILLED)
    assert read_json(folder / FAILURE).keys().isdisjoint({"phase", "attempt"})
    assert read_json(folder / FAILURE)["traceback"] == []


def test_a_run_sheet_that_says_running_says_failed_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = StatusRun(status="running", ends=()).write(tmp_path / "study")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    mark(folder)
    found = read_json(folder / "run.json")
    assert found.pop("digest") == digest_of_json(found)
    assert found == {**json.loads(before.pop("run.json")), "status": "failed"}
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("content", ['{"status": "finished"}', '{"status": "fail', None])
def test_a_run_sheet_that_says_anything_else_is_left_alone(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    mark(tmp_path)
    assert (tmp_path / "run.json").exists() == (content is not None)
    assert content is None or (tmp_path / "run.json").read_text() == content


def test_a_disk_that_takes_nothing_is_said_and_ends_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: dict[str, Any], path: Path) -> None:
        raise RecordsError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(endings, "write_json", full)
    mark(folder)
    assert "failed.json cannot be written: No space left on device" in caplog.text


@pytest.mark.parametrize(("seeds", "is_left"), [((0, 2), False), ((0, 1, 2), False), ((0,), True), ((), True)])
def test_a_mark_goes_when_all_members_that_it_names_are_at_work_or_done(
    folder: Path, seeds: tuple[int, ...], is_left: bool
) -> None:
    mark(folder)
    forgive(folder, seeds)
    assert (folder / FAILURE).exists() == is_left


def test_a_folder_in_the_place_of_a_failure_is_said(tmp_path: Path) -> None:
    (tmp_path / FAILURE).mkdir()
    with pytest.raises(RecordsError, match=r"failed\.json is a folder, where a file was expected; move it away"):
        forgive(tmp_path, [0])


@pytest.mark.parametrize("error", [OSError("no"), SystemExit(0), StopIteration(), BaseException("odd"), MemoryError()])
def test_whatever_breaks_a_run_leaves_a_mark_a_traceback_in_its_log_and_a_plain_error(
    tmp_path: Path, error: BaseException
) -> None:
    folder = tmp_path / "experiment" / "gru-0123456789"
    with pytest.raises(RunFailedError, match="gru-0123456789 failed: "), marked(folder, [4]), phase("building"):
        raise error
    left = read_json(folder / FAILURE)
    assert (left["phase"], left["seeds"]) == ("building", [4])
    assert type(error).__name__ in left["reason"]
    assert (folder / "log.txt").read_text().count("Traceback (most recent call last):") >= 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), stopping.Stopped(), MemberHeldError("another is at it")])
def test_whoever_goes_on_another_time_has_not_failed(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), marked(tmp_path / "run", [0]):
        raise error
    assert not (tmp_path / "run").exists()


def test_ctrl_c_that_lightning_has_made_an_exit_of_is_ctrl_c_again(tmp_path: Path) -> None:
    def leave() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            sys.exit(1)

    with pytest.raises(KeyboardInterrupt), marked(tmp_path / "run", [0]):
        leave()
    assert not (tmp_path / "run").exists()


def test_a_configuration_refused_before_there_is_a_folder_leaves_none_and_afterwards_a_mark(tmp_path: Path) -> None:
    for is_there in (False, True):
        with pytest.raises(ConfigError), marked(tmp_path / "run", [0]):
            raise ConfigError("no such optimizer")
        assert (tmp_path / "run" / FAILURE).exists() == is_there
        (tmp_path / "run").mkdir(exist_ok=True)


def test_the_listing_names_every_failure_and_its_logs(folder: Path) -> None:
    mark(folder)
    failed = [FailedRun("#3 model=gru", "ValueError: no", folder), FailedRun("#4", "no task", None)]
    assert failures_in_words(failed, num_runs=9).splitlines() == [
        "2 of 9 runs failed:",
        "  #3 model=gru: ValueError: no",
        f"    {folder}: failed.json, log.txt",
        "  #4: no task",
    ]
