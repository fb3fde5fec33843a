"""What a module keeps: every attribute, buffer and class variable that a call may leave changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

Kept: TypeAlias = dict[str, Any]
"""Path of a value, such as ``count`` or ``layers[0].clock['t']`` -> a copy of it."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, np.generic)
_NO_STATE = (type, FunctionType, ModuleType, property, classmethod, staticmethod)
_OF_MODULES = ("_parameters", "_buffers", "_modules")
_DEEPEST = 8


def kept(module: nn.Module) -> Kept:
    """All plain values and tensors that `module` holds, in containers and other objects too, copied.

    Class variables of its own classes count; those of PyTorch do not. Functions are not looked into.

    Args:
        module: left as it is.
    """
    found: Kept = {}
    seen: dict[int, Any] = {}  # which it keeps alive, or identities would be given anew
    for path, own in module.named_modules():
        seen[id(own)] = own
        lead = f"{path}." if path else ""
        for name, value in _values(own):
            _gather(f"{lead}{name}", value, found, seen, 0)
    return found


def changed(before: Kept, after: Kept, tolerance: float = 0.0) -> list[str]:
    """Paths whose values differ, in order.

    Args:
        before: what `kept` returned.
        after: the same, later.
        tolerance: largest difference of floating tensors, relative to their norm, that is none.
    """
    return sorted(
        path
        for path in before.keys() | after.keys()
        if path not in before or path not in after or not _is_same(before[path], after[path], tolerance)
    )


def is_same_tensor(first: Tensor, second: Tensor, tolerance: float = 0.0) -> bool:
    """Whether two tensors agree: bit by bit, or floating ones to `tolerance`, relative to the norm of the first."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if torch.equal(first, second):
        return True
    if not (first.is_floating_point() or first.is_complex()):
        return False
    is_finite = first.isfinite()
    infinite = first[~is_finite], second[~is_finite]
    if not torch.equal(*(part.nan_to_num() for part in infinite)) or not torch.equal(
        *(part.isnan() for part in infinite)
    ):
        return False
    first, second = first[is_finite], second[is_finite]
    return bool(torch.linalg.vector_norm(first - second) <= tolerance * torch.linalg.vector_norm(first))


def are_same_tensors(first: Sequence[Tensor], second: Sequence[Tensor], tolerance: float = 0.0) -> bool:
    """Whether there are as many, and each agrees with its own; see `is_same_tensor`."""
    return len(first) == len(second) and all(
        is_same_tensor(*pair, tolerance) for pair in zip(first, second, strict=True)
    )


def _values(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for group in ("_parameters", "_buffers"):
        yield from getattr(module, group).items()
    yield from ((name, value) for name, value in vars(module).items() if name not in (*_OF_MODULES, "training"))
    for kind in type(module).__mro__:
        if kind.__module__.partition(".")[0] not in ("torch", "builtins", "abc", "typing"):
            own = ((name, value) for name, value in vars(kind).items() if not name.startswith("__"))
            yield from ((f"{kind.__name__}.{name}", value) for name, value in own)


def _gather(path: str, value: Any, found: Kept, seen: dict[int, Any], depth: int) -> None:
    if isinstance(value, _PLAIN):
        found[path] = value
    elif isinstance(value, Tensor | np.ndarray):
        found[path] = value.detach().clone() if isinstance(value, Tensor) else value.copy()
    elif isinstance(value, torch.Generator):
        found[path] = value.get_state()
    elif isinstance(value, _NO_STATE) or id(value) in seen or depth == _DEEPEST:
        return
    else:
        seen[id(value)] = value
        for name, part in _parts(value):
            _gather(f"{path}{name}", part, found, seen, depth + 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield ".keys", str(list(value))
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield ".len", len(value)
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield "", str(sorted(map(repr, value)))
    else:
        yield from _reduced(value)


def _reduced(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling would keep of any object: its attributes, the place of an iterator, the state of a generator."""
    try:
        _, arguments, *rest = value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001, an object that refuses is held by reference alone
        return
    yield "", arguments
    for part in rest:
        if isinstance(part, dict):
            yield from ((f".{name}", own) for name, own in part.items())
        elif isinstance(part, (list, tuple, *_PLAIN)):
            yield "", part
        elif part is not None:  # items of a list or dict subclass, as an iterator
            yield "", list(part)


def _is_same(before: Any, after: Any, tolerance: float) -> bool:
    if type(before) is not type(after):
        return False
    if isinstance(before, Tensor):
        return is_same_tensor(before, after, tolerance)
    if isinstance(before, np.ndarray):
        return before.dtype == after.dtype and np.array_equal(before, after, equal_nan=before.dtype.kind in "fc")
    return bool(before == after) or before != before  # noqa: PLR0124, NaN
