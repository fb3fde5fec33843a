"""Gradhorizon measures how far back in time a recurrent network can learn.

Two calls need no experiment: `input_gradient_profile` for any module, `state_gradient_profile` for a recurrent cell.
`read` returns what runs have recorded as pandas tables. All are imported on first use, so that reading needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradhorizon.analysis.reading.tables import read
    from gradhorizon.user_modules.profiles import input_gradient_profile, state_gradient_profile

__all__ = ["__version__", "input_gradient_profile", "read", "state_gradient_profile"]
__version__ = version("gradhorizon")
_PLACES = {
    "input_gradient_profile": "user_modules.profiles",
    "read": "analysis.reading.tables",
    "state_gradient_profile": "user_modules.profiles",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module `gradhorizon` has no attribute `{name}`; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
