"""Modules from elsewhere, called as they want to be called, seen through the contracts of `Layer` and `Recurrent`.

How a module wants to be called is found by running it, in `gradhorizon.kernels.external`; here it is only done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeGuard

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_leaves, tree_structure, tree_unflatten

from gradhorizon.cells.adapters import Adapter
from gradhorizon.cells.cell import Layer, Recurrent, State


@dataclass(frozen=True)
class Calling:
    """How a module takes its state and gives it back.

    Attributes:
        structure: how it nests its state.
        is_spread: called as ``module(x, *state)``, else as ``module(x, state)``.
        has_output: whether an output comes before the state in what it returns.
        is_flat: whether these are ``(output, *state)``, else ``(output, state)``.
        names: of the state's tensors.
        shapes: theirs, without the batch.
        batch_dims: the dimension of the batch in each.
        output_at: which of them is the output, or holds it in its last row; None if it is none of them.
        output_size: H.
        start: name of a method that makes s_0 of a batch size, None for zeros.
    """

    structure: TreeSpec
    is_spread: bool
    has_output: bool
    is_flat: bool
    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    batch_dims: tuple[int, ...] = ()
    output_at: int | None = None
    output_size: int = 1
    start: str | None = None

    def __deepcopy__(self, memo: object) -> Calling:
        """Itself, as nothing of it can change."""
        return self

    def call(self, module: nn.Module, x: Tensor, parts: State) -> tuple[Tensor, State]:
        """Output and state, the batch on dimension 0 of each of the state's tensors.

        Args:
            module: what is called.
            x: its input.
            parts: the state's tensors, the batch on dimension 0.

        Raises:
            ValueError: it returns a state of another form.
        """
        own = [part.movedim(0, dim) for part, dim in zip(parts, self.batch_dims, strict=True)]
        state = tree_unflatten(own, self.structure)
        output, following = self.parted(module(x, *state) if self.is_spread else module(x, state))
        if tree_structure(following) != self.structure:
            raise ValueError(f"{type(module).__name__} must return a state like the one it was given, got another form")
        moved = self.moved(following)
        return (moved[0] if output is None else output), moved

    def parted(self, returned: Any) -> tuple[Tensor | None, Any]:
        """The output, if there is one, and the state, of what a module returned."""
        if not self.has_output:
            return None, returned
        return returned[0], tuple(returned[1:]) if self.is_flat else returned[1]

    def moved(self, state: Any) -> State:
        """The tensors of a module's own state, the batch on dimension 0."""
        return tuple(part.movedim(dim, 0) for part, dim in zip(tree_leaves(state), self.batch_dims, strict=True))

    def signature(self, x: str) -> str:
        """What it is called with and gives back, in words.

        Args:
            x: its input.
        """
        names = ", ".join(self.names)
        nested = names if len(self.names) == 1 else f"({names})"
        returned = names if self.is_flat else nested
        return f"({x}, {names if self.is_spread else nested}) -> {'output, ' * self.has_output}{returned}"

    def shown(self) -> str:
        """Its state in words: names, sizes, and what it starts from."""
        parts = zip(self.names, self.shapes, strict=True)
        sizes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in parts)
        start = "zeros" if self.start is None else f"`{self.start}`"
        return f"state {sizes} from {start}" + ("" if self.output_at is not None else ", which its output joins")

    def read(self, parts: State) -> Tensor:
        """The output, of a state that holds it, shape (B, H)."""
        assert self.output_at is not None  # noqa: S101, for the type checker
        part = parts[self.output_at]
        return part[:, -1] if part.ndim > 2 else part  # noqa: PLR2004


class _Called(Recurrent):
    """A module with a carried state.

    An output that is no part of the state joins it as the component ``output``, which nothing consumes: so every
    output is one of a state, as the contract demands. Its Lyapunov exponents are those of a zero matrix.

    Args:
        module: what is called.
        input_size: D.
        calling: how.
    """

    def __init__(self, module: nn.Module, input_size: int, calling: Calling) -> None:
        super().__init__(input_size, calling.output_size)
        self.module = module
        self.calling = calling

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The module's own components, and ``output`` if it is none of them."""
        shapes = dict(zip(self.calling.names, self.calling.shapes, strict=True))
        return shapes if self.calling.output_at is not None else {**shapes, "output": (self.hidden_size,)}

    def initial_state(self, batch_size: int) -> State:
        """Zeros, or what the module itself starts from."""
        if self.calling.start is None:
            return super().initial_state(batch_size)
        moved = self.calling.moved(getattr(self.module, self.calling.start)(batch_size))
        return self._with_output(moved, moved[0].new_zeros(batch_size, self.hidden_size))

    def project(self, x: Float[Tensor, "B N D"], first_step: int = 0) -> Float[Tensor, "B N D"]:  # noqa: ARG002
        """The inputs themselves, which the module sees together with its state."""
        return x

    def output(self, projected_t: Float[Tensor, "B D"], state: State) -> Float[Tensor, "B H"]:  # noqa: ARG002
        """The output, which is a component of the state or a row of one."""
        return state[-1] if self.calling.output_at is None else self.calling.read(state)

    def _own(self, state: State) -> State:
        return state[: len(self.calling.names)]

    def _with_output(self, parts: State, output: Tensor) -> State:
        return parts if self.calling.output_at is not None else (*parts, output)


