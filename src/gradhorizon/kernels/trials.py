"""Trials of a module from elsewhere: what it returns where it is called so or so, on random numbers.

Notation: B batch, N steps, D input size, H features of the output.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_structure

from gradhorizon.cells.called import Calling, first_tensor
from gradhorizon.kernels.casting import real_dtype
from gradhorizon.terminal.reasons import reason_of

STARTS = ("initial_state", "init_state", "init_hidden", "get_initial_state", "zero_state")
"""Methods of a batch size that make s_0, as people name them."""
ROUNDING = 1e-3
"""Relative difference, of a few steps in float32, that is none."""

_MOST_PARTS = 4  # tensors of a state whose number nobody says
_SIZES = ("hidden_size", "state_size", "units", "num_units")
_NO_STATE = re.compile(
    r"mask|len|train|reset|^dt$|delta|time|ts$|^t$|return|need|reverse|determin|dropout|generator|pad|^is_|^use_|infer"
    r"|pos|chunk|mode|output|verbose"
)
"""Names of optional parameters that are no part of a state."""


class Trials:
    """One module, and what came of calling it.

    Args:
        module: a copy, which is run.
        input_size: D.
    """

    def __init__(self, module: nn.Module, input_size: int) -> None:
        self.module = module
        self.input_size = input_size
        self.name = type(module).__name__
        self.refusals: list[str] = []
        like = next(iter((*module.parameters(), *module.buffers())), torch.empty(0))
        self.device, self.dtype = like.device, real_dtype(module)
        sizes = {input_size, *(value for value in vars(module).values() if isinstance(value, int))}
        self.batch_size, self.num_steps = islice((size for size in count(3, 2) if size not in sizes), 2)

    @property
    def has_values(self) -> bool:
        """Whether its numbers can be compared, or are shapes alone."""
        return self.device.type != "meta"

    def step_input(self) -> Tensor:
        """One step's input, shape (B, D)."""
        return self._random(self.batch_size, self.input_size)

    def sequence(self, is_time_major: bool) -> Tensor:
        """A whole sequence, shape (B, N, D) or (N, B, D)."""
        x = self._random(self.batch_size, self.num_steps, self.input_size)
        return x.transpose(0, 1).contiguous() if is_time_major else x

    def _random(self, *shape: int) -> Tensor:
        with torch.device("cpu"):
            generator = torch.Generator().manual_seed(math.prod(shape))
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.to(self.device, self.dtype)

    def tried(self, words: str, call: Callable[[], Any]) -> Any:
        """What `call` returns, or None if it raises, which is kept.

        Args:
            words: how the module is called.
            call: does it.
        """
        try:
            with torch.enable_grad():
                return call()
        except Exception as error:  # noqa: BLE001, whatever it raises says that it is not called so
            self.refusals.append(f"{words}: {reason_of(error)}")
            return None

    def state_parameters(self) -> list[str] | None:
        """Parameters of ``forward``, after its input, that can be parts of a state; None where it takes any number."""
        try:
            taken = list(inspect.signature(self.module.forward).parameters.values())
        except (TypeError, ValueError):
            return None
        if any(one.kind == one.VAR_POSITIONAL for one in taken):
            return None
        positional = [one for one in taken if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)][1:]
        return [one.name for one in positional if one.default in (None, one.empty) and not _NO_STATE.search(one.name)]

    def likely_states(self) -> Iterator[tuple[Any, str | None]]:
        """States for a cell that runs on none without one: what its own method makes, by its name, or zeros."""
        for start in STARTS:
            if hasattr(self.module, start):
                made = self.tried(f"{start}(batch)", partial(getattr(self.module, start), self.batch_size))
                if made is not None:
                    yield made, start
        sizes = [getattr(self.module, name, None) for name in _SIZES]
        for size in dict.fromkeys(size for size in sizes if isinstance(size, int) and size > 0):
            part = torch.zeros(self.batch_size, size, device=self.device, dtype=self.dtype)
            for number in range(1, _MOST_PARTS + 1):
                yield (part if number == 1 else (part,) * number), None

    def calling(self, x: Tensor, state: Any, has_output: bool, is_flat: bool) -> Calling | None:
        """How the module takes `state`, if it does, returns one like it and feels it.

        Args:
            x: its input, of one step or of many.
            state: tensors, nested.
            has_output: see `Calling`.
            is_flat: see `Calling`.
        """
        parts, structure = tree_flatten(state)
        if not parts or not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
            return None
        for is_spread in self._ways(state):
            leaves = tree_map(_leaf, state)
            given = tree_map(torch.clone, leaves)  # which may be written in place: that is refused later, in words
            returned = self.tried(
                f"(x, {'*' * is_spread}{form(state)})",
                partial(self.module, x, *(given if is_spread else (given,))),
            )
            if returned is not None and (not has_output or (isinstance(returned, tuple | list) and len(returned) > 1)):
                found = self._read(returned, leaves, Calling(structure, is_spread, has_output, is_flat))
                if found is not None:
                    return found
        return None

    def _read(self, returned: Any, given: Any, calling: Calling) -> Calling | None:
        output, following = calling.parted(returned)
        before, parts = tree_leaves(given), tree_leaves(following)
        if tree_structure(following) != calling.structure or not all(isinstance(part, Tensor) for part in parts):
            return None
        dims = [_batch_dim(part.shape, self.batch_size) for part in parts]
        if [part.shape for part in parts] != [part.shape for part in before] or not _feels(returned, before):
            return None
        own = tuple(dim for dim in dims if dim is not None)
        if len(own) < len(dims) or not (output is None or isinstance(output, Tensor)):
            return None
        shapes = [tuple(part.movedim(dim, 0).shape[1:]) for part, dim in zip(parts, own, strict=True)]
        calling = replace(calling, names=self._names(given, len(parts)), shapes=tuple(shapes), batch_dims=own)
        moved = calling.moved(following)
        return replace(calling, output_size=int((moved[0] if output is None else output).shape[-1]), output_at=0)

    def _names(self, state: Any, count: int) -> tuple[str, ...]:
        if isinstance(self.module, nn.LSTM | nn.LSTMCell):
            return ("h", "c")
        if isinstance(state, dict) and len(state) == count:
            return tuple(map(str, state))
        return ("h",) if count == 1 else tuple(f"s{index}" for index in range(count))

    def _ways(self, state: Any) -> tuple[bool, ...]:
        """Whether the tensors of `state` may be handed over one by one."""
        if not isinstance(state, tuple | list):
            return (False,)
        names = self.state_parameters()
        return (False, True) if names is None else (len(names) == len(state) > 1,)

    def layouts(self) -> list[bool]:
        """Whether dimension 0 may be the steps: as the module says, or as its samples keep apart."""
        declared = {getattr(own, "batch_first", None) for own in self.module.modules()} & {True, False}
        if len(declared) == 1:
            return [not declared.pop()]
        if not self.has_values:
            return [False]
        return [is_time_major for is_time_major in (False, True) if self._keeps_apart(is_time_major)]

    def _keeps_apart(self, is_time_major: bool) -> bool:
        x = self.sequence(is_time_major).requires_grad_()
        outputs = first_tensor(self.tried(f"({layout(is_time_major)})", partial(self.module, x)))
        if not is_map_of(x, outputs) or not outputs.requires_grad:
            return not is_time_major
        dim = 1 if is_time_major else 0
        with suppress(RuntimeError):
            (gradient,) = torch.autograd.grad(outputs.select(dim, 1).sum(), x, materialize_grads=True)
            return not bool(gradient.index_select(dim, torch.tensor([0, 2], device=x.device)).any())
        return not is_time_major


