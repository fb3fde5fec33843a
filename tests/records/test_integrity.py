"""Committed files that are missing, altered, doubled or exchanged: named, never read as truth."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.layout import part_name
from gradhorizon.records.listing import Listing
from gradhorizon.records.parquet import write_parquet
from gradhorizon.records.reading import read_member_table, read_runs
from gradhorizon.records.seals import is_sealed_archive
from gradhorizon.records.tables import METRICS
from gradhorizon.records.writing import MemberRecords
from gradhorizon.runs.verification import verify_run
from tests.full_disks import SHORT, begun_run
from tests.full_disks import copied as copy_of
from tests.records_on_disk import LEAD, commit, end, list_files, resumed, rows, without_listing, written
from tests.runs_on_disk import assert_same_records, run


def parts(member: Path) -> list[Path]:
    return sorted((member / "records" / "metrics").glob("*.parquet"))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def dropped_row(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(0, 0), path)


def one_ulp(path: Path) -> None:
    table = pq.read_table(path)
    value = np.nextafter(table["value"].to_numpy(), np.inf)
    pq.write_table(table.set_column(table.column_names.index("value"), "value", pa.array(value)), path)


CHANGES: dict[str, Callable[[list[Path]], object]] = {
    "removed": lambda own: own[1].unlink(),
    "cut short": lambda own: own[1].write_bytes(own[1].read_bytes()[:-1]),
    "longer": lambda own: own[1].write_bytes(own[1].read_bytes() + b"\0"),
    "one bit": lambda own: flip(own[1], 4001),
    "empty": lambda own: own[1].write_bytes(b""),
    "without its rows": lambda own: dropped_row(own[1]),
    "one ulp": lambda own: one_ulp(own[1]),
    "exchanged with another part": lambda own: shutil.copy(own[0], own[1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_part_is_named_by_readers_and_by_the_next_launch(tmp_path: Path, change: str) -> None:
    written(tmp_path, 5, 10, 15)
    own = parts(tmp_path)
    CHANGES[change](own)
    with pytest.raises(DamagedFileError, match=own[1].name):
        read_member_table(tmp_path, "metrics")
    with pytest.raises(DamagedFileError, match=own[1].name):
        resumed(tmp_path, checkpoint_step=15)


@pytest.mark.parametrize("name", [part_name(0, 10), part_name(5, 15), part_name(6, 9), part_name(0, 15)])
def test_a_part_too_many_is_not_read_but_said_and_refused_by_the_next_launch(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path, 5, 10, 15)
    shutil.copy(parts(tmp_path)[0], parts(tmp_path)[0].with_name(name))
    table = read_member_table(tmp_path, "metrics")
    assert table is not None
    assert table["value"].tolist() == [5.0, 10.0, 15.0]
    assert f"{name} is no record" in caplog.text
    with pytest.raises(DamagedFileError, match=f"{name} covers steps that were committed"):
        resumed(tmp_path, checkpoint_step=15)


def test_a_part_that_is_being_written_is_not_read_and_no_word_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = written(tmp_path, 5)
    records.append(METRICS, rows(10.0), 10, "train")
    records.commit(10)
    table = read_member_table(tmp_path, "metrics")
    assert table is not None
    assert table["value"].tolist() == [5.0]
    assert caplog.text == ""


def test_a_whole_table_too_many_is_no_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    end(written(tmp_path, 5))
    shutil.copy(tmp_path / "records" / "metrics.parquet", tmp_path / "records" / "gates.parquet")
    assert read_member_table(tmp_path, "gates") is None
    assert "gates.parquet is no record" in caplog.text


def test_parts_are_merged_as_they_go_and_lose_no_row(tmp_path: Path) -> None:
    steps = list(range(1, 200))
    records = MemberRecords(tmp_path, LEAD)
    most = 0
    for step in steps:
        records.append(METRICS, rows(float(step)), step, "train")
        commit(records, step)
        most = max(most, len(parts(tmp_path)))
    table = read_member_table(tmp_path, "metrics")
    assert table is not None
    assert table["value"].tolist() == [float(step) for step in steps]
    assert most <= 3 * 4  # three of each of the sizes 1, 4, 16, 64
    assert [path.name for path in parts(tmp_path)][:2] == [part_name(0, 64), part_name(64, 128)]


@pytest.mark.parametrize("moment", ["before its checkpoint", "after its checkpoint"])
def test_a_kill_around_a_merged_part_loses_and_doubles_nothing(tmp_path: Path, moment: str) -> None:
    records = written(tmp_path, 1, 2, 3)
    records.append(METRICS, rows(4.0), 4, "train")
    records.commit(4)
    if moment == "after its checkpoint":
        list_files(records)
    again = resumed(tmp_path, 3 if moment == "before its checkpoint" else 4)
    commit(again, 4)
    table = read_member_table(tmp_path, "metrics")
    assert table is not None
    assert table["value"].tolist() == ([1.0, 2.0, 3.0] if moment == "before its checkpoint" else [1.0, 2.0, 3.0, 4.0])
    assert len(parts(tmp_path)) == (3 if moment == "before its checkpoint" else 1)


def test_a_damaged_part_is_not_merged_into_a_larger_one(tmp_path: Path) -> None:
    records = written(tmp_path, 1, 2, 3)
    one_ulp(parts(tmp_path)[1])
    records.append(METRICS, rows(4.0), 4, "train")
    with pytest.raises(DamagedFileError, match=parts(tmp_path)[1].name):
        records.commit(4)


def test_a_file_that_was_merged_and_has_changed_since_is_not_removed(tmp_path: Path) -> None:
    records = written(tmp_path, 1, 2, 3)
    records.append(METRICS, rows(4.0), 4, "train")
    records.commit(4)
    changed = parts(tmp_path)[1]
    one_ulp(changed)
    records.remove_superseded()
    assert changed.is_file()


# --- whole runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    return run(tmp_path_factory.mktemp("whole"), *SHORT)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose disk was full when its first member was to be closed."""
    return begun_run(tmp_path_factory.mktemp("begun"))


