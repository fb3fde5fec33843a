"""The one search for runs: what it finds, what it passes by with a word, and what it cannot look into."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradhorizon.analysis import command_line
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.late_measurement import command as measure
from gradhorizon.mirrors import push
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.finding import find
from gradhorizon.records.reading import read_runs
from gradhorizon.runs.folders import find_run
from gradhorizon.status import command
from gradhorizon.status.sweep import SweepReader
from gradhorizon.sweeps.launch import launch
from gradhorizon.terminal.once import say_once
from tests import runs_on_disk
from tests.status_runs import StatusRun
from tests.status_runs import finished as finished_run
from tests.synthetic_runs import SyntheticRun

NEIGHBOURS = ("seed-0.old", "seed-0 copy", "seed-00", "seed-x", "Seed-1", "copy of seed-0", "seed-0.aside")


@pytest.fixture(autouse=True)
def _said_anew() -> None:
    say_once.cache_clear()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs_on_disk.run(tmp_path_factory.mktemp("trained"), "num_seeds=2", "num_steps=5")


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> Path:
    """A run of which every test may make what it likes."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "mine" / trained.name))


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    return SyntheticRun().write(tmp_path / "runs")


def add_neighbours(run: Path) -> None:
    for name in NEIGHBOURS:
        shutil.copytree(run / "seed-0", run / name)
    for name in ("seed-0.tar.gz", "seed-3"):
        (run / name).write_text("an archive")
    (run / "seed-4").symlink_to(run / "seed-0")


def programs(run: Path, out: Path) -> list[Callable[[], Any]]:
    return [
        lambda: command.main([str(run), "--once"]),
        lambda: command_line.run(None, (), lambda *_: (), [str(run), "--out", str(out)]),  # as figures and report do
        lambda: measure.main([str(run), "measurement=recurrent_weights"]),
        lambda: push.main([str(run), "--offline", "--out", str(out)]),
    ]


@pytest.mark.parametrize("program", range(4), ids=["status", "figures", "measure", "push"])
def test_neighbours_of_a_members_folder_are_passed_by_with_one_word_by_every_program(
    own: Path, tmp_path: Path, program: int, caplog: pytest.LogCaptureFixture
) -> None:
    add_neighbours(own)
    programs(own, tmp_path / "out")[program]()
    said = [record.message for record in caplog.records if "not read, beside its members" in record.message]
    assert len(said) == 1
    assert said[0].count("seed-") >= 4
    assert "and 6 more" in said[0]
    assert find([own]).runs == [own]


def test_training_goes_on_beside_neighbours_and_leaves_them_alone(own: Path) -> None:
    add_neighbours(own)
    before = {path: path.lstat().st_mtime_ns for name in NEIGHBOURS for path in (own / name).rglob("*")}
    (own / "seed-4").unlink()
    launch(runs_on_disk.composed("num_seeds=3", "num_steps=5", f"runs_dir={own.parents[1]}", "experiment_name=mine"))
    assert json.loads((own / "run.json").read_text())["outcomes"].keys() == {"0", "1", "2"}
    assert before == {path: path.lstat().st_mtime_ns for path in before}


def test_neighbours_are_no_members(synthetic: Path) -> None:
    add_neighbours(synthetic)
    assert list(read_runs([synthetic]).members["seed"]) == [0, 1, 2]


def test_a_member_that_was_moved_beside_the_runs_hides_none_of_them(tmp_path: Path) -> None:
    first, second = finished_run(tmp_path), finished_run(tmp_path, identity="1123456789")
    shutil.move(first / "seed-1", tmp_path / "seed-1")
    found = find([tmp_path])
    assert found.runs == sorted([first, second])
    assert found.notes == [f"{tmp_path}: not read, beside the runs: seed-1"]


@pytest.mark.parametrize("named", [("", "a"), ("a", ""), ("a/../a", "a"), ("link", "a")])
def test_a_run_is_found_once_however_it_is_named(tmp_path: Path, named: tuple[str, str]) -> None:
    run = finished_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "runs" / "a")
    found = find([tmp_path / "runs" / name for name in named])
    assert [path.resolve() for path in found.runs] == [run]
    assert len(SweepReader([tmp_path / "runs" / name for name in named]).read().runs) == 1


