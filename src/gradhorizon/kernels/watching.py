"""Every operation of a module while it runs: which left the precision, read a value, or rounded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WIDE = (torch.float64, torch.complex128)
_READS = ("_local_scalar_dense", "equal", "is_nonzero")
_GUARDS = ("isnan", "isinf", "isfinite", "isposinf", "isneginf")
_COMPARISONS = ("eq", "ne", "lt", "gt", "le", "ge")
_ROUNDINGS = ("round", "sign", "sgn", "floor", "ceil", "trunc", "heaviside", "argmax", "argmin", "bernoulli", "signbit")


class Watch(TorchDispatchMode):
    """Follows float64 numbers through the operations that consume them.

    Args:
        data: inputs and states, whose values no Python branch may read.
        weights: parameters and buffers, which may be read but not rounded.

    Attributes:
        narrowed: operation -> format, of those that made lower precision of float64 numbers.
        is_data_narrowed: whether some of these numbers came of the data, and not of the weights alone.
        reads: operations that handed a value of the data to Python, a test for NaN or infinity aside.
        rounds: whether a piecewise constant function was taken of the data: its derivative is 0 or a surrogate.
    """

    def __init__(self, data: Iterable[Tensor], weights: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.narrowed: dict[str, torch.dtype] = {}
        self.is_data_narrowed = False
        self.reads: list[str] = []
        self.rounds = False
        # The tensors are kept alive, or their identities would be given to others.
        self._data = {id(tensor): tensor for tensor in data}
        self._weights = {id(tensor): tensor for tensor in weights}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note what it did."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket.__name__).rstrip("_")
        is_data = any(id(tensor) in self._data for tensor in given)
        if is_data or any(id(tensor) in self._weights for tensor in given):
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self._note_precision(name, given, made, is_data)
            if is_data:
                self._note_reads(name, args, given, made)
            if not is_data or not _is_guard(name, args):
                kept = self._data if is_data else self._weights
                kept.update((id(tensor), tensor) for tensor in made)
        return result

    def _note_precision(self, name: str, given: list[Tensor], made: list[Tensor], is_data: bool) -> None:
        if any(tensor.dtype in _WIDE for tensor in given):
            for tensor in made:
                if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype not in _WIDE:
                    self.narrowed[name] = tensor.dtype
                    self.is_data_narrowed |= is_data

    def _note_reads(self, name: str, args: tuple[Any, ...], given: list[Tensor], made: list[Tensor]) -> None:
        if name.strip("_") in [read.strip("_") for read in _READS]:
            self.reads.append(name)
        is_whole = all(not tensor.is_floating_point() for tensor in given)
        self.rounds |= name in _ROUNDINGS or (
            is_whole and any(tensor.is_floating_point() for tensor in made) and not _is_guard(name, args)
        )


def _is_guard(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation asks whether numbers are finite, or indices in their range, and nothing else."""
    if name in _GUARDS or (name == "aminmax" and not args[0].is_floating_point()):  # of `one_hot`
        return True
    if name not in _COMPARISONS or len(args) < 2:  # noqa: PLR2004
        return False
    first, second = args[:2]
    return first is second or (isinstance(second, float) and math.isinf(second))
