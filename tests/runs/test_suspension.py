"""Owners that were suspended for longer than their lock lives, taken over, and woken: they write nothing at all."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from gradhorizon.machine import stopping
from gradhorizon.records.files import read_json
from tests.runs_on_disk import TINY, assert_same_records, run
from tests.suspended_owners import MOMENTS, WAIT_S, Launched, launched
from tests.sweep_remains import complaints

OFTEN = ("trainer.checkpoint_every_s=0",)  # commits at every validation

pytestmark = pytest.mark.slow


def started(folder: Path, *overrides: str, moment: str = "") -> Launched:
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"output-{len(list(folder.glob('output-*')))}.txt"
    output.touch()
    return launched(output, (*TINY, *OFTEN, *overrides), MOMENTS[moment] if moment else None)


def suspended(folder: Path, moment: str) -> Launched:
    """A launch that has stopped itself."""
    process = started(folder, moment=moment)
    process.wait(until_stopped=True)
    return process


def taken_over(folder: Path) -> str:
    """What a launch says that trains all to its end, which it can once the other one was silent for long enough."""
    deadline = time.monotonic() + WAIT_S
    while True:
        second = started(folder)
        second.wait()
        if second.code == 0:
            return second.said
        assert second.code == stopping.EXIT_CODE, second.said
        assert time.monotonic() < deadline, second.said


def wake(process: Launched) -> None:
    """Let a suspended launch go on to its end."""
    os.kill(process.pid, signal.SIGCONT)
    process.wait()


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All there is below a folder, folders too: when it was changed, and what it holds."""
    found = sorted([folder, *folder.rglob("*")])
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes())
        for path in found
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    undisturbed = started(folder)
    undisturbed.wait()
    assert undisturbed.code == 0, undisturbed.said
    return folder / "runs" / "default"


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_owner_that_was_taken_over_while_suspended_wakes_leaves_and_writes_nothing(
    tmp_path: Path, whole: Path, moment: str
) -> None:
    first = suspended(tmp_path, moment)
    try:
        assert "which is silent" in taken_over(tmp_path)
        (folder,) = (tmp_path / "runs" / "default").iterdir()
        before = everything(folder)
        wake(first)
    finally:
        first.kill()
    assert first.code == stopping.EXIT_CODE, first.said
    assert "is no longer this process's: process" in first.said
    assert "has taken it over; nothing was written since" in first.said
    assert "Traceback" not in first.said
    after = everything(folder)
    assert [name for name in {**before, **after} if before.get(name) != after.get(name)] == []
    assert "has taken it over" not in (folder / "log.txt").read_text()
    assert complaints(folder.parent, whole, range(2)) == []


def test_an_owner_whose_folder_was_moved_while_suspended_says_so_and_does_not_make_it_anew(tmp_path: Path) -> None:
    first = suspended(tmp_path, "between part and checkpoint")
    try:
        (folder,) = (tmp_path / "runs" / "default").iterdir()
        folder.rename(tmp_path / "moved")
        before = {path.name for path in (tmp_path / "moved").rglob("*")}
        wake(first)
    finally:
        first.kill()
    assert first.code == stopping.EXIT_CODE, first.said
    assert "is gone: it was deleted or moved while" in first.said
    assert "taken it over" not in first.said
    assert "Traceback" not in first.said
    assert not folder.exists()
    assert {path.name for path in (tmp_path / "moved").rglob("*")} <= before


def test_three_launches_of_different_seeds_at_once_keep_each_others_entries(tmp_path: Path) -> None:
    seeds = range(3)
    at_once = [started(tmp_path, f"seed={seed}", "num_seeds=1") for seed in seeds]
    for process in at_once:
        process.wait()
    assert [process.code for process in at_once] == [0, 0, 0], [process.said for process in at_once]
    (folder,) = (tmp_path / "runs" / "default").iterdir()
    sheet = read_json(folder / "run.json")
    assert (sheet["status"], sheet["seeds"]) == ("finished", [0, 1, 2])
    assert {seed: one["status"] for seed, one in sheet["outcomes"].items()} == dict.fromkeys("012", "finished")
    for seed in seeds:
        (entry,) = read_json(folder / f"seed-{seed}" / "member.json")["launches"]
        assert entry["seeds"] == [seed]
        assert entry["wall_s"] > 0
        alone = run(tmp_path / "alone", *OFTEN, f"seed={seed}", "num_seeds=1")
        assert_same_records(alone, folder, seed)
