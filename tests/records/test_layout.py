"""Names on disk: one module spells them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradhorizon.records import layout

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("src", "analysis", "experiments") for path in (ROOT / folder).rglob("*.py"))
OWN = re.compile(
    r"(^|/)(run|member|failed)\.json$|(^|/)config\.yaml$|(^|/)(log|output)\.txt$|\.parquet$|\.pt$|^seed-|/seed-|\.aside"
    r"|\.owner|^\.lock$|^sweeps$"
)


def _strings(path: Path) -> Iterator[str]:
    """Strings of a module that are no docstrings and no prose."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield node.value


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "layout.py"], ids=lambda path: path.stem)
def test_no_other_module_spells_a_name_on_disk(path: Path) -> None:
    assert [text for text in _strings(path) if OWN.search(text)] == []


def test_the_search_finds_what_layout_spells() -> None:
    assert any(OWN.search(text) for text in _strings(Path(layout.__file__)))


@pytest.mark.parametrize("name", ["seed-0.old", "seed-0 copy", "seed-00", "seed-", "seed--1", "Seed-0", "seed-0.tar"])
def test_neighbours_of_a_members_folder_are_none(name: str) -> None:
    assert layout.seed_in(name) is None


def test_names_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    assert layout.seed_in(layout.member_name(2**31 - 1)) == 2**31 - 1
    assert layout.steps_in(layout.part_name(5, 2**31)) == (5, 2**31)
    assert layout.kept_step_in(layout.kept_path(tmp_path, "train", 12).name) == 12
    assert layout.owner_in(layout.owner_path(tmp_path, 3).name) == 3
    assert layout.identity_in(layout.run_name("a-b", "0123456789")) == "0123456789"
    assert layout.table_in(layout.table_path(tmp_path, "gates").name) == "gates"


def test_a_name_aside_is_free_and_never_that_of_a_broken_link(tmp_path: Path) -> None:
    path = tmp_path / "a"
    (tmp_path / "a.aside").symlink_to(tmp_path / "nowhere")
    assert layout.aside_path(path).name == "a.aside2"
