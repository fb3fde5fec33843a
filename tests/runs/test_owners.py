"""What a launch writes of members that are no longer its own, nothing; and what launches of a run leave each other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gradhorizon.records.files import read_json, write_atomically, write_json
from gradhorizon.records.launches import Launch, earlier_launches
from gradhorizon.records.layout import FAILURE
from gradhorizon.records.reading import read_runs
from gradhorizon.runs.claims import latest_claim
from gradhorizon.runs.endings import record
from gradhorizon.runs.locks import MemberHeldError, check_held, members_locked
from gradhorizon.runs.log import log_file
from gradhorizon.runs.summary import summarize
from gradhorizon.status.run import read_run
from gradhorizon.training.module import EnsembleModule
from gradhorizon.training.recorder import MemberFiles
from tests.machine.test_stopping import stopped
from tests.runs.test_locks import leave
from tests.runs_on_disk import run
from tests.status_runs import SHEET
from tests.synthetic_runs import SyntheticRun

SHORT = ("num_seeds=1", "num_steps=2", "val_every_steps=1", "trainer.checkpoint_every_s=0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["seed-0/member.json", "seed-0/records/a/b", "run.json", "seed-1/member.json", "new/a"]
)
def test_a_launch_that_has_lost_one_member_writes_nothing_below_its_run(folder: Path, name: str) -> None:
    with members_locked(folder, [0, 1]):
        leave(folder, number=2)
        with pytest.raises(MemberHeldError, match="has taken it over"):
            check_held(folder / "seed-0")
        before = files(folder)
        with pytest.raises(MemberHeldError, match="has taken it over"):
            write_atomically(b"mine", folder / name)
        assert files(folder) == before
        assert not (folder / "new").exists()


def test_members_that_were_not_lost_are_given_back_at_once(folder: Path) -> None:
    with pytest.raises(MemberHeldError), members_locked(folder, [0, 1]):  # noqa: PT012
        leave(folder, number=2)
        check_held(folder)
    ended = latest_claim(folder / "seed-1")
    assert ended is not None
    assert ended.ended_at_s is not None
    with members_locked(folder, [1]):
        pass


def test_a_launch_writes_elsewhere_and_to_runs_of_others_as_before(folder: Path) -> None:
    with members_locked(folder, [0]):
        leave(folder, number=2)
        write_atomically(b"mine", folder.parent / "run-of-others" / "run.json")
        write_atomically(b"mine", folder.parent / "file")


def test_the_check_comes_after_all_was_written_and_just_before_the_rename(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with members_locked(folder, [0]):
        write_atomically(b"before", folder / "seed-0" / "file")
        monkeypatch.setattr(os, "fsync", lambda _: leave(folder, number=2))
        with pytest.raises(MemberHeldError):
            write_atomically(b"after", folder / "seed-0" / "file")
    assert (folder / "seed-0" / "file").read_bytes() == b"before"
    assert not list(folder.rglob("*.tmp"))


def test_who_takes_a_member_over_removes_what_its_owner_would_still_rename(folder: Path) -> None:
    leave(folder, age_s=1000)
    mine = folder / "seed-0" / ".checkpoint.pt.4321.tmp"
    of_run, of_others = folder / ".run.json.4321.tmp", folder / ".run.json.4322.tmp"
    for path in (mine, of_run, of_others):
        path.touch()
    with members_locked(folder, [0]):
        assert [path.exists() for path in (mine, of_run, of_others)] == [False, False, True]


def test_nothing_is_logged_to_a_run_that_was_taken_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(MemberHeldError), members_locked(folder, [0]), log_file(folder / "log.txt"):  # noqa: PT012
        logging.getLogger("a").info("mine")
        leave(folder, number=2)
        logging.getLogger("a").info("theirs by now")
        check_held(folder)
    said = (folder / "log.txt").read_text()
    assert "mine" in said
    assert "theirs" not in said
    assert "taken it over" not in said
    assert "theirs by now" in caplog.text


def test_whatever_breaks_once_a_member_is_lost_breaks_for_that_reason(folder: Path) -> None:
    with pytest.raises(MemberHeldError, match="has taken it over"), members_locked(folder, [0]):  # noqa: PT012
        leave(folder, number=2)
        raise ZeroDivisionError


def test_a_run_that_breaks_after_it_was_taken_over_is_not_marked_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: dict[str, bytes] = {}

    def break_down(*_: object) -> None:
        folder = next((tmp_path / "default").iterdir())
        leave(folder, number=9)
        before.update(files(folder))
        raise RuntimeError("after it was taken over")

    monkeypatch.setattr(EnsembleModule, "training_step", break_down)
    with pytest.raises(MemberHeldError, match="has taken it over"):
        run(tmp_path, *SHORT)
    folder = next((tmp_path / "default").iterdir())
    assert not (folder / FAILURE).exists()
    assert {name for name, content in files(folder).items() if before.get(name) != content} == set()


@pytest.mark.parametrize("is_run", [True, False])
@pytest.mark.parametrize("is_moved", [True, False])
def test_a_folder_that_is_deleted_or_moved_while_it_trains_is_called_so_and_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_run: bool, is_moved: bool
) -> None:
    original, gone = MemberFiles.commit, []

    def commit_too_late(self: MemberFiles, *arguments: Any) -> None:
        gone.append(self.folder.parent if is_run else self.folder)
        if is_moved:
            gone[-1].rename(tmp_path / "moved")
        else:
            shutil.rmtree(gone[-1])
        original(self, *arguments)

    monkeypatch.setattr(MemberFiles, "commit", commit_too_late)
    with pytest.raises(MemberHeldError, match="is gone: it was deleted or moved") as refused:
        run(tmp_path, *SHORT)
    assert "taken it over" not in str(refused.value)
    assert len(gone) == 1
    assert not gone[0].exists()


def test_a_folder_that_another_launch_has_made_anew_is_called_so(folder: Path) -> None:
    words = r"is gone: .* and process 4321 on host elsewhere .* has made it anew"
    with pytest.raises(MemberHeldError, match=words), members_locked(folder, [0]):  # noqa: PT012
        shutil.rmtree(folder / "seed-0")
        theirs = leave(folder)
        check_held(folder / "seed-0")
    assert theirs.path.is_file()


def test_a_sign_of_life_is_never_given_for_anothers_claim_of_the_same_number(folder: Path) -> None:
    with members_locked(folder, [0]):
        mine = latest_claim(folder / "seed-0")
        shutil.rmtree(folder / "seed-0")
        theirs = leave(folder, age_s=1000)
        before = theirs.path.stat().st_mtime_ns
        mine.beat()  # type: ignore[union-attr]
        assert theirs.path.stat().st_mtime_ns == before


def test_a_failure_is_not_written_to_a_run_that_another_process_is_at(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(folder)
    known = {"experiment": "e", "run": "run", "identity": "0123456789", "model": "m", "task": "t", "seq_len": 5}
    write_json({**SHEET, **known, "num_steps": 9, "status": "running"}, folder / "run.json")
    record(folder / FAILURE, "why", [], [], [0])
    assert not (folder / FAILURE).exists()
    assert read_json(folder / "run.json")["status"] == "running"
    assert "process 4321 on host elsewhere" in caplog.text
    record(folder / FAILURE, "why", [], [], [1])
    assert read_json(folder / "run.json")["status"] == "failed"


FALLING_SILENT = """
import sys
from pathlib import Path
from gradhorizon.sweeps.launcher.process import _fall_silent, _redirect
from gradhorizon.runs.locks import MemberHeldError, check_held, members_locked, when_lost
from gradhorizon.records import safely
from tests.runs.test_locks import leave

