"""The plan of the house: rooms of the package, the floors they lie on, imports that run back up, and circles.

``python -m benchmarks.house`` prints it. A room is a folder or a module directly in the package; its floor is one above
the highest room that it imports, so that a room in a circle has none.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "gradhorizon"
MOST_ENTRIES, MOST_FLOORS = 26, 7


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module of a package: dotted name -> file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports, at its top or within."""
    known = modules(package)
    return {name: _imported(path, known) - {name} for name, path in known.items()}


def _imported(path: Path, known: Mapping[str, Path]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in full}
    return found & known.keys()


def room(module: str) -> str:
    """The room that a module lies in; the package's own ``__init__`` is one, ``__main__`` the application's door."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    return "application" if name == "__main__" else name


def rooms(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Room -> rooms that it imports."""
    found: dict[str, set[str]] = {}
    for module, others in imports(package).items():
        found.setdefault(room(module), set()).update(room(other) for other in others)
    return {name: others - {name} for name, others in sorted(found.items())}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Names that import one another in a circle, the first again at the end; nothing if none do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Room -> floor, from 1.

    Raises:
        CycleError: there is a circle.
    """
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[other] for other in graph.get(name, ())), default=0)
    return found


def longest_way(graph: Mapping[str, set[str]], start: str, end: str) -> list[str]:
    """Rooms on the longest way down from one room to another; nothing if there is none."""
    if start == end:
        return [end]
    ways = [way for other in graph[start] if (way := longest_way(graph, other, end))]
    return [start, *max(ways, key=len)] if ways else []


def entries(package: Path = PACKAGE) -> list[str]:
    """Files and folders directly in a package."""
    return sorted(path.name for path in package.iterdir() if path.name != "__pycache__")


def main() -> None:
    """Print the plan."""
    graph = rooms()
    found = circle(graph)
    print(f"{len(entries())} entries (at most {MOST_ENTRIES}): {' '.join(entries())}")
    if found:
        sys.exit(f"a circle: {' -> '.join(found)}")
    by_floor: dict[int, list[str]] = {}
    for name, floor in floors(graph).items():
        by_floor.setdefault(floor, []).append(name)
    for floor, names in sorted(by_floor.items(), reverse=True):
        print(f"floor {floor}: {' '.join(sorted(names))}")
    print(f"{len(by_floor)} floors (at most {MOST_FLOORS}); no import runs back up, no circle")
    way = longest_way(graph, "application", "records")
    print(f"from configuration to records, {len(way)} rooms at most: {' -> '.join(way)}")


if __name__ == "__main__":
    main()
