"""What a module returns, whatever it is: the tensors in tuples, dicts, data classes and other objects."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def tensors_of(outputs: Any) -> list[Tensor]:
    """All floating tensors in `outputs`, in any nesting, each once."""
    found: dict[int, Tensor] = {}
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            if leaf.is_floating_point():
                found[id(leaf)] = leaf
        elif hasattr(leaf, "__dict__"):
            found.update({id(own): own for own in tensors_of(dict(vars(leaf)))})
    return list(found.values())


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
