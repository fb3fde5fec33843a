"""What a configured class takes and says of itself, read from its source in milliseconds, nothing being imported.

A finished run must be skipped, and a wrong key refused, without the seconds that torch takes to load.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

_MOST_HOPS = 8  # between the name that a package offers and the file that defines it
_NOT_A_PARENT = ("object", "ABC", "Generic", "Protocol")
_Definition = ast.ClassDef | ast.FunctionDef


class _UnreadableError(Exception):
    """The source alone does not say."""


@dataclass(frozen=True)
class Signature:
    """What can be passed by name.

    Attributes:
        annotations: parameter -> its annotation as it is written, empty without one.
        takes_anything: there are ``**kwargs``.
    """

    annotations: Mapping[str, str]
    takes_anything: bool = False


@cache
def read_signature(target: str) -> Signature | None:
    """What the class or function at the import path `target` takes, or None if its source alone does not say."""
    try:
        return _signature(*_definition(*_split(target)))
    except _UnreadableError:
        return None


@cache
def find_signature(target: str) -> Signature | None:
    """Like `read_signature`, but what the source does not say is imported; None if even that does not help."""
    read = read_signature(target)
    if read is not None:
        return read
    try:
        found = inspect.signature(resolve_name(target)).parameters.values()
    except Exception:  # noqa: BLE001, what cannot be imported is said where it is built
        return None
    names = {item.name: "" for item in found if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)}
    return Signature(names, any(item.kind == item.VAR_KEYWORD for item in found))


@cache
def class_value(target: str, name: str) -> Any:
    """What the class at `target`, or one that it inherits from, says that its variable `name` is.

    Args:
        target: import path.
        name: of a class variable.

    Raises:
        Exception: whatever an import raises, where the source alone does not say.
    """
    try:
        return _class_value(*_definition(*_split(target)), name)
    except (_UnreadableError, ValueError):
        return getattr(resolve_name(target), name)


def _class_value(definition: _Definition, module: str, name: str) -> Any:
    for item in definition.body:
        targets = [item.target] if isinstance(item, ast.AnnAssign) else getattr(item, "targets", [])
        if name in map(ast.unparse, targets) and isinstance(item, ast.Assign | ast.AnnAssign) and item.value:
            return ast.literal_eval(item.value)
    for parent in _parents(definition):
        with suppress(_UnreadableError):
            return _class_value(*_definition(module, parent), name)
    raise _UnreadableError(name)


def summary(target: str) -> str:
    """First line of the docstring of the class or function at `target`, else of its module, else empty."""
    try:
        definition, module = _definition(*_split(target))
        return _first_line(definition) or _first_line(_tree(module))
    except _UnreadableError:
        return ""


def _first_line(node: _Definition | ast.Module) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0].strip()


def _split(target: str) -> tuple[str, str]:
    module, _, name = target.rpartition(".")
    return module, name


@cache
def _spec(module: str) -> ModuleSpec | None:
    parent, _, _ = module.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(module)
        above = _spec(parent)
        places = above.submodule_search_locations if above is not None else None
        return PathFinder.find_spec(module, places) if places is not None else None
    except (ImportError, ValueError, AttributeError):
        return None


@cache
def _tree(module: str) -> ast.Module:
    spec = _spec(module) if module else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise _UnreadableError(module)
    try:
        return ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise _UnreadableError(module) from error


def _definition(module: str, name: str, hops: int = 0) -> tuple[_Definition, str]:
    """Where `name` is defined, followed through the imports of packages, with the module that it is in."""
    found: tuple[_Definition, str] | None = None
    for statement in _tree(module).body:
        if isinstance(statement, _Definition) and statement.name == name:
            found = statement, module
        elif isinstance(statement, ast.ImportFrom) and hops < _MOST_HOPS:
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    found = _definition(_imported_module(module, statement), alias.name, hops + 1)
        elif isinstance(statement, ast.Assign) and name in map(ast.unparse, statement.targets):
            found = None
    if found is None:
        raise _UnreadableError(f"{module}.{name}")
    return found


def _imported_module(module: str, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    spec = _spec(module)
    is_package = spec is not None and spec.submodule_search_locations is not None
    parts = module.split(".")
    base = parts[: len(parts) - statement.level + is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _signature(definition: _Definition, module: str) -> Signature:
    decorators = _decorators(definition)
    if isinstance(definition, ast.FunctionDef):
        return _of_function(definition)
    own = {item.name: item for item in definition.body if isinstance(item, ast.FunctionDef)}
    if decorators - {"dataclass"} or definition.keywords or "__new__" in own:
        raise _UnreadableError(definition.name)
    if decorators:
        return _of_fields(definition, module)
    if "__init__" in own:
        return _of_function(own["__init__"], skip=1)
    return next(_of_parents(definition, module), Signature({}))


def _decorators(definition: _Definition) -> set[str]:
    return {ast.unparse(item).partition("(")[0].rpartition(".")[2] for item in definition.decorator_list}


def _of_function(definition: ast.FunctionDef, skip: int = 0) -> Signature:
    if _decorators(definition) - {"no_grad"}:  # another may take other arguments than what it decorates
        raise _UnreadableError(definition.name)
    arguments = definition.args
    named = [*[*arguments.posonlyargs, *arguments.args][skip:], *arguments.kwonlyargs]
    return Signature(
        {item.arg: ast.unparse(item.annotation) if item.annotation else "" for item in named},
        takes_anything=arguments.kwarg is not None,
    )


def _of_fields(definition: ast.ClassDef, module: str) -> Signature:
    annotations: dict[str, str] = {}
    for parent in _of_parents(definition, module):
        annotations |= parent.annotations
    for item in definition.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            annotation = ast.unparse(item.annotation)
            if "ClassVar" not in annotation and "init=False" not in ast.unparse(item):
                annotations[item.target.id] = annotation
    return Signature(annotations)


def _of_parents(definition: ast.ClassDef, module: str) -> Iterator[Signature]:
    return (_signature(*_definition(module, name)) for name in _parents(definition))


def _parents(definition: _Definition) -> Iterator[str]:
    for base in definition.bases if isinstance(definition, ast.ClassDef) else ():
        name = ast.unparse(base).partition("[")[0]
        if name.rpartition(".")[2] in _NOT_A_PARENT:
            continue
        if not isinstance(base, ast.Name):
            raise _UnreadableError(name)
        yield name
