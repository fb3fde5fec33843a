"""A run that a stranger has made up: every program says what is wrong with it, in words, and executes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradhorizon.analysis import command as figures
from gradhorizon.late_measurement.command import composed as composed_for_measuring
from gradhorizon.late_measurement.run import FinishedRun
from gradhorizon.mirrors import push
from gradhorizon.records.columns import check_owner
from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.files import write_json
from gradhorizon.records.parquet import read_parquet
from gradhorizon.records.reading import read_member_table, read_runs
from gradhorizon.records.tables import METRICS
from gradhorizon.status import command
from tests.programs import draw_report
from tests.records_on_disk import list_as_found, rewrite_config
from tests.runs_on_disk import run
from tests.synthetic_runs import SyntheticRun, config_of

Change = Callable[[Path], None]
CONFIG = config_of("lstm.LSTM", "initialization.uniform")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SyntheticRun(outcomes=(400, None), config=CONFIG, results_version=2).write(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "runs" / made.name))


def key(file: str, name: str, value: Any) -> Change:
    """Replaces one value of a JSON file."""

    def change(run: Path) -> None:
        write_json({**json.loads((run / file).read_text()), name: value}, run / file)

    return change


def content(file: str, text: str | bytes) -> Change:
    """Replaces a file."""

    def change(run: Path) -> None:
        (run / file).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def pipe(file: str) -> Change:
    """Puts a pipe, which nobody writes to, in a file's place."""

    def change(run: Path) -> None:
        (run / file).unlink()
        os.mkfifo(run / file)

    return change


def link(file: str) -> Change:
    """Puts a link in a file's place, to the same content outside the run."""

    def change(run: Path) -> None:
        (run / file).rename(run.parent.parent / "outside")
        (run / file).symlink_to(run.parent.parent / "outside")

    return change


def folder_of(file: str) -> Change:
    """Puts a folder in a file's place."""

    def change(run: Path) -> None:
        (run / file).unlink()
        (run / file).mkdir()

    return change


SHEETS = {
    "chance null": key("run.json", "chance", None),
    "launches null": key("run.json", "launches", None),
    "launches of null": key("run.json", "launches", [None]),
    "outcomes null": key("run.json", "outcomes", None),
    "seq_len text": key("run.json", "seq_len", "5"),
    "run a list": key("run.json", "run", ["x"]),
    "run deep": content("run.json", "[" * 100_000),
    "run no UTF-8": content("run.json", b"\xff"),
    "run twice": content("run.json", '{"run": 1, "run": 2}'),
    "run pipe": pipe("run.json"),
    "run link": link("run.json"),
    "run folder": folder_of("run.json"),
    "launch null": key("seed-0/member.json", "launch", None),
    "step null": key("seed-0/member.json", "step", None),
    "outcome null": key("seed-0/member.json", "outcome", None),
    "outcome_step text": key("seed-0/member.json", "outcome_step", "x"),
    "other seed": key("seed-0/member.json", "seed", 1),
    "member huge number": content("seed-0/member.json", f'{{"step": {"9" * 5000}}}'),
    "member pipe": pipe("seed-0/member.json"),
    "member link": link("seed-0/member.json"),
    "member folder": folder_of("seed-0/member.json"),
}


@pytest.mark.parametrize("change", SHEETS.values(), ids=SHEETS)
@pytest.mark.parametrize("arguments", [[], ["--json"], ["--failed"]], ids=["text", "json", "failed"])
def test_status_says_that_it_is_unreadable_and_why(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Change, arguments: list[str]
) -> None:
    key("run.json", "status", "running")(folder)  # of a finished run, only its own sheet is looked at
    change(folder)
    start = time.monotonic()
    assert command.main([str(folder), *arguments]) == 1
    assert time.monotonic() - start < 20
    shown = capsys.readouterr().out
    assert ".json" in shown
    assert "Traceback" not in shown
    if arguments == ["--json"]:
        (run,) = json.loads(shown)["runs"]
        assert (run["status"], "\n" in run["problem"]) == ("unreadable", False)
        assert run["problem"].startswith(("run.json", "seed-0/member.json"))


