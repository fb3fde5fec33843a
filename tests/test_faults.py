"""What is promised under faults: at most the part being written is lost, nobody sees half a row, the next launch mends.

What a kill does at every moment is in `tests.torture`; here are full disks, spoiled files, clocks and other versions.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradhorizon.config import ConfigError
from gradhorizon.records import parquet
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import put_aside, read_json, write_atomically
from gradhorizon.records.parquet import write_parquet
from gradhorizon.records.reading import read_member_table, read_runs
from gradhorizon.records.seals import Entry
from gradhorizon.records.tables import METRICS
from gradhorizon.records.writing import MemberRecords
from gradhorizon.terminal.reasons import RunFailedError
from tests.full_disks import SHORT, begun_run, copied, fill_the_disk_at
from tests.records_on_disk import LEAD, commit, end, relist, resumed, rows, without_listing, written
from tests.runs_on_disk import TINY, assert_same_records, run
from tests.test_command_line import launch as command

ROOT = Path(__file__).parents[1]
SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "garbage": lambda content: np.random.default_rng(0).bytes(len(content)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    return run(tmp_path_factory.mktemp("whole"), *SHORT)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose disk was full at its third commit."""
    return begun_run(tmp_path_factory.mktemp("begun"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_nothing_was_lost(before: dict[str, bytes], folder: Path) -> None:
    """Every part of before is still there: in its place, aside, or merged into a table."""
    now = {content for name, content in contents(folder).items() if ".parquet" in name}
    merged = {path.stem for path in folder.glob("seed-*/records/*.parquet")}
    lost = [
        name
        for name, content in before.items()
        if name.endswith(".parquet") and content not in now and Path(name).parent.name not in merged
    ]
    assert lost == []


# --- a full disk


def test_a_full_disk_is_one_message_that_names_it_and_what_was_committed_is_intact(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk_at(monkeypatch, "metrics.parquet")
    with pytest.raises(RunFailedError, match=r"No space left on device \(the disk at / .*free some space") as caught:
        run(tmp_path, *SHORT)
    monkeypatch.undo()
    assert str(caught.value).count("\n") == 0
    folder = next(path for path in (tmp_path / "default").iterdir() if path.is_dir())
    assert not list(folder.rglob("*.tmp"))
    seen = read_runs([folder]).table("metrics")
    assert set(seen["step"]) == {0, 2, 4}
    run(tmp_path, *SHORT)
    for seed in (0, 1):
        assert_same_records(whole, folder, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["init.pt", "checkpoint.pt", "member.json", "run.json", "config.yaml", "last.pt"])
def test_a_disk_that_fills_at_any_file_leaves_a_run_that_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fill_the_disk_at(monkeypatch, name)
    with pytest.raises((RunFailedError, RecordsError), match="No space left on device"):
        run(tmp_path, *SHORT)
    monkeypatch.undo()
    folder = run(tmp_path, *SHORT)
    for seed in (0, 1):
        assert_same_records(whole, folder, seed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_one_message_and_the_same_command_goes_on_once_there_is_space(
    whole: Path, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2**20 - 120 * 2**10))
    full = command(small_disk, "runs_dir=runs", *TINY, *SHORT)
    assert full.returncode != 0
    assert f"No space left on device (the disk at {small_disk}" in full.stderr
    assert "Traceback" not in full.stderr
    ballast.unlink()
    again = command(small_disk, "runs_dir=runs", *TINY, *SHORT)
    assert again.returncode == 0, again.stderr
    folder = next(path for path in (small_disk / "runs" / "default").iterdir() if path.is_dir())
    for seed in (0, 1):
        assert_same_records(whole, folder, seed)


def test_a_read_only_disk_is_refused_before_training(begun: Path, small_disk: Path) -> None:
    shutil.copytree(begun, small_disk / "runs" / begun.parent.name / begun.name)
    before = contents(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ConfigError, match=r"must be a folder that can be written, got .*Read-only file system"):
        run(small_disk / "runs", *SHORT)
    assert contents(small_disk) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write where permissions forbid it")
def test_a_folder_without_write_permission_is_refused_before_training(begun: Path, tmp_path: Path) -> None:
    folder = copied(begun, tmp_path)
    folder.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="must be a folder that can be written"):
            run(tmp_path, *SHORT)
    finally:
        folder.chmod(0o700)


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(b"before", tmp_path / "file")

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "fsync", denied)
    with pytest.raises(RecordsError, match=r"file cannot be written: Permission denied .* make it writable"):
        write_atomically(b"after", tmp_path / "file")
    assert contents(tmp_path) == {"file": b"before"}


# --- spoiled files


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        pytest.param(name, spoil, marks=[] if spoil == fast else pytest.mark.slow)
        for name, fast in (
            ("records/metrics/00000000-00000002.parquet", "cut in half"),
            ("checkpoint.pt", "garbage"),
            ("member.json", "none fast"),
            ("../run.json", "empty"),
        )
        for spoil in SPOILS
    ],
)
def test_the_next_launch_mends_a_spoiled_file_says_so_and_ends_at_the_same_bits(
    whole: Path, begun: Path, tmp_path: Path, name: str, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(begun, tmp_path)
    before = contents(folder)
    path = folder / "seed-0" / name
    spoiled = SPOILS[spoil](path.read_bytes())
    path.write_bytes(spoiled)
    assert run(tmp_path, *SHORT) == folder
    for seed in (0, 1):
        assert_same_records(whole, folder, seed)
    said = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert any(path.name in words for words in said)
    assert spoiled in [found.read_bytes() for found in folder.rglob("*.aside*")]
    own = str(path.resolve().relative_to(folder.resolve()))
    assert_nothing_was_lost({key: content for key, content in before.items() if key != own}, folder)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILS)
