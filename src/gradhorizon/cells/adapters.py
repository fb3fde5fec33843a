"""PyTorch's own recurrent modules, and anybody's, seen through the contract of a recurrence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_structure, tree_unflatten

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.cells.fused import run_kernel

_CELLS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.RNNCell: ("h",),
    nn.GRUCell: ("h",),
    nn.LSTMCell: ("h", "c"),
}


def as_recurrent(module: nn.Module, input_size: int, initial_state: Any = None) -> Recurrent:
    """`module` as a `Recurrent` that shares its parameters.

    Args:
        module: a `Recurrent`, a ``torch.nn`` recurrent cell or layer, or a module called as ``module(x_t, state)``.
        input_size: D.
        initial_state: s_0, whose shapes are those of the state of a module that is none of PyTorch's or ours.

    Raises:
        TypeError: a module of somebody's own without `initial_state`.
        ValueError: a ``torch.nn`` layer that is stacked or bidirectional, or made for inputs of another size.

    Example:
        >>> dict(as_recurrent(nn.LSTMCell(2, 4), input_size=2).state_shapes)
        {'h': (4,), 'c': (4,)}
    """
    expected = getattr(module, "input_size", input_size)
    if expected != input_size:
        raise ValueError(f"`inputs` must have {expected} features for this {type(module).__name__}, got {input_size}")
    if isinstance(module, Recurrent):
        return module
    if isinstance(module, nn.RNNBase):
        return KernelAdapter(module)
    for kind, names in _CELLS.items():
        if isinstance(module, kind):
            shapes = {name: (int(module.hidden_size),) for name in names}  # type: ignore[arg-type]
            return StepAdapter(module, input_size, shapes, tree_structure(names if len(names) > 1 else names[0]))
    if initial_state is None:
        raise TypeError(
            f"the state's shape must be known, got a {type(module).__name__} without `initial_state`; pass s_0, one "
            "tensor (batch, features) or a tuple of them"
        )
    parts, structure = tree_flatten(initial_state)
    sizes = (tuple(part.shape[1:]) for part in parts)
    return StepAdapter(module, input_size, dict(zip(_names(initial_state), sizes, strict=True)), structure)


def _names(state: Any) -> list[str]:
    """``h`` of one tensor, the keys of a dict of tensors, and the places of what is nested."""
    if isinstance(state, Tensor):
        return ["h"]
    if isinstance(state, dict) and all(isinstance(part, Tensor) for part in state.values()):
        return [str(key) for key in state]
    return [f"s{index}" for index in range(len(tree_flatten(state)[0]))]


class Adapter(Recurrent):
    """Somebody's module, which sees the inputs themselves."""

    def project(self, x: Float[Tensor, "B N D"], first_step: int = 0) -> Float[Tensor, "B N D"]:  # noqa: ARG002
        """The inputs themselves."""
        return x


