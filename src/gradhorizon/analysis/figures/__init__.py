"""One figure a module: `summarise` a table over seeds, `plot` a panel, `draw` a figure, `write` the files.

A figure is found by its place: a module here with ``TABLES``, what it reads, ``SECTIONS``, its places in the report,
and ``write(cohort, out)``. Most declare a `gradhorizon.analysis.quantities.declared.Quantity`, the rest follows.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def found() -> dict[str, ModuleType]:
    """Name -> module of every figure, in order of name."""
    return {one.name: import_module(f"{__name__}.{one.name}") for one in iter_modules(__path__)}
