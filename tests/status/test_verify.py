"""``gradhorizon-verify``: what is whole, what is not, and what older versions recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gradhorizon.records.files import read_json
from gradhorizon.records.reading import read_runs
from gradhorizon.runs.verification import verify_run
from gradhorizon.status import verify
from gradhorizon.status.verify import main
from tests.records_on_disk import without_listing
from tests.runs_on_disk import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("trained"), "num_steps=5", "num_seeds=2")


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "default" / trained.name))


def test_an_undisturbed_run_is_whole_and_its_digest_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify_run(folder)
    assert (found.word, found.problems, found.unsealed, found.notes) == ("whole", [], [], [])
    listed = [len(read_json(folder / f"seed-{seed}" / "member.json")["files"]) for seed in (0, 1)]
    assert found.num_files == 2 + sum(count + 2 for count in listed)  # sheets, configuration and checkpoint.pt
    assert main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "nothing wrong" in shown
    assert read_runs([folder]).digest in shown


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


EVERY_KIND = (
    "run.json",
    "config.yaml",
    "seed-0/member.json",
    "seed-1/checkpoint.pt",
    "seed-0/checkpoints/init.pt",
    "seed-1/records/metrics.parquet",
)
CHANGES: dict[str, Callable[[Path], object]] = {
    "one bit": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", EVERY_KIND)
def test_what_was_changed_is_named(folder: Path, name: str, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    if (name, change) == ("seed-1/checkpoint.pt", "gone"):
        pytest.skip("a finished member no longer needs what it would go on from")
    CHANGES[change](folder / name)
    assert main([str(folder)]) == 1
    shown = capsys.readouterr().out
    assert f"{folder.name}: {name}" in shown
    assert "damaged" in shown


def test_a_member_that_the_run_tells_of_and_that_is_gone_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "seed-1")
    assert verify_run(folder).problems == ["seed-1 is missing: run.json tells how it ended"]


def test_of_very_many_problems_the_first_are_told_and_all_counted(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_SAID", 2)
    for path in sorted((folder / "seed-1" / "checkpoints").iterdir()) + sorted(folder.glob("seed-*/records/*.parquet")):
        flip(path)
    assert main([str(folder)]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    count = len(verify_run(folder).problems)
    assert count > 4
    assert f"… and {count - 2} more" in shown
    assert shown.count(f"{folder.name}: seed-") == 2
    assert f"{count} wrong" in shown


def test_what_nothing_lists_is_told_and_is_no_damage(folder: Path) -> None:
    shutil.copy(folder / "seed-0" / "records" / "metrics.parquet", folder / "seed-0" / "records" / "gates2.parquet")
    found = verify_run(folder)
    assert found.word == "whole"
    assert found.notes == ["seed-0/records/gates2.parquet is no record: nothing lists it"]


def test_files_exchanged_between_members_are_both_named(folder: Path) -> None:
    for name in ("checkpoint.pt", "checkpoints/last.pt"):
        one, other = folder / "seed-0" / name, folder / "seed-1" / name
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
    problems = verify_run(folder).problems
    assert len(problems) == 4
    assert sum("another member's" in words for words in problems) == 2


def test_what_older_versions_recorded_is_unsealed_until_it_is_sealed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        without_listing(folder / f"seed-{seed}")
    before = read_runs([folder]).table("metrics")
    assert verify_run(folder).word == "unsealed"
    assert main([str(folder)]) == 0
    assert "--seal" in capsys.readouterr().out
    assert main([str(folder), "--seal"]) == 0
    assert "2 members were sealed after they had been recorded" in capsys.readouterr().out
    assert verify_run(folder).word == "whole"
    assert read_json(folder / "seed-0" / "member.json")["sealed_at_s"] > 0
    assert read_runs([folder]).table("metrics").equals(before)
    flip(folder / "seed-0" / "records" / "metrics.parquet")
    assert main([str(folder), "--seal"]) == 1
    assert verify_run(folder).word == "damaged"  # what is listed is never listed anew


def test_a_folder_without_runs_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no run found" in caplog.text
