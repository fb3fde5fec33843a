"""A stranger's files are plain data or one message: nothing is executed, waited for, or followed out of the run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gradhorizon.records.checkpoints import load_checkpoint
from gradhorizon.records.configurations import read_configuration
from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.layout import kept_path, member_folder, part_path
from gradhorizon.records.parquet import read_parquet
from gradhorizon.records.plain import MOST_DEPTH, problem_of, read_bytes, read_json

ENOUGH_S = 20.0
"""For what takes a millisecond, on a machine that is busy; what it stands against takes minutes."""


def refused(read: Callable[[], object], words: str) -> str:
    """The one line with which something is refused, soon."""
    start = time.monotonic()
    with pytest.raises(RecordsError, match=words) as caught:
        read()
    assert time.monotonic() - start < ENOUGH_S
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
    return str(caught.value)


JSON = (
    ("[" * 100_000, "deeper than 64"),
    ('{"a":' * 100_000, "deeper than 64"),
    ('{"a": ' + "[" * 200 + "]" * 200 + "}", "deeper"),
    ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
    ('{"a": ' + "9" * 400 + "}", "a whole number of"),
    ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
    ('{"b": {"a": 1, "a": 2}}', "stands there twice"),
    (b'{"a": "\xff"}', "utf-8"),
    (b"\xff\xfe{\x00}\x00", "utf-8"),
    (b"\xef\xbb\xbf{}", "BOM"),
    ('{"a": "\\ud800"}', "no character"),
    ('{"\\ud800": 1}', "no character"),
    ('{"a": "\\u0000"}', "no character"),
    ("\0", "cannot be read"),
    ("", "cannot be read"),
    ("{", "cannot be read"),
    ("[]", "expected a JSON object"),
    ("null", "expected a JSON object"),
    ("1", "expected a JSON"),
    ("{} {}", "Extra data"),
)


@pytest.mark.parametrize(("content", "words"), JSON, ids=range(len(JSON)))
def test_json_that_no_run_writes_is_one_message(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert str(path) in refused(lambda: read_json(path), words)


def test_json_as_runs_write_it_is_read_with_the_time_of_its_last_change(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null, true, "\u00e9", Infinity], "b": {}}', encoding="utf-8")
    os.utime(path, (5, 7))
    assert read_json(path) == ({"a": [1, 2.5, None, True, "é", float("inf")], "b": {}}, 7.0)


def test_depth_is_counted_to_the_last_one_that_is_let_pass() -> None:
    node: object = 1
    for _ in range(MOST_DEPTH):
        node = [node]
    assert problem_of(node) == ""
    assert "deeper" in problem_of([node])


def test_text_of_any_kind_is_let_pass_where_tracebacks_stand(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "\\ud800\\u0000"}')
    assert read_json(tmp_path / "a.json", is_any_text=True)[0] == {"a": "\ud800\0"}


def test_a_file_beyond_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 101)
    assert read_bytes(path, 101)[0] == b"x" * 101
    refused(lambda: read_bytes(path, 100), "has 101 bytes, expected at most 100")


def test_a_file_of_a_size_that_no_disk_has_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(2**33)
    refused(lambda: read_json(path), "expected at most")


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets must be short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_folder, "is a folder, expected a file"),
        (os.mkfifo, "is a pipe, expected a file"),
        (_socket, "is a socket, expected a file"),
        (lambda path: path.symlink_to("/dev/zero"), "leads out of"),
        (lambda path: path.symlink_to("nowhere"), "is a link that leads nowhere"),
        (lambda path: path.symlink_to(path.name), "leads nowhere|cannot be read"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_no_file_is_said_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "run.json"
    make(path)
    refused(lambda: read_json(path), words)


def test_what_is_not_there_is_told_from_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    path.chmod(0)
    refused(lambda: read_json(path), "Permission denied")


# --- links


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"a": 1}')
    (tmp_path / "run" / "seed-0").mkdir(parents=True)
    path = tmp_path / "run" / "seed-0" / "member.json"
    path.symlink_to(tmp_path / "secret.json")
    refused(lambda: read_json(path, tmp_path / "run"), "a link that leads out of .*run, to .*secret.json")


def test_a_folder_that_is_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "member.json").write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "seed-0").symlink_to(tmp_path / "elsewhere")
    refused(lambda: read_json(tmp_path / "run" / "seed-0" / "member.json", tmp_path / "run"), "leads out of")


def test_a_neighbour_whose_name_begins_like_the_runs_is_out_of_it(tmp_path: Path) -> None:
    for name in ("run", "run2"):
        (tmp_path / name).mkdir()
    (tmp_path / "run2" / "run.json").write_text("{}")
    (tmp_path / "run" / "run.json").symlink_to("../run2/run.json")
    refused(lambda: read_json(tmp_path / "run" / "run.json"), "leads out of")


def test_links_within_a_run_and_to_the_runs_themselves_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "run" / "seed-0").mkdir(parents=True)
    (tmp_path / "disk" / "run" / "kept.json").write_text('{"a": 1}')
    (tmp_path / "disk" / "run" / "seed-0" / "member.json").symlink_to("../kept.json")
    (tmp_path / "runs").symlink_to("disk")
    run = tmp_path / "runs" / "run"
    assert read_json(run / "seed-0" / "member.json", run)[0] == {"a": 1}


@pytest.mark.parametrize("phase", ["init", "train"])
def test_a_checkpoint_that_is_a_link_out_of_the_run_is_not_opened(tmp_path: Path, phase: str) -> None:
    path = kept_path(member_folder(tmp_path / "run", 0), phase, 5)
    path.parent.mkdir(parents=True)
    (tmp_path / "secret").write_text("")
    path.symlink_to(tmp_path / "secret")
    refused(lambda: load_checkpoint(path, "mend it"), "leads out of .*mend it")


def test_a_checkpoint_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = kept_path(member_folder(tmp_path / "run", 0), "init", 0)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    refused(lambda: load_checkpoint(path, "mend it"), "is a pipe")


def test_a_part_that_is_a_link_out_of_the_run_is_not_read(tmp_path: Path) -> None:
    path = part_path(member_folder(tmp_path / "run", 0), "metrics", 0, 5)
    path.parent.mkdir(parents=True)
    (tmp_path / "secret").write_text("")
    path.symlink_to(tmp_path / "secret")
    refused(lambda: read_parquet(path), "leads out of")


# --- YAML


def test_numbers_dates_and_texts_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "a: 1e-3\nb: 2020-01-01\nc: '1'\nd: [1, .inf, null, true]\ne: .5\nf: 1.0e-05\n"
    )
    assert read_configuration(tmp_path) == {
        "a": 0.001,
        "b": "2020-01-01",
        "c": "1",
        "d": [1, float("inf"), None, True],
        "e": 0.5,
        "f": 1e-5,
    }


def test_what_looks_like_an_interpolation_is_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: ${oc.env:HOME}\n")
    assert read_configuration(tmp_path) == {"a": "${oc.env:HOME}"}


@pytest.mark.parametrize(
    "content",
    [
        "a: *a",
        "&a a: 1",
        "a: 1\na: 2",
        "a: {b: 1, b: 2}",
        "a: !!str 1",
        "a: !!binary aGk=",
        "[1]",
        "? - - - !x\n: 1",
        "<<: 1",
        "? {a: 1}\n: 2",
        "a: 1\nb: \tc: 2",
    ],
)
def test_yaml_that_no_run_writes_is_one_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    refused(lambda: read_configuration(tmp_path), "config.yaml cannot be read as a run's configuration")


@pytest.mark.parametrize("group", ["model", "task", "measurement", "optimizer", "trainer", "logger"])
def test_a_group_that_is_no_mapping_is_named(tmp_path: Path, group: str) -> None:
    (tmp_path / "config.yaml").write_text(f"{group}: [1]\n")
    refused(lambda: read_configuration(tmp_path), f"`{group}` must be names and values, got list")


def test_damage_is_told_from_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecordsError) as caught:
        read_configuration(tmp_path)
    assert not isinstance(caught.value, DamagedFileError)
