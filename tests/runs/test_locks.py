"""One process at a time at a member: races, owners that died, file systems without locks."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gradhorizon.config import ConfigError
from gradhorizon.machine import stopping
from gradhorizon.machine.processes import process_start
from gradhorizon.records import safely
from gradhorizon.runs import claims
from gradhorizon.runs.claims import SILENCE_S, Claim, latest_claim, this_machine
from gradhorizon.runs.locks import MemberHeldError, check_held, members_locked
from gradhorizon.training.recorder import MemberFiles
from tests.runs_on_disk import TINY, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def leave(folder: Path, age_s: float = 0.0, number: int = 1, **changes: Any) -> Claim:
    """A claim on seed 0 by a process of another host, with changes, `age_s` after its last sign of life."""
    member = folder / "seed-0"
    member.mkdir(exist_ok=True)
    claim = Claim(
        member / f".owner-{number:06d}.json",
        number,
        0.0,
        "elsewhere",
        "another boot",
        4321,
        77,
        time.time() - 3600,
        "GPU 5",
        "its token",
    )
    claim = replace(claim, **changes)
    content = {key: value for key, value in asdict(claim).items() if key not in ("path", "number", "beat_at_s")}
    claim.path.write_text(json.dumps(content))
    os.utime(claim.path, (time.time() - age_s, time.time() - age_s))
    return claim


def here(pid: int, start: int | None) -> dict[str, Any]:
    return {"host": "here", "machine": this_machine(), "pid": pid, "process_start": start}


def lock(folder: Path) -> None:
    with members_locked(folder, [0]):
        pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "seed-0").iterdir() if path.name != ".lock")


@pytest.mark.parametrize("mode", ["locks", "no_locks", "stale_locks"])
def test_of_eight_processes_that_start_at_once_exactly_one_gets_each_member(tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-m", "tests.lock_racers", str(tmp_path), mode, "15"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_an_owner_says_who_it_is_and_gives_back_at_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(claims.SLOT_VARIABLE, "GPU 3")
    with members_locked(folder, [0, 1]):
        for seed in (0, 1):
            claim = latest_claim(folder / f"seed-{seed}")
            assert claim is not None
            assert (claim.pid, claim.slot, claim.ended_at_s) == (os.getpid(), "GPU 3", None)
            assert claim.is_here
            assert claim.launched_at_s == pytest.approx(time.time(), abs=60)
    ended = latest_claim(folder / "seed-0")
    assert ended is not None
    assert ended.ended_at_s is not None
    assert not ended.is_alive(time.time())


def test_a_member_is_free_again_after_its_owner_has_ended_or_failed(folder: Path) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), members_locked(folder, [0]):
            raise ZeroDivisionError
    assert names(folder) == [".owner-000003.json"]


def test_a_refusal_says_who_where_and_since_when(folder: Path) -> None:
    leave(folder, age_s=20)
    with pytest.raises(MemberHeldError) as refused:
        lock(folder)
    words = str(refused.value)
    assert "seed 0 of run must be trained by one process at a time" in words
    assert "process 4321 on host elsewhere on GPU 5, since 2" in words
    assert "last sign of life 2" in words
    assert names(folder) == [".owner-000001.json"]


def test_one_process_cannot_lock_a_member_twice(folder: Path) -> None:
    with members_locked(folder, [0]), pytest.raises(MemberHeldError, match=f"process {os.getpid()}"):
        lock(folder)


def test_a_refusal_gives_back_the_members_taken_before_it(folder: Path) -> None:
    leave(folder)
    with pytest.raises(MemberHeldError), members_locked(folder, [1, 0]):
        pass
    with members_locked(folder, [1]):
        pass


@pytest.mark.parametrize(
    ("age_s", "changes", "is_refused"),
    [
        pytest.param(0, here(os.getpid(), process_start(os.getpid())), True, id="a live process here"),
        pytest.param(9 * SILENCE_S, here(os.getpid(), process_start(os.getpid())), True, id="a stopped process here"),
        pytest.param(0, here(os.getpid(), 5), False, id="a process here whose id was given away"),
        pytest.param(0, here(2**22 + 1, 5), False, id="no process of that id here"),
        pytest.param(SILENCE_S - 10, {}, True, id="somebody elsewhere who was heard of"),
        pytest.param(SILENCE_S + 10, {}, False, id="somebody elsewhere who is silent"),
        pytest.param(-3600, {}, True, id="somebody whose sign of life lies in the future"),
        pytest.param(0, {"ended_at_s": 1.0}, False, id="somebody who has ended"),
        pytest.param(SILENCE_S - 10, {"host": "here", "machine": "the boot before"}, True, id="another boot, heard of"),
        pytest.param(SILENCE_S + 10, {"host": "here", "machine": "the boot before"}, False, id="another boot, silent"),
    ],
)
def test_a_member_is_taken_over_only_from_an_owner_that_is_dead(
    folder: Path, age_s: float, changes: dict[str, Any], is_refused: bool
) -> None:
    leave(folder, age_s, **changes)
    if is_refused:
        with pytest.raises(MemberHeldError):
            lock(folder)
        assert names(folder) == [".owner-000001.json"]
    else:
        with members_locked(folder, [0]):
            assert names(folder) == [".owner-000002.json"]


def test_the_owners_process_is_dead_while_it_is_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(child.pid) is not None
    child.kill()
    deadline = time.monotonic() + 60
    while process_start(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_start(child.pid) is None
    child.communicate()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "h"}', '{"host": 3, "pid": "x"}', "\x00\xff"])
def test_a_damaged_claim_counts_until_it_is_silent(folder: Path, content: str) -> None:
    path = leave(folder).path
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(MemberHeldError, match=r"has not said who it is in \.owner-000001\.json"):
        lock(folder)
    os.utime(path, (time.time() - SILENCE_S - 1, time.time() - SILENCE_S - 1))
    with members_locked(folder, [0]):
        assert names(folder) == [".owner-000002.json"]


def test_a_lock_that_a_dead_owner_still_holds_is_taken_over_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(folder, age_s=75)
    with FileLock(folder / "seed-0" / ".lock"):
        lock(folder)
        assert "seed 0: taken over from process 4321 on host elsewhere" in caplog.text
        assert "is silent" in caplog.text


def test_a_lock_whose_holder_is_unknown_is_respected(folder: Path) -> None:
    leave(folder, ended_at_s=1.0)
    with FileLock(folder / "seed-0" / ".lock"), pytest.raises(MemberHeldError, match="another one is at it"):
        lock(folder)
    assert names(folder) == [".owner-000001.json"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "no locks"), OSError(errno.EOPNOTSUPP, "none"), NotImplementedError("no flock")]
)
def test_without_locks_of_the_file_system_the_claim_alone_decides(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(FileLock, "_acquire", refuse)
    with members_locked(folder, [0]), pytest.raises(MemberHeldError):
        lock(folder)
    lock(folder)


def test_an_error_of_the_file_system_is_no_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is on fire")

    monkeypatch.setattr(FileLock, "_acquire", refuse)
    with pytest.raises(ConfigError, match="disk is on fire") as refused:
        lock(folder)
    assert not isinstance(refused.value, MemberHeldError)


def test_silence_is_measured_on_the_clock_of_the_file_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(folder)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)  # this host's clock runs an hour ahead
    with pytest.raises(MemberHeldError, match="last sign of life 0 s ago"):
        lock(folder)


def test_an_owner_gives_signs_of_life(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.01)
    with members_locked(folder, [0]):
        path = latest_claim(folder / "seed-0").path  # type: ignore[union-attr]
        os.utime(path, (1.0, 1.0))
        deadline = time.monotonic() + 60
        while path.stat().st_mtime == 1.0 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert path.stat().st_mtime > 1.0
    before = path.stat().st_mtime_ns
    time.sleep(0.05)
    assert path.stat().st_mtime_ns == before


def test_an_owner_that_was_taken_over_may_not_commit_and_ends_nothing(folder: Path) -> None:
    with members_locked(folder, [0]):
        check_held(folder / "seed-0")
        theirs = leave(folder, number=2)
        with pytest.raises(MemberHeldError, match=r"process 4321 on host elsewhere .* has taken it over"):
            check_held(folder / "seed-0")
    assert latest_claim(folder / "seed-0") == replace(theirs, beat_at_s=theirs.path.stat().st_mtime)


def test_an_owner_whose_members_folder_was_moved_away_may_not_commit(folder: Path) -> None:
    with members_locked(folder, [0]):
        (folder / "seed-0").rename(folder / "moved")
        with pytest.raises(MemberHeldError):
            check_held(folder / "seed-0")
    assert not (folder / "seed-0").exists()


def test_a_member_that_nobody_locked_may_be_committed(folder: Path) -> None:
    check_held(folder / "seed-0")


def test_a_slow_racer_gets_neither_a_number_that_is_taken_nor_one_that_is_surpassed(folder: Path) -> None:
    seen_long_ago = leave(folder, age_s=SILENCE_S + 10)
    with members_locked(folder, [0]):
        assert claims.take(folder / "seed-0", seen_long_ago) is None
    with members_locked(folder, [0]):
        assert names(folder) == [".owner-000003.json"]
        assert claims.take(folder / "seed-0", seen_long_ago) is None
        assert names(folder) == [".owner-000003.json"]


def fill_the_disk(patch: pytest.MonkeyPatch) -> None:
    """A disk that takes names, and no content."""
    written = safely.write_new

    def full(content: bytes, path: Path) -> None:
        written(b"", path)
        if content:
            raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(safely, "write_new", full)


def test_a_full_disk_leaves_no_claim(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fill_the_disk(patch)
        with pytest.raises(ConfigError, match="No space left"):
            lock(folder)
    assert names(folder) == []
    lock(folder)


def test_a_full_disk_does_not_keep_a_member_from_the_next_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, members_locked(folder, [0]):
        fill_the_disk(patch)
    assert names(folder) == [".owner-000001.json"]
    assert not list(folder.glob("seed-0/.*.tmp"))
    lock(folder)


def test_warnings_of_a_resumed_run_name_a_process_that_is_gone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    leave(folder, **here(dead_pid(), 5))
    lock(folder)
    assert "is gone" in caplog.text


def test_a_run_that_another_process_trains_is_refused_with_its_owner(tmp_path: Path) -> None:
    folder = run(tmp_path, "num_seeds=1", "num_steps=1", "val_every_steps=1")
    with members_locked(folder, [1]), pytest.raises(MemberHeldError, match=f"seed 1 .*process {os.getpid()} on host"):
        run(tmp_path, "num_seeds=2", "num_steps=1", "val_every_steps=1")
    assert names(folder) == [".owner-000001.json", "checkpoint.pt", "checkpoints", "member.json", "records"]


def test_a_run_that_was_taken_over_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemberFiles.close

    def commit_too_late(self: MemberFiles, *arguments: Any) -> None:
        leave(self.folder.parent, number=9)
        original(self, *arguments)

    monkeypatch.setattr(MemberFiles, "close", commit_too_late)
    with pytest.raises(MemberHeldError, match="no longer this process's"):
        run(tmp_path, "num_seeds=1", "num_steps=1", "val_every_steps=1")
    folder = next((tmp_path / "default").iterdir())
    assert not (folder / "seed-0" / "checkpoint.pt").exists()
    assert not list((folder / "seed-0" / "records").rglob("*.parquet"))
    assert json.loads((folder / "run.json").read_text())["status"] == "running"


@pytest.mark.slow
def test_a_sweep_skips_what_another_process_trains_and_says_that_not_all_is_done(tmp_path: Path) -> None:
    sweep = [
        sys.executable,
        "-m",
        "gradhorizon",
        "-m",
        *TINY[:-2],
        "num_seeds=1",
        "device=cpu",
        "num_steps=1",
        "val_every_steps=1",
        "seq_len=8,9",
    ]
    folder = run(tmp_path / "runs", "num_seeds=1", "num_steps=1", "val_every_steps=1", "seq_len=8")
    (folder / "seed-0").rename(tmp_path / "moved")
    with members_locked(folder, [0]):
        done = subprocess.run(sweep, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert f"skipped: seed 0 of {folder.name} must be trained by one process at a time, and process" in said
    assert "1 of 2 runs skipped" in said
    assert done.returncode == stopping.EXIT_CODE
    assert len(list((tmp_path / "runs" / "default").glob("*T9*/seed-0/member.json"))) == 1
    assert subprocess.run(sweep, cwd=tmp_path, capture_output=True, check=False).returncode == 0
