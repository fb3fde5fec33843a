"""The lowest version that pyproject.toml allows of all that it names, as constraints for pip: `make test-lowest`.

Standard library alone: it runs before anything is installed. What a dependency itself needs, pip chooses.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_NAME_AND_FLOOR = re.compile(r"([\w.-]+)>=([\w.]+)")


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]


def floors(requirements: list[str]) -> list[str]:
    """`name==version` of every requirement that states a floor: `hydra-core==1.3.2` of `hydra-core>=1.3.2,<1.4`."""
    stated = map(_NAME_AND_FLOOR.match, requirements)
    return [f"{found[1]}=={found[2]}" for found in stated if found]


if __name__ == "__main__":
    needed = project()
    extras = needed["optional-dependencies"]
    named = [*needed["dependencies"], *extras["dev"], *extras["zoo"]]
    sys.stdout.write("\n".join(floors(named)) + "\n")