@pytest.mark.parametrize("change", SHEETS.values(), ids=SHEETS)
def test_readers_name_the_file(folder: Path, change: Change) -> None:
    change(folder)
    with pytest.raises(RecordsError, match=r"(run|member)\.json") as caught:
        read_runs([folder])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["chance null", "launch null", "run pipe", "member link"])
@pytest.mark.parametrize("program", [figures.main, draw_report], ids=["figures", "report"])
def test_figures_and_report_say_it_in_one_line(
    folder: Path, tmp_path: Path, program: Callable[[list[str]], None], change: str
) -> None:
    SHEETS[change](folder)
    with pytest.raises(SystemExit) as caught:
        program([str(folder), "--out", str(tmp_path / "out")])
    assert str(caught.value).startswith("Error: ")
    assert ".json" in str(caught.value)


@pytest.mark.parametrize(
    "change", [name for name in SHEETS if "run" in name or name in ("chance null", "launches null")]
)
def test_measuring_and_pushing_say_it_in_one_line(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    SHEETS[change](folder)
    with pytest.raises(RecordsError, match=r"run\.json"):
        FinishedRun(folder, composed_for_measuring(["measurement=gates"]))
    (folder / "seed-0" / ".lock").touch()
    assert push.main([str(folder), "--offline", "--out", str(tmp_path / "out")]) == 1
    assert "run.json" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "text", ["a: &a [1]\nb: *a\n", "!!python/object/apply:os.getcwd []", "- 1\n", "a: [", "model: 1\n"]
)
@pytest.mark.parametrize("program", [figures.main, draw_report], ids=["figures", "report"])
def test_a_configuration_that_no_run_writes_is_one_line_of_figures_and_report(
    folder: Path, tmp_path: Path, program: Callable[[list[str]], None], text: str
) -> None:
    rewrite_config(folder, text)
    with pytest.raises(SystemExit, match=r"^Error: .*config\.yaml"):
        program([str(folder), "--out", str(tmp_path / "out")])