run = Path(sys.argv[1])
_redirect(safely.open_to_append(run / "output.txt"))
when_lost.append(_fall_silent)
with members_locked(run, [0]):
    print("mine", flush=True)
    leave(run, number=2)
    try:
        check_held(run)
    except MemberHeldError:
        print("theirs", flush=True)
"""


def test_the_output_of_a_launchers_process_falls_silent_once_its_run_was_taken_over(folder: Path) -> None:
    command = [sys.executable, "-c", FALLING_SILENT, str(folder)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert (folder / "output.txt").read_text() == "mine\n"


# --- entries of launches


def test_a_launch_is_kept_with_its_members_and_not_with_the_run(tmp_path: Path) -> None:
    folder = run(tmp_path, *SHORT[1:], "num_seeds=2")
    assert "launches" not in read_json(folder / "run.json")
    assert read_json(folder / "run.json")["seeds"] == [0, 1]
    for seed in (0, 1):
        sheet = read_json(folder / f"seed-{seed}" / "member.json")
        (entry,) = sheet["launches"]
        assert entry["seeds"] == [0, 1]
        assert entry.items() >= sheet["launch"].items()
        assert entry["measuring_s"]["input_gradients"] > 0
        assert entry["wall_s"] > 0


@pytest.mark.parametrize("is_damaged", [True, False])
def test_earlier_launches_are_kept_on_resume_though_the_sheet_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    folder = stopped(tmp_path, monkeypatch, 7)
    sheet = folder / "seed-0" / "member.json"
    (first,) = read_json(sheet)["launches"]
    if is_damaged:
        sheet.write_text("{")
    run(tmp_path)
    kept, second = read_json(sheet)["launches"]
    assert {**kept, "wall_s": 0} == {**first, "wall_s": 0}
    assert second["started_at_s"] > kept["started_at_s"]


def test_what_a_killed_launch_left_in_sheet_and_checkpoint_is_one_list() -> None:
    one, two = ({"started_at_s": start, "wall_s": 1.0} for start in (1.0, 2.0))
    later = {**two, "wall_s": 3.0}
    assert earlier_launches({"launches": [one, two]}, {"launches": [one, later]}) == [one, later]
    assert earlier_launches({"launches": [one, later]}, {"launches": [one, two]}) == [one, later]
    assert earlier_launches({"launches": [one]}, {"launches": [one, two]}) == [one, two]
    assert earlier_launches({"launches": None}, {"launches": 3}) == []


def test_what_an_older_version_kept_of_launches_in_the_runs_sheet_stays_and_is_read(tmp_path: Path) -> None:
    folder = run(tmp_path, *SHORT)
    old = [{"seeds": [0, 5], "device": "cuda", "started_at_s": 1.0, "wall_s": 2.0}]
    sheet = {name: value for name, value in read_json(folder / "run.json").items() if name != "seeds"}
    write_json({**sheet, "launches": old}, folder / "run.json")
    run(tmp_path, *SHORT[1:], "num_seeds=2")
    assert read_json(folder / "run.json")["launches"] == old
    assert read_json(folder / "run.json")["seeds"] == [0, 1, 5]
    assert list(read_runs([folder]).members["seed"]) == [0, 1, 5]


def test_a_member_that_was_moved_out_of_a_run_still_counts(tmp_path: Path) -> None:
    folder = run(tmp_path, *SHORT[1:], "num_seeds=2")
    (folder / "seed-1").rename(tmp_path / "moved")
    run(tmp_path, *SHORT, "seed=2")
    assert read_json(folder / "run.json")["seeds"] == [0, 1, 2]
    assert list(read_runs([folder]).members["status"]) == ["finished", "running", "finished"]
    assert [member.seed for member in read_run(folder, 0.0).members] in ([0, 2], [0, 1, 2])


def _end(folder: Path, description: dict[str, Any], seed: int, rounds: int, has_locks: bool) -> None:
    if not has_locks:
        FileLock._acquire = _refuse  # type: ignore[method-assign, assignment]
    for number in range(rounds):
        own = folder / str(number)
        (own / f"seed-{seed}").mkdir(parents=True, exist_ok=True)
        sheet = {"seed": seed, "status": "finished", "outcome": "solved", "outcome_step": 1, "step": 1, "launch": {}}
        write_json(sheet, own / f"seed-{seed}" / "member.json")
        summarize(own, description, "finished", [seed])


def _refuse(*_: object) -> None:
    raise NotImplementedError("no flock")


@pytest.mark.parametrize("has_locks", [True, False])
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "damaged"])
def test_launches_that_end_at_the_same_time_leave_a_sheet_that_tells_of_all(
    tmp_path: Path, is_whole: bool, has_locks: bool
) -> None:
    # A sheet that lacks what it must have is set aside by whoever comes next, and written anew.
    description = {**(SyntheticRun()._run_json() if is_whole else {}), "run": "a"}
    context, rounds = multiprocessing.get_context("fork"), 15
    ending = [context.Process(target=_end, args=(tmp_path, description, seed, rounds, has_locks)) for seed in range(3)]
    for process in ending:
        process.start()
    for process in ending:
        process.join()
    for number in range(rounds):
        sheet = read_json(tmp_path / str(number) / "run.json")
        assert (sheet["status"], sorted(sheet["outcomes"]), sheet["seeds"]) == ("finished", ["0", "1", "2"], [0, 1, 2])


def test_a_lock_that_a_suspended_launch_holds_is_waited_for_a_moment_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradhorizon.runs.summary._PATIENCE_S", 0.1)
    with FileLock(folder / ".run.lock"):
        summarize(folder, {"run": "a"}, "running", [3])
    assert read_json(folder / "run.json")["seeds"] == [3]


def test_an_entry_counts_seconds_by_a_clock_that_cannot_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Launch([0], {"device": "cpu"})
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert 0 <= launch.entry()["wall_s"] < 60