class StepAdapter(Adapter):
    """A module called as ``module(x_t, state)`` that returns the next state, or the pair (output, next state).

    Args:
        module: the module.
        input_size: D.
        state_shapes: component name -> shape without the batch.
        structure: how the module nests its state.
    """

    def __init__(
        self, module: nn.Module, input_size: int, state_shapes: Mapping[str, tuple[int, ...]], structure: TreeSpec
    ) -> None:
        super().__init__(input_size, next(iter(state_shapes.values()))[-1])
        self.module = module
        self._shapes = state_shapes
        self._structure = structure

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Component name -> shape without the batch."""
        return self._shapes

    def recur(self, projected_t: Float[Tensor, "B D"], state: State) -> State:
        """What the module returns as its state."""
        return self.advance(projected_t, state)[1]

    def segment(
        self,
        x: Float[Tensor, "B N D"],
        state: State,
        first_step: int = 0,  # noqa: ARG002
    ) -> tuple[Float[Tensor, "B N H"], State]:
        """Outputs (B, N, H) as the module returns them, and the last state."""
        outputs = []
        for x_t in x.unbind(1):
            output, state = self.advance(x_t, state)
            outputs.append(output)
        return torch.stack(outputs, dim=1), state

    def advance(self, x_t: Float[Tensor, "B D"], state: State) -> tuple[Tensor, State]:
        """Output and state after one step.

        Raises:
            ValueError: the module writes its state or input in place, or returns something else.
        """
        versions = [part._version for part in (x_t, *state)]  # noqa: SLF001
        returned = self.module(x_t, tree_unflatten(list(state), self._structure))
        if versions != [part._version for part in (x_t, *state)]:  # noqa: SLF001
            raise ValueError(
                f"{type(self.module).__name__} must leave its state and input as they are, got one written in place; "
                "write `a * h` for `h.mul_(a)`, and so on"
            )
        return self._parted(returned, state)

    def _parted(self, returned: Any, given: State) -> tuple[Tensor, State]:
        whole = self._as_state(returned, given)
        if whole is not None:
            return whole[0], whole
        pair = returned if isinstance(returned, tuple | list) and len(returned) == 2 else (None, None)  # noqa: PLR2004
        output, following = pair[0], self._as_state(pair[1], given)
        if following is None or not isinstance(output, Tensor):
            raise ValueError(
                f"the module must return a state like the one it was given, {_words(given)}, or (output, state), "
                f"got {_words(returned)}"
            )
        if self._as_state(output, given) is not None and not torch.equal(output, following[0]):
            raise ValueError(
                f"which part is the next state must be clear, got two tensors of its shape {tuple(output.shape)}; "
                "return the next state alone, or (output, (state,)) and pass initial_state=(s_0,)"
            )
        return output, following

    def _as_state(self, value: Any, given: State) -> State | None:
        parts, structure = tree_flatten(value)
        is_alone = isinstance(value, tuple | list) and len(value) == 1 and isinstance(value[0], Tensor)
        is_alike = structure == self._structure or is_alone or _is_flat(value, parts)
        if not is_alike or not all(isinstance(part, Tensor) for part in parts):
            return None
        return tuple(parts) if [part.shape for part in parts] == [part.shape for part in given] else None


def _is_flat(value: Any, parts: list[Any]) -> bool:
    """Whether `value` is a list or tuple of several tensors, which only one of them in another nesting could mean."""
    return isinstance(value, tuple | list) and len(value) == len(parts) > 1


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_words, value))})"
    return type(value).__name__


class KernelAdapter(Adapter):
    """A ``torch.nn.RNN``, ``LSTM`` or ``GRU`` of one layer and one direction.

    Args:
        module: the module, batch first or not.

    Raises:
        ValueError: several layers or two directions.
    """

    def __init__(self, module: nn.RNNBase) -> None:
        if module.num_layers != 1 or module.bidirectional:
            raise ValueError(
                "a torch.nn layer must have `num_layers=1` and `bidirectional=False` to have one state per step, got "
                f"num_layers={module.num_layers}, bidirectional={module.bidirectional}; measure its layers one by one, "
                "or call `input_gradient_profile`"
            )
        super().__init__(module.input_size, module.proj_size or module.hidden_size)
        self.module = module

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The hidden state h and, for an LSTM, the memory cell c."""
        hidden = {"h": (self.hidden_size,)}
        return {**hidden, "c": (self.module.hidden_size,)} if isinstance(self.module, nn.LSTM) else hidden

    def recur(self, projected_t: Float[Tensor, "B D"], state: State) -> State:
        """State after one step of the fused kernel."""
        return self.segment(projected_t.unsqueeze(1), state)[1]

    def segment(
        self,
        x: Float[Tensor, "B N D"],
        state: State,
        first_step: int = 0,  # noqa: ARG002
    ) -> tuple[Float[Tensor, "B N H"], State]:
        """Outputs (B, N, H) and the last state, by the fused kernel."""
        return run_kernel(self.module, x, state)
