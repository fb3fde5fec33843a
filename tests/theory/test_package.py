"""What the package of closed forms exports, and what it does without."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import FunctionType

from gradhorizon import theory


def test_every_public_closed_form_is_exported() -> None:
    modules = [
        importlib.import_module(f"{theory.__name__}.{found.name}") for found in pkgutil.iter_modules(theory.__path__)
    ]
    public = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public == set(theory.__all__)
    assert all(callable(getattr(theory, name)) for name in theory.__all__)


def test_theory_imports_neither_torch_nor_the_rest_of_the_project() -> None:
    code = (
        "import sys, gradhorizon.theory\n"
        "own = {name for name in sys.modules if name.startswith('gradhorizon.')}\n"
        "sys.exit('torch' in sys.modules or not all(name.startswith('gradhorizon.theory') for name in own))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