class CalledCell(_Called):
    """A cell of somebody's own, called with one step's input, shape (B, D)."""

    def recur(self, projected_t: Float[Tensor, "B D"], state: State) -> State:
        """What the module makes of its state."""
        output, parts = self.calling.call(self.module, projected_t, self._own(state))
        return self._with_output(parts, output)


class CalledSequence(_Called):
    """A layer of somebody's own that carries a state, called with many steps at once, or with one.

    Args:
        module: what is called.
        input_size: D.
        calling: how.
        is_time_major: whether its inputs and outputs are (N, B, …).
    """

    def __init__(self, module: nn.Module, input_size: int, calling: Calling, is_time_major: bool) -> None:
        super().__init__(module, input_size, calling)
        self.is_time_major = is_time_major

    def recur(self, projected_t: Float[Tensor, "B D"], state: State) -> State:
        """State after a call with one step."""
        return self.segment(projected_t.unsqueeze(1), state)[1]

    def segment(
        self,
        x: Float[Tensor, "B N D"],
        state: State,
        first_step: int = 0,  # noqa: ARG002
    ) -> tuple[Float[Tensor, "B N H"], State]:
        """Outputs (B, N, H) and the last state, by one call of the module."""
        given = x.transpose(0, 1) if self.is_time_major else x
        outputs, parts = self.calling.call(self.module, given, self._own(state))
        outputs = outputs.transpose(0, 1) if self.is_time_major else outputs
        return outputs, self._with_output(parts, outputs[:, -1])


class CalledLayer(Layer):
    """A layer of somebody's own from (B, N, D) to (B, N, H), of whose state, if it has any, nothing is known.

    Args:
        module: what is called.
        input_size: D.
        output_size: H.
        is_time_major: whether its inputs and outputs are (N, B, …).
    """

    def __init__(self, module: nn.Module, input_size: int, output_size: int, is_time_major: bool) -> None:
        super().__init__(input_size, output_size)
        self.module = module
        self.is_time_major = is_time_major

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H"]:
        """Outputs at every step; of several things that the module returns, the first."""
        returned = self.module(x.transpose(0, 1) if self.is_time_major else x)
        outputs: Tensor = first_tensor(returned)
        return outputs.transpose(0, 1) if self.is_time_major else outputs


def first_tensor(returned: Any) -> Any:
    """Of what a layer returns, the outputs: the tensor, or the first one of a tuple, mapping or dataclass."""
    if isinstance(returned, Mapping):
        returned = tuple(returned.values())
    elif is_dataclass(returned):
        returned = tuple(getattr(returned, one.name) for one in fields(returned))
    if isinstance(returned, tuple | list):
        return next((one for one in returned if isinstance(one, Tensor)), None)
    return returned


def name_of(module: nn.Module) -> str:
    """Class of a module, of one from elsewhere the one that its author gave it."""
    return type(module.module if is_from_elsewhere(module) else module).__name__


def method_of(cell: Recurrent, method: str) -> str:
    """Name of a method that runs, behind that of its class: of a module from elsewhere it is one of its own.

    Args:
        cell: whose `method` runs.
        method: of the contract.

    Example:
        >>> from gradhorizon.cells.adapters import KernelAdapter
        >>> method_of(KernelAdapter(nn.GRU(2, 4)), "recur")
        'GRU.forward'
    """
    if is_from_elsewhere(cell):
        start = cell.calling.start if isinstance(cell, _Called) else None
        method = start if method == "initial_state" and start is not None else "forward"
    return f"{name_of(cell)}.{method}"


def is_from_elsewhere(module: nn.Module) -> TypeGuard[_Called | CalledLayer | Adapter]:
    """Whether `module` stands for one that knows nothing of the contract."""
    return isinstance(module, _Called | CalledLayer | Adapter)
