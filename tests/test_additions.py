"""The examples that CONTRIBUTING.md tells to copy are whole, and the script that adds them misses nothing silently."""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.additions.__main__ import find, make, make_mistakes
from tests.additions.copies import Copy, Done, MissedError, Session, session
from tests.additions.kinds import ADDITIONS, FILES, ROOT, Addition, Mistake

KINDS = {"cell", "task", "measurement", "figure", "optimizer", "study"}
MISTAKES = [mistake for addition in ADDITIONS for mistake in addition.mistakes]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=source, check=True)
    for name, text in {"kept.py": "kept", "a/new.py": "new", ".gitignore": "runs/\n", "runs/x": "ignored"}.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    subprocess.run(["git", "add", "kept.py"], cwd=source, check=True)
    return Copy.of(source, tmp_path / "copy")


@dataclass(frozen=True)
class Pretended(Copy):
    """A copy in which every test that is asked for has one outcome."""

    outcome: str = "PASSED"

    def test(self, *arguments: str) -> Session:
        return Session(dict.fromkeys(arguments, self.outcome), {}, "")


def test_there_is_one_addition_of_every_kind() -> None:
    assert sorted(addition.kind for addition in ADDITIONS) == sorted(KINDS)


def test_every_file_is_added_once_and_edits_none() -> None:
    named = [name for addition in ADDITIONS for name in addition.files]
    lying = [path.relative_to(FILES).as_posix() for path in FILES.rglob("*") if path.suffix in {".py", ".yaml", ".md"}]
    assert sorted(named) == sorted(lying)
    assert [name for name in named if (ROOT / name).exists()] == []


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.kind)
def test_an_addition_is_two_files_and_a_test_at_most_and_no_test_names_it(addition: Addition) -> None:
    assert len(addition.files) <= 3
    finders = [name for name in addition.found_by if name not in addition.files]
    assert finders
    assert [name for name in finders if addition.name in (ROOT / name).read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.noticed_by.rpartition("::")[2])
def test_a_mistake_changes_one_place_of_an_addition(mistake: Mistake) -> None:
    text = (FILES / mistake.file).read_text(encoding="utf-8")
    assert text.count(mistake.right) == 1
    changed = text.replace(mistake.right, mistake.wrong)
    assert changed != text
    if mistake.file.endswith(".py"):
        ast.parse(changed)


def test_a_copy_has_what_git_would_offer_and_is_unchanged(copy: Copy) -> None:
    assert (copy.root / "a" / "new.py").read_text() == "new"
    assert not (copy.root / "runs").exists()
    assert (copy.changed(), copy.added()) == ([], [])


def test_a_twin_leaves_runs_and_history_behind_but_no_room_of_that_name(copy: Copy, tmp_path: Path) -> None:
    for folder in ("runs", "src/runs"):
        (copy.root / folder).mkdir(parents=True)
        (copy.root / folder / "x.py").touch()
    root = copy.twin(tmp_path / "twin").root
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {"kept.py", "a/new.py", ".gitignore", "src/runs/x.py"}


def test_a_file_that_was_edited_or_added_is_told(copy: Copy) -> None:
    (copy.root / "kept.py").write_text("edited")
    (copy.root / "more.py").write_text("")
    (copy.root / "a" / "new.py").unlink()
    assert (copy.changed(), copy.added()) == (["a/new.py", "kept.py"], ["more.py"])


def test_an_addition_over_a_file_is_refused(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text("mine")
    with pytest.raises(MissedError, match=r"edits no file, but the tree has kept\.py"):
        copy.lay(tmp_path, ["kept.py"])
    assert (copy.root / "kept.py").read_text() == "kept"


def test_a_mistake_is_made_and_taken_back(copy: Copy) -> None:
    take_back = make(copy, Mistake("kept.py", "pt", "eep", "tests/test_a.py::test_b"))
    assert (copy.root / "kept.py").read_text() == "keeep"
    take_back()
    assert (copy.root / "kept.py").read_text() == "kept"
    with pytest.raises(MissedError, match="has not one 'absent'"):
        make(copy, Mistake("kept.py", "absent", "", "tests/test_a.py::test_b"))


@pytest.mark.parametrize("outcome", ["PASSED", "ERROR"])
def test_a_mistake_that_nothing_notices_is_missed(tmp_path: Path, outcome: str) -> None:
    copy = Pretended(tmp_path, outcome)
    copy.lay(FILES, [name for addition in ADDITIONS for name in addition.files])
    with pytest.raises(MissedError, match="notices no mistake"):
        make_mistakes(copy)
    assert all((tmp_path / mistake.file).read_bytes() == (FILES / mistake.file).read_bytes() for mistake in MISTAKES)


def test_mistakes_that_are_noticed_are_counted_with_the_stale_dictionary(tmp_path: Path) -> None:
    copy = Pretended(tmp_path, "FAILED")
    copy.lay(FILES, [name for addition in ADDITIONS for name in addition.files])
    assert make_mistakes(copy) == len(MISTAKES) + 1


def test_tests_that_have_no_addition_in_their_ids_find_none(tmp_path: Path) -> None:
    with pytest.raises(MissedError, match="finds no cell janet"):
        find(Pretended(tmp_path))


def test_outcomes_are_those_that_pytest_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('name', ['good', 'bad'])\n"
        "def test_it(name):\n    assert name == 'good', 'a - b'\n\ndef test_error(absent):\n    pass\n"
    )
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    found = Copy(tmp_path).test("test_it.py")
    assert found.outcomes == {
        "test_it.py::test_it[good]": "PASSED",
        "test_it.py::test_it[bad]": "FAILED",
        "test_it.py::test_error": "ERROR",
    }
    assert found.seconds.keys() == found.outcomes.keys()


def test_a_program_that_fails_is_shown(tmp_path: Path) -> None:
    done = Copy(tmp_path).run("no_such_module")
    assert isinstance(done, Done)
    assert done.code == 1
    with pytest.raises(MissedError, match="No module named no_such_module"):
        Copy(tmp_path).succeed("no_such_module")


def test_durations_of_one_test_are_added() -> None:
    output = "PASSED test_a.py::test_b\n0.25s setup    test_a.py::test_b\n0.50s call     test_a.py::test_b\n"
    assert session(output).seconds == {"test_a.py::test_b": 0.75}