def test_a_spoiled_part_later_than_the_checkpoint_costs_that_part_alone(
    whole: Path, begun: Path, tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(begun, tmp_path)
    path = folder / "seed-1" / "records" / "metrics" / "00000004-00000006.parquet"
    path.write_bytes(SPOILS[spoil](b"PAR1" * 100))
    run(tmp_path, *SHORT)
    assert_same_records(whole, folder, seed=1)
    assert "1 parts later than the checkpoint are set aside" in caplog.text
    assert "trained from its start" not in caplog.text


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_spoiled_part_is_named_by_readers_with_what_to_do(begun: Path, tmp_path: Path, spoil: str) -> None:
    path = copied(begun, tmp_path) / "seed-0" / "records" / "metrics" / "00000000-00000002.parquet"
    path.write_bytes(SPOILS[spoil](path.read_bytes()))
    with pytest.raises(
        RecordsError, match=r"00000000-00000002.parquet (has|is not what).* committed.*launch its run again"
    ) as caught:
        read_runs([tmp_path]).table("metrics")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["member.json", "../run.json"])
@pytest.mark.parametrize("content", ["", '{"seed": 0', "[]", "{}", '{"status": "finished"}', "\x00\x00"])
def test_a_spoiled_sheet_is_named_by_readers(begun: Path, tmp_path: Path, name: str, content: str) -> None:
    path = copied(begun, tmp_path) / "seed-0" / name
    path.write_text(content)
    with pytest.raises(RecordsError, match=f"{path.name}:? (cannot be read|holds|lacks).*launch its run again"):
        read_runs([tmp_path])


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILS)
def test_a_finished_member_is_left_alone_and_its_spoiled_table_is_said(
    whole: Path, tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(whole, tmp_path)
    path = folder / "seed-1" / "records" / "metrics.parquet"
    path.write_bytes(SPOILS[spoil](path.read_bytes()))
    before = contents(folder)
    run(tmp_path, *SHORT)
    assert f"{path} is missing, or has changed since seed 1 finished" in caplog.text
    assert contents(folder) == before
    shutil.move(folder / "seed-1", tmp_path / "moved-out")
    run(tmp_path, *SHORT)
    assert_same_records(whole, folder, seed=1)


def test_a_finished_member_whose_sheet_is_spoiled_is_closed_again_without_training(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(whole, tmp_path)
    (folder / "seed-0" / "member.json").write_text("{")
    tables = {name: content for name, content in contents(folder).items() if name.endswith(".parquet")}
    run(tmp_path, *SHORT)
    assert "member.json cannot be read" in caplog.text
    assert {name: content for name, content in contents(folder).items() if name.endswith(".parquet")} == tables
    assert set(read_runs([folder]).members["status"]) == {"finished"}


def test_a_checkpoint_of_another_network_is_refused_and_left_alone(begun: Path, tmp_path: Path) -> None:
    folder = copied(begun, tmp_path)
    other = run(tmp_path / "other", *SHORT, "hidden_size=7")
    without_listing(other / "seed-0")  # which would tell that it is another run's
    shutil.copy(other / "seed-0" / "checkpoint.pt", folder / "seed-0" / "checkpoint.pt")
    before = contents(folder / "seed-0" / "records")
    with pytest.raises(RecordsError, match=r"checkpoint\.pt does not fit the network that is built now"):
        run(tmp_path, *SHORT)
    assert contents(folder / "seed-0" / "records") == before


@pytest.mark.slow
def test_what_a_killed_writer_left_half_written_is_removed_and_said(
    begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(begun, tmp_path)
    stray = folder / "seed-0" / "records" / "metrics" / ".00000004-00000006.parquet.77.tmp"
    stray.write_bytes(b"half a fi")
    caplog.set_level("INFO")
    run(tmp_path, *SHORT)
    assert not stray.exists()
    assert f"removed {stray.name}" in caplog.text


def test_files_set_aside_never_overwrite_each_other(tmp_path: Path) -> None:
    for content in (b"1", b"2", b"3"):
        (tmp_path / "file").write_bytes(content)
        put_aside(tmp_path / "file")
    assert sorted(contents(tmp_path).values()) == [b"1", b"2", b"3"]


# --- clocks


@pytest.mark.parametrize("jump_s", [-1e9, pytest.param(1e9, marks=pytest.mark.slow)])
def test_a_clock_that_jumps_changes_nothing_but_the_times_of_day(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    original, calls = time.time, []

    def jumping() -> float:
        calls.append(1)
        return original() + (jump_s if len(calls) % 2 else 0)

    monkeypatch.setattr(time, "time", jumping)
    folder = run(tmp_path, *SHORT)
    monkeypatch.undo()
    assert calls
    for seed in (0, 1):
        assert_same_records(whole, folder, seed)
    assert 0 < read_json(folder / "seed-0" / "member.json")["launches"][0]["wall_s"] < 600


def test_parts_are_read_by_their_steps_whatever_their_times_say(tmp_path: Path) -> None:
    written(tmp_path, 5, 10, 100)
    for age, path in enumerate(sorted((tmp_path / "records" / "metrics").iterdir())):
        os.utime(path, (1e9 - age, 1e9 - age))
    table = read_member_table(tmp_path, "metrics")
    assert table is not None
    assert table["value"].tolist() == [5.0, 10.0, 100.0]


# --- readers while it is written


def test_two_readers_see_a_growing_beginning_while_a_member_is_written_and_compacted(tmp_path: Path) -> None:
    is_over, seen, complaints = threading.Event(), [0, 0], []

    def read(who: int) -> None:
        longest = 0
        while not is_over.is_set():
            table = read_member_table(tmp_path, "metrics")
            values = [] if table is None else table["value"].tolist()
            if values != list(map(float, range(len(values)))) or len(values) < longest:
                complaints.append(values)
            longest = len(values)
            seen[who] += 1

    readers = [threading.Thread(target=read, args=(who,)) for who in (0, 1)]
    for thread in readers:
        thread.start()
    records = MemberRecords(tmp_path, LEAD)
    for step in range(40):
        records.append(METRICS, rows(float(step)), step, "train")
        commit(records, step + 1)
    end(records)
    is_over.set()
    for thread in readers:
        thread.join()
    assert complaints == []
    assert min(seen) > 3


def test_a_reader_that_comes_while_parts_are_set_aside_sees_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, 5, 10, 15)
    without_listing(tmp_path)  # with one, what is later than the checkpoint is not read anyway
    original, seen = Path.rename, []

    def rename(path: Path, target: Path) -> Path:
        table = read_member_table(tmp_path, "metrics")
        seen.append([] if table is None else table["value"].tolist())
        return original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    MemberRecords(tmp_path, LEAD, checkpoint_step=5)
    assert seen == [[5.0, 10.0, 15.0], [5.0, 10.0]]


def test_a_reader_whose_parts_are_merged_under_its_hands_reads_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, original = written(tmp_path, 5, 10), parquet.read_parquet

    def late(path: Path, entry: Entry | None) -> pa.Table:
        monkeypatch.undo()
        end(records)
        return original(path, entry)

    monkeypatch.setattr(parquet, "read_parquet", late)
    table = read_member_table(tmp_path, "metrics")
    assert table is not None
    assert table["value"].tolist() == [5.0, 10.0]


# --- other versions


def with_other_columns(path: Path, kind: str) -> None:
    """Rewrite a part as another version might have written it."""
    table = pq.read_table(path)
    if kind == "a column more":
        table = table.append_column("colour", pa.array(["red"] * table.num_rows))
    elif kind == "a column less":
        table = table.drop_columns(["split"])
    else:
        table = table.set_column(table.schema.get_field_index("value"), "value", pa.array([1] * table.num_rows))
    write_parquet(table, path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("a column more", "column `colour` is string, and this version of gradhorizon has none of that name"),
        ("a column less", "column `split` is missing, and this version of gradhorizon has string"),
        ("another type", "column `value` is int64, and this version of gradhorizon has double"),
    ],
)
def test_a_part_of_another_version_is_named_with_its_column_and_the_advice_to_upgrade(
    tmp_path: Path, kind: str, words: str
) -> None:
    written(tmp_path, 5, 10)
    path = tmp_path / "records" / "metrics" / "00000005-00000010.parquet"
    with_other_columns(path, kind)
    relist(tmp_path)
    for read in (
        lambda: read_member_table(tmp_path, "metrics"),
        lambda: resumed(tmp_path, checkpoint_step=10),
    ):
        with pytest.raises(RecordsError, match=f"{path.name} was written by another version.*{words}; upgrade"):
            read()


def test_a_run_with_parts_of_another_version_is_refused_before_it_goes_on(begun: Path, tmp_path: Path) -> None:
    folder = copied(begun, tmp_path)
    part = next((folder / "seed-0" / "records" / "input_gradients").iterdir())
    with_other_columns(part, "a column more")
    relist(folder / "seed-0")
    before = contents(folder / "seed-0" / "records")
    with pytest.raises(RecordsError, match=r"column `colour` is string, and this version .* upgrade"):
        run(tmp_path, *SHORT)
    assert contents(folder / "seed-0" / "records") == before


def test_members_with_different_columns_are_not_pooled(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    with_other_columns(folder / "seed-1" / "records" / "input_gradients.parquet", "a column more")
    relist(folder / "seed-1")
    with pytest.raises(RecordsError, match=r"seed-1.*column `colour` is string, and that of .*seed-0 has none"):
        read_runs([folder]).table("input_gradients")


def test_a_new_description_of_a_column_is_no_other_version(tmp_path: Path) -> None:
    written(tmp_path, 5, 10)
    path = tmp_path / "records" / "metrics" / "00000005-00000010.parquet"
    write_parquet(pq.read_table(path).replace_schema_metadata({"description": "in other words"}), path)
    relist(tmp_path)
    table = read_member_table(tmp_path, "metrics")
    assert table is not None
    assert table["value"].tolist() == [5.0, 10.0]


# --- kills, in a process of their own because it forks


@pytest.mark.slow
def test_twenty_kills_lose_no_row_and_show_readers_no_half_one() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--only", "kills", "--kills", "20"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def _committed_tables() -> Iterator[dict[str, dict[str, str]]]:
    """The tables of docs/torture.md: title of a row -> heading of a column -> what stands there."""
    text = (ROOT / "docs" / "torture.md").read_text(encoding="utf-8")
    for block in text.split("\n\n"):
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:2] == "| "
        ]
        if rows:
            yield {cells[0]: dict(zip(rows[0][1:], cells[1:], strict=True)) for cells in rows[1:]}


def test_the_committed_table_of_kills_shows_no_loss() -> None:
    table = next(iter(_committed_tables()))
    assert int(table["**all**"]["kills"]) >= 200
    assert {(row["rows differing"], row["views inconsistent"]) for row in table.values()} == {("0", "0")}
    assert all(int(row["kills"]) > 0 for row in table.values())


def test_the_committed_tables_of_torture_show_nothing_that_was_believed_broken_or_executed() -> None:
    bad = (
        "silent",
        "unnamed",
        "tracebacks",
        "executed",
        "changed",
        "too long",
        "shown",
        "bytes changed",
        "differing",
        "entries lost",
    )
    sums = [table["**all**"] for table in _committed_tables()]
    assert [(name, one[name]) for one in sums for name in bad if one.get(name, "0") != "0"] == []