def layout(is_time_major: bool) -> str:
    """The shape of a sequence, in words."""
    return "steps, batch, features" if is_time_major else "batch, steps, features"


def is_map_of(x: Tensor, outputs: Any) -> bool:
    """Whether `outputs` has features at every step of every sample of `x`."""
    return isinstance(outputs, Tensor) and outputs.ndim == 3 and outputs.shape[:2] == x.shape[:2]  # noqa: PLR2004


def readings(returned: Any) -> Iterator[tuple[Any, bool, bool]]:
    """What of `returned` may be the state, whether an output comes before it, and whether they lie side by side."""
    yield returned, False, False
    if isinstance(returned, tuple | list) and len(returned) > 1:
        if len(returned) == 2:  # noqa: PLR2004
            yield returned[1], True, False
        yield tuple(returned[1:]), True, True


def are_close(one: Tensor, other: Tensor) -> bool:
    """Whether two results of the same are the same but for rounding."""
    scale = float(other.detach().abs().max()) if other.numel() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=ROUNDING, atol=ROUNDING * scale, equal_nan=True)


def form(value: Any) -> str:
    """Shapes of the tensors in `value`, nested as they are."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return f"({', '.join(map(form, value))})" if isinstance(value, tuple | list) else type(value).__name__


def _leaf(part: Tensor) -> Tensor:
    return part.detach().clone().requires_grad_()


def _batch_dim(shape: torch.Size, batch_size: int) -> int | None:
    dims = [at for at, size in enumerate(shape) if size == batch_size]
    return dims[0] if len(dims) == 1 else None


def _feels(returned: Any, given: list[Tensor]) -> bool:
    """Whether what came back hangs on the state by autograd's graph, if by one part of it alone."""
    ends = [leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not ends:
        return False
    found = torch.autograd.grad([end.sum() for end in ends], given, allow_unused=True)
    return any(gradient is not None for gradient in found)