def test_nothing_is_looked_up_for_a_strangers_configuration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADHORIZON_SECRET", "51ecret")
    text = (folder / "config.yaml").read_text()
    rewrite_config(folder, f"{text}learning_rate: ${{oc.env:GRADHORIZON_SECRET}}\nhidden_size: ${{learning_rate}}\n")
    draw_report([str(folder), "--out", str(tmp_path / "out")])
    pages = [path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert pages
    assert not any("51ecret" in page for page in pages)


@pytest.mark.parametrize(
    ("column", "value"), [("experiment", "another"), ("run", "another"), ("run", "\x1b[31m\n<script>")]
)
@pytest.mark.parametrize("program", [figures.main, draw_report], ids=["figures", "report"])
def test_rows_of_another_run_than_the_sheet_tells_of_are_one_line_of_figures_and_report(
    folder: Path, tmp_path: Path, program: Callable[[list[str]], None], column: str, value: str
) -> None:
    key("run.json", column, value)(folder)
    with pytest.raises(SystemExit, match=rf"^Error: .* has rows of the {column} .* where run\.json says ") as caught:
        program([str(folder), "--out", str(tmp_path / "out")])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("seeds", [[1, 0], [0, 1], [1]])
def test_a_single_row_of_another_member_is_named(tmp_path: Path, seeds: list[int]) -> None:
    count = len(seeds)
    table = pa.table({"experiment": ["e"] * count, "run": ["r"] * count, "seed": seeds})
    with pytest.raises(DamagedFileError, match=r"has rows of the seed 1, where run\.json says 0"):
        check_owner(table, tmp_path, {"experiment": "e", "run": "r", "seed": 0})
    check_owner(table.slice(0, 0), tmp_path, {"experiment": "e", "run": "r", "seed": 0})


@pytest.mark.parametrize(
    ("name", "value"), [("job_type", 3), ("tags", 3), ("tags", "ab"), ("tags", [1]), ("project", ["x"])]
)
def test_wrong_words_for_wandb_are_one_line(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: Any
) -> None:
    rewrite_config(folder, f"{(folder / 'config.yaml').read_text()}logger: {{{name}: {json.dumps(value)}}}\n")
    (folder / "seed-0" / ".lock").touch()
    assert push.main([str(folder), "--offline", "--out", str(tmp_path / "out")]) == 1
    assert f"`logger.{name}` of config.yaml must be " in caplog.text
    assert f"pass --{name.replace('_', '-')}" in caplog.text
    assert "Traceback" not in caplog.text


def test_without_memory_for_a_figure_less_is_advised(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: Any) -> None:
        raise pa.lib.ArrowMemoryError("realloc of size 1785724928 failed")

    monkeypatch.setattr(figures, "write", too_much)
    with pytest.raises(SystemExit, match=r"^Error: there is not memory enough .*; name fewer"):
        figures.main([str(folder), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("module", ["late_measurement.command", "mirrors.push"])
def test_a_folder_whose_name_no_terminal_can_spell_is_one_message(made: Path, tmp_path: Path, module: str) -> None:
    shutil.copytree(made, tmp_path / "runs" / os.fsdecode(b"run\xff-0123456789"))
    command_line = [sys.executable, "-m", f"gradhorizon.{module}", str(tmp_path / "runs")]
    command_line += ["measurement=gates"] if "measure" in module else ["--offline", "--out", str(tmp_path / "out")]
    done = subprocess.run(command_line, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"Error: " in done.stderr
    assert b"run.json is that of the run" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("change", [folder_of("config.yaml"), pipe("config.yaml")], ids=["folder", "pipe"])
def test_a_launch_over_a_configuration_that_is_no_file_says_so(tmp_path: Path, change: Change) -> None:
    begun = run(tmp_path, "num_seeds=1", "seq_len=8")
    change(begun)
    with pytest.raises(RecordsError, match=r"config\.yaml is "):
        run(tmp_path, "num_seeds=2", "seq_len=8")


@pytest.mark.parametrize("name", ["records", "checkpoints"])
def test_a_launch_over_a_file_in_a_folders_place_says_so_before_it_trains(tmp_path: Path, name: str) -> None:
    begun = run(tmp_path, "num_seeds=1", "seq_len=8")
    (begun / "seed-1").mkdir()
    (begun / "seed-1" / name).write_text("a file")
    with pytest.raises(RecordsError, match=rf"seed-1/{name} is a file, where a folder was expected; move it away"):
        run(tmp_path, "num_seeds=2", "seq_len=8")


def test_a_launch_over_a_folder_in_a_kept_checkpoints_place_says_so_before_it_trains(tmp_path: Path) -> None:
    begun = run(tmp_path, "num_seeds=1", "seq_len=8")
    (begun / "seed-1" / "checkpoints" / "last.pt").mkdir(parents=True)
    with pytest.raises(RecordsError, match=r"last\.pt is a folder, where a file was expected; move it away"):
        run(tmp_path, "num_seeds=2", "seq_len=8")


# --- tables


def metrics(**changes: pa.Array) -> pa.Table:
    """One row of metrics, with some columns replaced or added."""
    columns = {
        name: pa.array([1.0 if kind == pa.float64() else 1 if kind == pa.int64() else "x"], kind)
        for name, kind in zip(METRICS.schema.names, METRICS.schema.types, strict=True)
    }
    return pa.table({**columns, **changes})


class _Extension(pa.ExtensionType):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(pa.int64(), "strange.type")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> _Extension:
        raise AssertionError("a stranger's type was built")


STRANGE = {
    "list": pa.array([[1]]),
    "nested": pa.array([{"a": {"b": 1}}]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "pickled objects": pa.array([b"cos\nsystem\n(S'true'\ntR."]),
    "int8": pa.array([1], pa.int8()),
    "float32": pa.array([1.0], pa.float32()),
    "dates": pa.array([0], pa.timestamp("ns")),
    "null": pa.array([None]),
    "decimal": pa.array([1], pa.decimal128(5)),
    "dictionary of numbers": pa.array([1], pa.int8()).dictionary_encode(),
}


@pytest.mark.parametrize("name", ["value", "another"])
@pytest.mark.parametrize("kind", STRANGE)
def test_a_column_of_a_type_that_no_table_has_is_named(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / "seed-0" / "records" / "metrics.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(metrics(**{name: STRANGE[kind]}), path)
    list_as_found(tmp_path / "seed-0")
    with pytest.raises(
        RecordsError, match=f"metrics.parquet is no table of gradhorizon: its column `{name}` is "
    ) as caught:
        read_member_table(tmp_path / "seed-0", "metrics")
    assert "\n" not in str(caught.value)


def test_a_type_that_a_package_would_have_to_build_is_not_built(tmp_path: Path) -> None:
    kind = _Extension()
    pq.write_table(
        metrics(value=pa.ExtensionArray.from_storage(kind, pa.array([1], pa.int64()))), tmp_path / "a.parquet"
    )
    pa.register_extension_type(kind)
    try:
        with pytest.raises((RecordsError, AssertionError)) as caught:
            read_parquet(tmp_path / "a.parquet")
    finally:
        pa.unregister_extension_type("strange.type")
    del caught  # what is registered in a process is that process's own affair
    assert read_parquet(tmp_path / "a.parquet").schema.field("value").type == pa.int64()


@pytest.mark.parametrize("texts", [pa.array(["train"]).dictionary_encode(), pa.array(["train"], pa.large_string())])
def test_texts_are_texts_however_they_are_kept(tmp_path: Path, texts: pa.Array) -> None:
    pq.write_table(metrics(split=texts), tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet").schema.field("split").type == pa.string()


@pytest.mark.parametrize("name", ["step", "seed", "phase"])
def test_a_table_of_anybodys_without_the_columns_that_lead_every_one_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "seed-0" / "records" / "their_own.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(metrics().drop_columns([name]), path)
    list_as_found(tmp_path / "seed-0")
    with pytest.raises(RecordsError, match=f"column `{name}` is missing"):
        read_member_table(tmp_path / "seed-0", "their_own")


def test_texts_that_are_no_utf8_are_damage(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(metrics(split=bad), tmp_path / "a.parquet")
    with pytest.raises(RecordsError, match=r"a\.parquet is not a complete Parquet file"):
        read_parquet(tmp_path / "a.parquet")


def test_what_pandas_has_noted_in_a_file_is_no_order(tmp_path: Path) -> None:
    path = tmp_path / "seed-0" / "records" / "metrics.parquet"
    path.parent.mkdir(parents=True)
    noted = json.dumps({"index_columns": ["seed"], "columns": [], "column_indexes": []})
    pq.write_table(metrics().replace_schema_metadata({"pandas": noted}), path)
    list_as_found(tmp_path / "seed-0")
    found = read_member_table(tmp_path / "seed-0", "metrics")
    assert found is not None
    assert set(found.columns) == set(METRICS.schema.names)


def test_a_small_file_of_very_many_rows_is_refused_unread(tmp_path: Path) -> None:
    zeros = pa.array(np.zeros(10_000_000, np.int64))
    pages = {"row_group_size": 2**26, "data_page_size": 2**30, "write_batch_size": 2**26}
    pq.write_table(pa.table({"a": zeros, "b": zeros, "c": zeros}), tmp_path / "a.parquet", compression="zstd", **pages)
    with pytest.raises(RecordsError, match="claims 10000000 rows"):
        read_parquet(tmp_path / "a.parquet")
