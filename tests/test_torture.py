"""The torture in small, and that each of its checks can fail: a broken reader, owner or program is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.hostile_kinds import collection
from tests.hostile_runs import sentinel_of
from tests.torture import CHAPTERS
from tests.torture_changes import Hole, holes
from tests.torture_flips import Flip, Flips, Row, done_to, verdict
from tests.torture_holes import worst
from tests.torture_hostile import Hostile, called
from tests.torture_outcomes import Outcome, Thunk, digest, outcome
from tests.torture_specimens import KINDS, Specimens, make

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> Specimens:
    return make(tmp_path_factory.mktemp("specimens"))


@pytest.mark.slow
@pytest.mark.parametrize("chapter", [name for name in CHAPTERS if name != "kills"])
def test_a_fifth_of_a_percent_of_the_torture_is_borne(chapter: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--only", chapter],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _reader(behaviour: str) -> dict[str, object]:
    """A reader of a file's content that is wrong in one way."""

    def read(run: Path, _: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
        path = next(iter(sorted(run.rglob("init.pt"))))

        def thunk() -> bytes:
            content = path.read_bytes()
            if behaviour == "dies" and content != whole[path]:
                os._exit(9)
            if behaviour == "breaks" and content != whole[path]:
                raise KeyError("what nobody expected")
            return content if behaviour == "believes" else b"the same whatever is there"

        yield "content", thunk

    whole: dict[Path, bytes] = {}
    return {"read": read, "whole": whole}


@pytest.mark.parametrize(
    ("behaviour", "counted"),
    [("believes", "silent"), ("breaks", "tracebacks"), ("dies", "tracebacks"), ("looks away", "same")],
)
def test_a_reader_that_is_wrong_is_counted(specimens: Specimens, behaviour: str, counted: str) -> None:
    reader = _reader(behaviour)
    for path in specimens.files("init.pt"):
        reader["whole"][path] = path.read_bytes()  # type: ignore[index]
    first = min(specimens.files("init.pt"))
    flips = Flips(specimens, readers={"init.pt": {"tables": reader["read"]}})  # type: ignore[dict-item]
    before = first.read_bytes()
    flips.run(8)
    row = flips.rows["init.pt"]
    assert row.flips == 8
    assert getattr(row, counted) > 0
    assert row.has_failed == (counted != "same")
    assert first.read_bytes() == before


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Outcome("refused", words="b.json cannot be read"), "named"),
        (Outcome("refused", words="something cannot be read"), "unnamed"),
        (Outcome("value", "2", "b.json is left out"), "named"),
        (Outcome("value", "2"), "silent"),
        (Outcome("value", "1"), "same"),
        (Outcome("traceback", words="KeyError in b.json"), "tracebacks"),
    ],
)
def test_what_a_reader_makes_of_a_flip_and_of_a_hole_is_told_apart(now: Outcome, said: str) -> None:
    flip = Flip(Path("a/b.json"), "bit", b"")
    hole = Hole("removed", "finished", "b.json removed", lambda _: "b.json")
    assert verdict(flip, {"it: all": Outcome("value", "1")}, {"it: all": now})[0] == said
    assert worst(hole, "b.json", {"it: all": Outcome("value", "1")}, {"it: all": now})[0] == said


def test_a_thing_that_is_no_longer_read_is_silent() -> None:
    hole = Hole("removed", "finished", "b.json removed", lambda _: "b.json")
    assert worst(hole, "b.json", {"it: all": Outcome("value", "1")}, {})[0] == "silent"


def test_one_bit_of_a_number_changes_its_digest() -> None:
    assert digest([0.1, float("nan")]) == digest([0.1, float("nan")])
    assert digest([0.1]) != digest([0.1 + 2**-56])
    assert digest({"a": 0.0}) != digest({"a": -0.0})


def test_warnings_are_heard() -> None:
    def warn() -> int:
        import logging  # noqa: PLC0415

        logging.getLogger("anything").warning("b.json is odd")
        return 1

    assert "b.json is odd" in outcome(warn).words


def test_a_flip_is_the_same_for_the_same_seed_and_leaves_no_trace(specimens: Specimens) -> None:
    flips = Flips(specimens, seed=5, readers={})
    flip = flips.flip("whole table", 3)
    assert flip == Flips(specimens, seed=5, readers={}).flip("whole table", 3)
    before = (flip.path.read_bytes(), flip.path.stat().st_mtime_ns)
    with done_to(flip):
        assert flip.path.read_bytes() == flip.content != before[0]
    assert (flip.path.read_bytes(), flip.path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_there_to_be_flipped(specimens: Specimens, kind: str) -> None:
    assert specimens.files(kind)


def test_holes_are_made_in_every_table_and_checkpoint(specimens: Specimens) -> None:
    titles = [hole.title for hole in holes(specimens)]
    for kind in ("whole table", "part of a table", "init.pt", "checkpoint.pt"):
        for path in specimens.files(kind):
            assert any(f"{path.parent.name}/{path.name} removed" in title for title in titles)


def _writes_outside(root: Path, _: Path, __: str) -> None:
    (root.parent / "outside" / "new.txt").touch()


def _executes(root: Path, _: Path, __: str) -> None:
    sentinel_of(root.parent / "outside").touch()


def _breaks(*_: object) -> None:
    raise KeyError("unforeseen")


def _shows(*_: object) -> None:
    sys.stdout.write("\x1b[31mred")


def _waits(*_: object) -> None:
    time.sleep(1000)


@pytest.mark.parametrize(
    ("program", "counted"),
    [
        (_writes_outside, "changed"),
        (_executes, "executed"),
        (_breaks, "tracebacks"),
        (_shows, "shown"),
        (_waits, "too_long"),
    ],
)
def test_a_program_that_a_stranger_gets_the_better_of_is_counted(
    specimens: Specimens, monkeypatch: pytest.MonkeyPatch, program: object, counted: str
) -> None:
    monkeypatch.setattr("tests.torture_hostile._LONGEST_S", 1.0 if program is _waits else 60.0)
    monkeypatch.setattr("tests.torture_hostile.collection", lambda: {"names": collection()["names"][1:2]})
    hostile = Hostile(specimens, programs={"status": program})  # type: ignore[dict-item]
    hostile.run()
    assert getattr(hostile.visits["names"], counted) == 1
    assert hostile.visits["names"].has_failed


def test_a_program_that_ends_in_words_is_not_counted(specimens: Specimens, tmp_path: Path) -> None:
    del specimens
    assert called(lambda: sys.exit("Error: no"), tmp_path) == ("ended", "Error: no\n")


def test_rows_that_hold_have_not_failed() -> None:
    row = Row()
    row.add("named", "")
    row.add("same", "")
    assert not row.has_failed
    row.add("silent", "why")
    assert row.has_failed
    assert row.examples == ["silent: why"]
