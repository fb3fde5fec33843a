"""Charts that are drawn by hand: of each such section, ``panels(table)`` in a module of its figure's name.

A declared quantity needs none: see `gradhorizon.analysis.quantities.charts`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def found() -> dict[str, ModuleType]:
    """Name of the figure -> module of its charts."""
    return {one.name: import_module(f"{__name__}.{one.name}") for one in iter_modules(__path__)}