def exchange(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["member.json", "records/metrics.parquet", "records/input_gradients.parquet", "checkpoints/last.pt"]
)
def test_files_exchanged_between_members_are_named(whole: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(whole, tmp_path)
    exchange(folder / "seed-0" / name, folder / "seed-1" / name)
    named = {words.partition(" ")[0].removeprefix(f"{folder}/") for words in verify_run(folder).problems}
    assert {f"seed-0/{name}", f"seed-1/{name}"} <= named
    if name.endswith(".pt"):  # which `gradhorizon-measure` reads, and tells of
        return
    with pytest.raises(RecordsError, match=name.rpartition("/")[2]):
        read_everything(folder)


def read_everything(folder: Path) -> None:
    runs = read_runs([folder])
    for name in ("metrics", "input_gradients"):
        runs.table(name)


def test_a_sheet_of_another_run_is_named(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    other = run(tmp_path / "other", *SHORT, "hidden_size=7", "num_seeds=1")
    shutil.copy(other / "seed-0" / "member.json", folder / "seed-0" / "member.json")
    with pytest.raises(RecordsError, match=r"seed-0/member\.json is that of the run \w+, and lies in"):
        read_runs([folder])


@pytest.mark.parametrize("change", ["exchanged", "one bit", "missing part", "part too many"])
def test_an_unfinished_member_with_a_changed_file_is_trained_from_its_start_to_the_same_bits(
    whole: Path, begun: Path, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy_of(begun, tmp_path)
    if change == "exchanged":
        exchange(folder / "seed-0" / "checkpoint.pt", folder / "seed-1" / "checkpoint.pt")
    elif change == "one bit":
        flip(folder / "seed-0" / "checkpoint.pt", 20001)
    elif change == "missing part":
        parts(folder / "seed-0")[0].unlink()
    else:
        shutil.copy(parts(folder / "seed-0")[0], parts(folder / "seed-0")[0].with_name(part_name(1, 2)))
    run(tmp_path, *SHORT)
    assert "seed-0" in caplog.text
    assert "it is trained from its start" in caplog.text
    for seed in (0, 1):
        assert_same_records(whole, folder, seed)


@pytest.mark.parametrize("change", ["gone", "one bit"])
@pytest.mark.parametrize("name", ["records/metrics.parquet", "checkpoints/last.pt"])
def test_a_finished_member_of_which_a_file_has_changed_is_left_alone_and_said(
    whole: Path, tmp_path: Path, name: str, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy_of(whole, tmp_path)
    path = folder / "seed-1" / name
    path.unlink() if change == "gone" else flip(path, 8 * 300 + 1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(tmp_path, *SHORT)
    assert f"{folder / 'seed-1' / name} is missing, or has changed" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_every_checkpoint_carries_its_digest_and_is_read_by_plain_torch(whole: Path) -> None:
    paths = sorted(whole.rglob("*.pt"))
    assert {path.name for path in paths} == {"init.pt", "last.pt", "checkpoint.pt"}
    for path in paths:
        assert is_sealed_archive(path.read_bytes())
        assert torch.load(path, weights_only=True)["step"] in (0, 6)


def test_a_run_without_lists_is_read_and_trained_on_as_before(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    for seed in (0, 1):
        without_listing(folder / f"seed-{seed}")
        assert_same_records(whole, folder, seed)
    run(tmp_path, *SHORT)
    assert "files" not in read_json(folder / "seed-0" / "member.json")


@pytest.mark.parametrize(
    "path", ["../victim", "records/../../victim", "/victim", "a/b/c/d", "", "records//a", ".", ".."]
)
@pytest.mark.parametrize("key", ["files", "superseded"])
def test_a_list_that_leads_out_of_its_member_is_refused(tmp_path: Path, key: str, path: str) -> None:
    entry = {"sha256": "0" * 64, "bytes": 0}
    with pytest.raises(DamagedFileError, match="must list files by their place in the member's folder"):
        Listing.read({"files": {}, key: {path: entry}}, tmp_path / "member.json")


# --- what stands for all of it


def test_the_digest_of_records_changes_with_any_row_and_with_no_copy(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    digest = read_runs([whole]).digest
    assert read_runs([folder]).digest == digest
    path = folder / "seed-0" / "records" / "metrics.parquet"
    table = pq.read_table(path)
    entry = write_parquet(table.slice(0, table.num_rows - 1), path)
    sheet = read_json(folder / "seed-0" / "member.json")
    write_json(
        {**sheet, "files": {**sheet["files"], "records/metrics.parquet": entry.plain}},
        folder / "seed-0" / "member.json",
    )
    assert read_runs([folder]).digest != digest


def test_members_without_a_table_are_known_without_reading_any(
    whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runs = read_runs([whole])
    monkeypatch.setattr(pq, "ParquetFile", None)
    assert isinstance(runs.members_without("gates"), pd.DataFrame)
    assert len(runs.members_without("gates")) == 2
    assert len(runs.members_without("metrics")) == 0
