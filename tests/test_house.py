"""The plan of the house holds: few rooms, few floors, and no import that runs back up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.house import MOST_ENTRIES, MOST_FLOORS, circle, entries, floors, imports, longest_way, rooms

ROOT = Path(__file__).parents[1]
MOST_ROOMS_ON_THE_WAY = 8


def test_no_rooms_import_one_another_in_a_circle() -> None:
    assert circle(rooms()) == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert circle(imports()) == []


def test_the_package_has_few_rooms_and_few_floors() -> None:
    assert len(entries()) <= MOST_ENTRIES
    assert max(floors(rooms()).values()) <= MOST_FLOORS


def test_a_call_from_configuration_to_records_walks_few_rooms() -> None:
    way = longest_way(rooms(), "application", "records")
    assert 1 < len(way) <= MOST_ROOMS_ON_THE_WAY


def test_the_architectures_page_draws_the_floors_as_they_are() -> None:
    rows = re.findall(r"^\| (\d) \| (.+?) \|", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.MULTILINE)
    drawn = {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert drawn == {name: floor for name, floor in floors(rooms()).items() if name != "gradhorizon"}


def test_whatever_the_architectures_page_points_at_is_there() -> None:
    paths = re.findall(r"`([a-z_]+/(?:\w+/)*\w+\.py)`", (ROOT / "docs" / "architecture.md").read_text("utf-8"))
    places = (ROOT, ROOT / "src" / "gradhorizon")
    assert paths
    assert [path for path in paths if not any((place / path).is_file() for place in places)] == []


@pytest.mark.parametrize(
    ("sources", "graph"),
    [
        ({"a": "import p.b", "b": ""}, {"a": {"b"}, "b": set()}),
        ({"a": "from p import b", "b": "def f():\n    from p.a import x"}, {"a": {"b"}, "b": {"a"}}),
        ({"a/c": "from p.b import x", "b": "import os"}, {"a": {"b"}, "b": set()}),
        ({"a": "from p.b.d import x", "b/d": "from p.b import e", "b/e": ""}, {"a": {"b"}, "b": set()}),
    ],
)
def test_imports_are_those_of_the_text(tmp_path: Path, sources: dict[str, str], graph: dict[str, set[str]]) -> None:
    for name, text in sources.items():
        path = tmp_path / "p" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert rooms(tmp_path / "p") == graph


def test_a_circle_is_named_and_floors_count_what_lies_beneath() -> None:
    assert set(circle({"a": {"b"}, "b": {"a"}, "c": set()})) == {"a", "b"}
    assert floors({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"c": 1, "b": 2, "a": 3}
    assert longest_way({"a": {"b", "c"}, "b": {"c"}, "c": set()}, "a", "c") == ["a", "b", "c"]
