"""Gradhorizon measures how far back in time a recurrent network can learn.

Two calls need no experiment: `input_gradient_profile` for any module, `state_gradient_profile` for a recurrent cell.
Both are imported on first use, so that reading records needs no torch.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradhorizon.user_modules.profiles import input_gradient_profile, state_gradient_profile

__all__ = ["__version__", "input_gradient_profile", "state_gradient_profile"]
__version__ = version("gradhorizon")


def __getattr__(name: str) -> Any:
    if name in ("input_gradient_profile", "state_gradient_profile"):
        from gradhorizon.user_modules import profiles  # noqa: PLC0415

        return getattr(profiles, name)
    raise AttributeError(f"module `gradhorizon` has no attribute `{name}`; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
