"""What a module returns, whatever it is: the tensors in tuples, dicts, data classes and other objects."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def tensors_of(outputs: Any) -> list[Tensor]:
    """All floating and complex tensors in `outputs`, in any nesting, each once."""
    found: dict[int, Tensor] = {}
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            if leaf.is_floating_point() or leaf.is_complex():
                found[id(leaf)] = leaf
        elif hasattr(leaf, "__dict__"):
            found.update({id(own): own for own in tensors_of(dict(vars(leaf)))})
    return list(found.values())


def step_lists(outputs: Any, input_len: int) -> list[list[Tensor]]:
    """Lists and tuples in `outputs` of one tensor per step, as a loop over the steps collects them.

    Args:
        outputs: what a module returned for N steps.
        input_len: N.
    """
    parts: Any = ()
    if isinstance(outputs, list | tuple):
        if len(outputs) == input_len and all(isinstance(own, Tensor) for own in outputs):
            return [list(outputs)] if len({own.shape for own in outputs}) == 1 else []
        parts = outputs
    elif isinstance(outputs, Mapping):
        parts = outputs.values()
    elif hasattr(outputs, "__dict__") and not isinstance(outputs, Tensor):
        parts = vars(outputs).values()
    return [found for part in parts for found in step_lists(part, input_len)]


def apart(outputs: Any) -> Any:
    """`outputs` with tensors of their own: what a loss reads of one is no longer what it reads of another."""
    return tree_map(_apart, outputs)


def _apart(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.view_as(leaf) if leaf.requires_grad else leaf
    if not hasattr(leaf, "__dict__") or not tensors_of(leaf):
        return leaf
    twin = copy.copy(leaf)
    for name, part in vars(leaf).items():
        try:
            setattr(twin, name, apart(part))
        except AttributeError:  # frozen
            object.__setattr__(twin, name, apart(part))
    return twin