@pytest.mark.parametrize("name", [".hidden", "lost+found", "lstm-copy-T5-0123456789.aside", "lstm-0123456789.aside2"])
def test_what_is_hidden_or_set_aside_is_no_run(tmp_path: Path, name: str) -> None:
    run = finished_run(tmp_path)
    shutil.copytree(run, tmp_path / name)
    assert find([tmp_path]).runs == [run]


def test_links_below_what_is_named_are_said_and_not_followed(tmp_path: Path) -> None:
    run, elsewhere = finished_run(tmp_path / "runs" / "a"), finished_run(tmp_path / "big" / "b")
    (tmp_path / "runs" / "b").symlink_to(elsewhere.parent)
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "loop").symlink_to("loop")
    found = find([tmp_path / "runs"])
    assert found.runs == [run]
    assert found.notes == [f"{tmp_path / 'runs'}: not read, beside the runs: b (a link: name what it leads to)"]
    assert find([tmp_path / "runs" / "b"]).runs == [tmp_path / "runs" / "b" / elsewhere.name]


def test_a_search_ends_and_says_where(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    (why,) = find([tmp_path]).unreadable.values()
    assert "more than 24 folders below" in why


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Folders that cannot be looked into, for whomever the tests run as."""
    listed = os.scandir

    def close(folder: Path, number: int) -> None:
        def refuse(path: Any = ".") -> Any:
            if not isinstance(path, int) and os.path.realpath(path) == str(folder):
                raise OSError(number, os.strerror(number), str(path))
            return listed(path)

        monkeypatch.setattr(os, "scandir", refuse)

    return close


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG])
@pytest.mark.parametrize("what", ["run", "experiment"])
def test_a_folder_that_cannot_be_read_is_an_unreadable_run_in_status(
    tmp_path: Path, closed: Callable[[Path, int], None], number: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path / "a")
    run = finished_run(tmp_path / "b")
    closed(run if what == "run" else run.parent, number)
    assert command.main([str(tmp_path), "--json"]) == 1
    looks = {one["folder"]: one for one in json.loads(capsys.readouterr().out)["runs"]}
    look = looks[str(run if what == "run" else run.parent)]
    assert (look["status"], look["problem"]) == ("unreadable", f"cannot be read: {os.strerror(number)}")


def test_figures_and_report_list_a_folder_that_cannot_be_read(
    synthetic: Path, closed: Callable[[Path, int], None], caplog: pytest.LogCaptureFixture
) -> None:
    other = SyntheticRun(model="gru").write(synthetic.parents[1])
    closed(other, errno.EACCES)
    with pytest.raises(RecordsError, match=rf"{other.name}: unreadable: cannot be read: Permission denied"):
        read_cohort([synthetic.parents[1]])
    assert set(read_cohort([synthetic.parents[1]], is_partial=True).members["model"]) == {"lstm"}
    assert f"left out: {other}: cannot be read: Permission denied" in caplog.text


@pytest.mark.parametrize("program", [2, 3], ids=["measure", "push"])
def test_measure_and_push_say_what_they_cannot_read_and_do_the_rest(
    own: Path, tmp_path: Path, closed: Callable[[Path, int], None], program: int, caplog: pytest.LogCaptureFixture
) -> None:
    other = finished_run(own.parents[1] / "other")
    closed(other, errno.EACCES)
    caplog.set_level(logging.INFO)
    assert programs(own.parents[1], tmp_path / "out")[program]() == 1
    assert f"Error: {other}: cannot be read: Permission denied" in caplog.text
    assert any(words in caplog.text for words in ("members: 2 measured", "runs: 1 pushed"))


@pytest.fixture
def nobody() -> Iterator[None]:
    """The rights of a user who owns nothing, where the tests run as root."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_a_folder_without_permissions_is_told_from_one_that_is_not_there(tmp_path: Path, request: Any) -> None:
    run = finished_run(tmp_path / "a")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/") and "pytest" in str(folder):
            folder.chmod(0o755)
    run.chmod(0)
    try:
        request.getfixturevalue("nobody")
        found = find([tmp_path, tmp_path / "nowhere"])
        assert found.unreadable == {run: "cannot be read: Permission denied"}
        assert found.absent == [tmp_path / "nowhere"]
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        run.chmod(0o755)


@pytest.mark.parametrize("place", ["nowhere", "a_file"])
def test_what_is_named_and_is_no_folder_is_refused_by_every_program(
    own: Path, tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a_file").write_text("")
    for program in programs(tmp_path / place, tmp_path / "out"):
        with pytest.raises(SystemExit) as refused:
            raise SystemExit(program())
        assert refused.value.code == 1 or "no run found" in str(refused.value.code)
    with pytest.raises(RecordsError, match="there is no such folder"):
        read_runs([own, tmp_path / place])
    assert caplog.text.count(place) == 3


@pytest.mark.parametrize("removed", ["seed-1", "seed-1/member.json"])
def test_a_finished_run_whose_member_is_gone_is_not_finished(
    own: Path, removed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = SweepReader([own])
    assert reader.read().runs[0].status == "finished"
    path = own / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (look,) = reader.read().runs
    assert (look.status, [member.is_missing for member in look.members]) == ("missing", [False, True])
    assert "seed-1: gone, or without member.json" in look.why
    assert command.main([str(own), "--once"]) == 75
    assert "seed-1: gone" in capsys.readouterr().out
    with pytest.raises(RecordsError, match=r"seed-1: missing: seed-1: gone"):
        read_cohort([own])


def test_a_member_that_was_moved_out_is_trained_anew_by_the_same_command(own: Path, tmp_path: Path) -> None:
    shutil.move(own / "seed-1", tmp_path / "seed-1")
    launch(runs_on_disk.composed("num_seeds=2", "num_steps=5", f"runs_dir={own.parents[1]}", "experiment_name=mine"))
    assert SweepReader([own]).read().runs[0].status == "finished"


def test_a_member_that_is_gone_is_named_after_launches_of_other_members_too(own: Path) -> None:
    shutil.rmtree(own / "seed-1")
    cfg = ("num_seeds=1", "seed=2", "num_steps=5", f"runs_dir={own.parents[1]}", "experiment_name=mine")
    launch(runs_on_disk.composed(*cfg))
    (look,) = SweepReader([own]).read().runs
    assert "seed-1: gone" in look.why


@pytest.mark.parametrize("program", range(4), ids=["status", "figures", "measure", "push"])
def test_a_run_whose_sheet_is_gone_is_named_by_every_program(
    own: Path, tmp_path: Path, program: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "run.json").unlink()
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(programs(own.parents[1], tmp_path / "out")[program]())
    assert ended.value.code not in (0, None)
    said = f"{ended.value.code}{caplog.text}{capsys.readouterr().out}"
    assert own.name[:20] in said or "rnn_tanh" in said
    assert "run.json" in said


def test_of_two_folders_with_one_run_a_launch_takes_the_one_that_knows_its_name_and_says_so(
    own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(own, own.with_name(f"a-copy-of-{own.name}"))
    identity = own.name.rpartition("-")[2]
    assert find_run(own.parent, identity) == own
    assert f"{own.name} is the run that is launched, and a-copy-of-{own.name} is one with it" in caplog.text
    assert "2 folders are one run" in find([own.parents[1]]).notes[0]


@pytest.mark.parametrize("name", ["{}.aside", ".{}", "{}.old"])
def test_a_launch_takes_no_folder_that_was_set_aside(own: Path, name: str) -> None:
    identity = own.name.rpartition("-")[2]
    own.rename(own.with_name(name.format(own.name)))
    assert find_run(own.parent, identity) is None


def test_a_copy_beside_a_run_is_refused_as_the_same_run_with_what_to_do(synthetic: Path) -> None:
    shutil.copytree(synthetic, synthetic.with_name("run.old"))
    with pytest.raises(RecordsError, match=r"the same run and seed in .*; pass one of them, or move the others out"):
        read_runs([synthetic.parent])


def test_looking_through_thousands_of_runs_is_quick_enough_to_be_watched(tmp_path: Path) -> None:
    for number in range(200):
        StatusRun("finished", ends=(("solved", 7),), identity=f"{number:010x}").write(tmp_path)
    look = SweepReader([tmp_path]).read()
    assert look.num_runs["finished"] == 200


def test_the_word_is_said_once(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_neighbours(own)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            find([own]).say_notes()
    assert len(caplog.records) == 1
