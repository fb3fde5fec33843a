"""Arguments of configured classes, held against the annotations of their constructors, which are their schema."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Collection, Mapping
from pkgutil import resolve_name
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_OWN = "gradhorizon."
_LARGEST = 2**31 - 1
_UNIONS = (Union, types.UnionType)
_SCALARS: Mapping[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}


def check_arguments(node: Any, at: str) -> None:
    """Refuse arguments of the project's own classes and functions that are not of their annotated types.

    Args:
        node: a configuration node, resolved to plain containers.
        at: its key, for the message.

    Raises:
        TypeError: an argument of another type, a number that is none, or a whole number beyond 2^31.
    """
    if not isinstance(node, dict):
        return
    hints = _hints(node.get("_target_"))
    for name, value in node.items():
        hint = hints.get(str(name), Any)
        if not _fits(value, hint):
            raise TypeError(f"`{at}.{name}` must be {_words(hint)}, got {str(value)[:80]!r}")
        check_arguments(value, f"{at}.{name}")


def _hints(target: object) -> dict[str, Any]:
    if not isinstance(target, str) or not target.startswith(_OWN):
        return {}
    try:
        found = resolve_name(target)
        return get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except Exception:  # noqa: BLE001, what cannot be imported is said where it is built
        return {}


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in _UNIONS:
        return any(_fits(value, option) for option in get_args(hint))
    if hint in (Any, None, types.NoneType):
        return hint is Any or value is None
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in _SCALARS:
        return _is_scalar(value, hint)
    if isinstance(value, dict):
        return _can_become(value.get("_target_"), hint)
    item = get_origin(hint) or hint
    if not inspect.isclass(item) or item is object:
        return True
    if isinstance(value, list) and issubclass(item, Collection):
        return all(_fits(one, option) for one in value for option in get_args(hint)[:1])
    return isinstance(value, item)


def _is_scalar(value: object, hint: type) -> bool:
    if not isinstance(value, _SCALARS[hint]) or (isinstance(value, bool) and hint is not bool):
        return False
    if hint is int and isinstance(value, int):
        return abs(value) <= _LARGEST
    return not (isinstance(value, float) and math.isnan(value))


def _can_become(target: object, hint: Any) -> bool:
    """Whether what a nested node builds can be what `hint` says, as far as a class tells."""
    try:
        found = resolve_name(target) if isinstance(target, str) else None
    except Exception:  # noqa: BLE001, as above
        return True
    return not (inspect.isclass(found) and inspect.isclass(hint) and not issubclass(found, hint))


def _words(hint: Any) -> str:
    if get_origin(hint) in _UNIONS:
        return " or ".join(_words(option) for option in get_args(hint))
    if hint is types.NoneType:
        return "null"
    names = {int: f"a whole number up to {_LARGEST}", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint) or (f"a {hint.__name__}" if inspect.isclass(hint) else str(hint).replace("typing.", ""))
