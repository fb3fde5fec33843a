"""Well-formed files with wrong values are one message each: which file, which key, what it is, what was expected."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gradhorizon.records import schemas
from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.seals import digest_of_json
from gradhorizon.records.sheets import read_member_sheet, read_run_sheet
from tests.status_runs import SHEET, StatusRun, write

ROOT = Path(__file__).parents[2]
FROZEN = sorted((ROOT / "experiments").rglob("run.json"))


def run_sheet(**changes: Any) -> dict[str, Any]:
    """A whole ``run.json`` with some values replaced."""
    outcome = {"status": "finished", "outcome": "solved", "outcome_step": 5}
    return {
        **SHEET,
        "experiment": "e",
        "run": "r",
        "identity": "0123456789",
        "model": "lstm",
        "task": "copying",
        "seq_len": 5,
        "num_steps": 10,
        "status": "finished",
        "chance": {"loss": 0.5},
        "solved_levels": {"loss": 0.1},
        "outcomes": {"0": outcome},
        "launches": [{"seeds": [0], "versions": {"torch": "2"}, "wall_s": 1.5}],
        **changes,
    }


def member_sheet(**changes: Any) -> dict[str, Any]:
    """A whole ``member.json`` with some values replaced."""
    return {
        "seed": 0,
        "status": "finished",
        "outcome": "solved",
        "outcome_step": 5,
        "step": 5,
        "launch": {"device": "cpu"},
        "measured_later": {"gates": {"num_rows": 3, "settings": {}}},
        **changes,
    }


def without(content: dict[str, Any], key: str) -> dict[str, Any]:
    """`content` but for a key."""
    return {name: value for name, value in content.items() if name != key}


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.parent.name[:40])
def test_what_was_recorded_once_stays_readable(path: Path) -> None:
    assert read_run_sheet(path.parent) == json.loads(path.read_text())
    members = sorted(path.parent.glob("seed-*"))
    assert members
    for member in members:
        assert read_member_sheet(member) == json.loads((member / "member.json").read_text())


WRONG_RUN: tuple[tuple[str, Any, str], ...] = (
    ("chance", None, "`chance` must be an object of numbers, got null"),
    ("chance", {"loss": None}, "`chance.loss` must be a number, got null"),
    ("chance", {"loss": float("nan")}, "`chance.loss` must be a finite number, got nan"),
    ("chance", {"loss": "0"}, '`chance.loss` must be a number, got "0"'),
    ("solved_levels", 3, "`solved_levels` must be an object of numbers, got 3"),
    ("launches", None, "`launches` must be a list of launches, got null"),
    ("launches", {}, "`launches` must be a list of launches, got {}"),
    ("launches", [None], "`launches.0` must be an object, got null"),
    ("launches", [{"seeds": None}], "`launches.0.seeds` must be a list, got null"),
    ("launches", [{"seeds": [-1]}], "`launches.0.seeds.0` must be greater than or equal to 0, got -1"),
    ("launches", [{"versions": 3}], "`launches.0.versions` must be an object, got 3"),
    ("outcomes", [], "`outcomes` must be an object, got []"),
    ("outcomes", {"x": {}}, "`outcomes.x` must match pattern"),
    (
        "outcomes",
        {"0": {"status": "finished", "outcome": None, "outcome_step": None}},
        "`outcomes.0` must say in `outcome`",
    ),
    (
        "outcomes",
        {"0": {"status": "finished", "outcome": "won", "outcome_step": 1}},
        "`outcomes.0.outcome` must be 'solved'",
    ),
    ("seq_len", True, "`seq_len` must be a whole number, got true"),
    ("seq_len", 5.0, "`seq_len` must be a whole number, got 5.0"),
    ("num_steps", -1, "`num_steps` must be greater than or equal to 1, got -1"),
    ("num_steps", 2**40, "`num_steps` must be less than or equal to 2147483647"),
    ("hidden_size", None, "`hidden_size` must be a whole number, got null"),
    ("model", 3, "`model` must be text, got 3"),
    ("model", "", "`model` must have at least 1 character"),
    ("color", 3, "`color` must be text, got 3"),
    ("status", "done", "`status` must be 'running', 'finished' or 'failed', got \"done\""),
    ("identity", "../../x", "`identity` must match pattern"),
    ("clip_norm", "1", '`clip_norm` must be a number, got "1"'),
    ("results_version", "2", '`results_version` must be a whole number, got "2"'),
)


@pytest.mark.parametrize(("key", "value", "words"), WRONG_RUN)
def test_a_wrong_value_in_a_runs_sheet_is_named(tmp_path: Path, key: str, value: Any, words: str) -> None:
    write(tmp_path / "run.json", run_sheet(**{key: value}))
    with pytest.raises(DamagedFileError, match=re.escape(f"{tmp_path}/run.json: {words}")) as caught:
        read_run_sheet(tmp_path)
    assert "\n" not in str(caught.value)


WRONG_MEMBER: tuple[tuple[str, Any, str], ...] = (
    ("launch", None, "`launch` must be an object, got null"),
    ("launch", {"device": 3}, "`launch.device` must be text, got 3"),
    ("launches", None, "`launches` must be a list of launches, got null"),
    ("seed", -1, "`seed` must be greater than or equal to 0, got -1"),
    ("seed", None, "`seed` must be a whole number, got null"),
    ("step", 1.5, "`step` must be a whole number, got 1.5"),
    ("outcome", None, "must say in `outcome` and `outcome_step` how a finished member ended"),
    ("outcome_step", None, "must say in `outcome` and `outcome_step` how a finished member ended"),
    ("outcome", "won", "`outcome` must be 'solved', 'budget exhausted' or 'diverged'"),
    ("measured_later", [], "`measured_later` must be an object, got []"),
    (
        "measured_later",
        {"gates": {"num_rows": None}},
        "`measured_later.gates.num_rows` must be a whole number, got null",
    ),
    ("measured_later", {"gates": {"num_rows": 1, "settings": 3}}, "`measured_later.gates.settings` must be an object"),
    ("files", {"a": {"bytes": 1}}, "lacks `files.a.sha256`"),
    ("files", {"a": {"rows": -1, "sha256": "0" * 64, "bytes": 1}}, "`files.a.rows` must be greater than or equal to 0"),
)


@pytest.mark.parametrize(("key", "value", "words"), WRONG_MEMBER)
def test_a_wrong_value_in_a_members_sheet_is_named(tmp_path: Path, key: str, value: Any, words: str) -> None:
    write(tmp_path / "seed-0" / "member.json", member_sheet(**{key: value}))
    with pytest.raises(DamagedFileError, match=re.escape(words)) as caught:
        read_member_sheet(tmp_path / "seed-0")
    assert "seed-0/member.json: " in str(caught.value)


@pytest.mark.parametrize("key", sorted(set(run_sheet()) - {"solved_levels", "outcomes", "launches"}))
def test_what_every_version_has_written_must_be_there(tmp_path: Path, key: str) -> None:
    write(tmp_path / "run.json", without(run_sheet(), key))
    with pytest.raises(DamagedFileError, match=f"lacks `{key}`"):
        read_run_sheet(tmp_path)


@pytest.mark.parametrize("key", ["solved_levels", "outcomes", "launches"])
def test_what_older_versions_have_not_written_may_be_absent(tmp_path: Path, key: str) -> None:
    write(tmp_path / "run.json", without(run_sheet(), key))
    assert key not in read_run_sheet(tmp_path)


@pytest.mark.parametrize(("is_sealed", "is_read"), [(False, True), (True, False)])
def test_an_unknown_key_is_another_versions_unless_the_file_was_sealed_without_it(
    tmp_path: Path, is_sealed: bool, is_read: bool
) -> None:
    content = run_sheet(unheard_of=1)
    content |= {"digest": digest_of_json(content)} if is_sealed else {}
    write(tmp_path / "run.json", content)
    if is_read:
        assert read_run_sheet(tmp_path) == content
    else:
        with pytest.raises(DamagedFileError, match="has the unknown key `unheard_of`, and was sealed without it"):
            read_run_sheet(tmp_path)


@pytest.mark.parametrize("content", [run_sheet(), run_sheet(files={"a": {"sha256": "0" * 64, "bytes": 0}})])
def test_a_sealed_sheet_with_known_keys_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    content["digest"] = digest_of_json(content)
    write(tmp_path / "run.json", content)
    assert read_run_sheet(tmp_path) == content


def test_one_members_sheet_in_anothers_place_is_named(tmp_path: Path) -> None:
    write(tmp_path / "seed-1" / "member.json", member_sheet(seed=0))
    with pytest.raises(DamagedFileError, match="is that of seed 0, and lies in the folder of seed 1"):
        read_member_sheet(tmp_path / "seed-1")


def test_a_member_without_a_sheet_has_said_nothing_yet(tmp_path: Path) -> None:
    assert read_member_sheet(tmp_path / "seed-0") == {}


def test_a_run_without_a_sheet_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"run\.json cannot be read \(No such file"):
        read_run_sheet(tmp_path)


def test_sheets_as_the_tests_write_them_are_sheets(tmp_path: Path) -> None:
    folder = StatusRun(ends=(("solved", 3), 5, None)).write(tmp_path)
    assert read_run_sheet(folder)["model"] == "lstm"
    assert [read_member_sheet(folder / f"seed-{seed}").get("step") for seed in range(3)] == [3, 5, None]


def test_a_long_wrong_value_is_shown_in_part() -> None:
    words = schemas.problem_of(run_sheet(status="x" * 10_000), schemas.RunSheet)
    assert len(words) < 300
