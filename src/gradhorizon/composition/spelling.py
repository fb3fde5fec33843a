"""One spelling for one number: ``0``, ``0.0`` and ``-0.0``, ``1e-3`` and ``.001`` are the same setting of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from gradhorizon.machine.signatures import read_signature

_EXACT_BELOW = 2**53  # up to where a float holds every whole number


def canonical(value: Any, annotation: str = "") -> Any:
    """`value` with every number as its reader takes it: a float where the annotation says so, else whole if it is.

    Args:
        value: plain containers; nodes with a ``_target_`` are read by what that takes.
        annotation: that of the argument that `value` is, as it is written.
    """
    if isinstance(value, Mapping):
        target = value.get("_target_")
        signature = read_signature(target) if isinstance(target, str) else None
        annotations = signature.annotations if signature is not None else {}
        return {key: canonical(item, annotations.get(key, "")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item, annotation) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return _as_float(value) if re.search(r"\bfloat\b", annotation) else _as_whole(value)


def _as_float(value: float) -> float:
    try:
        return float(value) + 0.0 if float(value) == value else value  # which leaves no minus before a zero
    except OverflowError:
        return value


def _as_whole(value: float) -> float:
    return int(value) if isinstance(value, float) and value.is_integer() else value


@lru_cache(10_000)
def spelled(override: str) -> str:
    """An override of the command line with its numbers in one spelling; what is no number stays as it was typed.

    Args:
        override: such as ``optimizer.momentum=0.90``.

    Example:
        >>> spelled("optimizer.betas=[0.90,1e-3]"), spelled("+optimizer.nesterov=True"), spelled("device=cuda:0")
        ('optimizer.betas=[0.9,0.001]', '+optimizer.nesterov=true', 'device=cuda:0')
    """
    key, equals, text = override.partition("=")
    try:
        value = OverridesParser.create().parse_override(override).value()
    except (HydraException, ValueError):
        return override
    words = _words(value)
    return f"{key}={words}" if equals and words is not None else f"{key}{equals}{text}"


def _words(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(_as_whole(value)) if math.isfinite(value) and abs(value) < _EXACT_BELOW else str(value)
    if isinstance(value, list):
        each = [_words(item) for item in value]
        return f"[{','.join(map(str, each))}]" if None not in each else None
    return None
