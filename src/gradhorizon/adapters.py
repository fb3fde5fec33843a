"""PyTorch's own recurrent modules, and anybody's, seen through the contract of a recurrence."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State

_CELLS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.RNNCell: ("h",),
    nn.GRUCell: ("h",),
    nn.LSTMCell: ("h", "c"),
}


def as_recurrent(module: nn.Module, input_size: int, initial_state: Tensor | State | None = None) -> Recurrent:
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
            return StepAdapter(module, input_size, shapes, is_bare=len(names) == 1)
    if initial_state is None:
        raise TypeError(
            f"the state's shape must be known, got a {type(module).__name__} without `initial_state`; pass s_0, one "
            "tensor (batch, features) or a tuple of them"
        )
    return StepAdapter(module, input_size, _shapes(initial_state), isinstance(initial_state, Tensor))


def _shapes(state: Tensor | State) -> Mapping[str, tuple[int, ...]]:
    if isinstance(state, Tensor):
        return {"h": tuple(state.shape[1:])}
    return {f"s{index}": tuple(part.shape[1:]) for index, part in enumerate(state)}


class StepAdapter(Recurrent):
    """A module called as ``module(x_t, state)`` that returns the next state.

    Args:
        module: the module.
        input_size: D.
        state_shapes: component name -> shape without the batch.
        is_bare: whether the module takes and returns one tensor, or a tuple of them.
    """

    def __init__(
        self, module: nn.Module, input_size: int, state_shapes: Mapping[str, tuple[int, ...]], is_bare: bool
    ) -> None:
        super().__init__(input_size, next(iter(state_shapes.values()))[-1])
        self.module = module
        self._shapes = state_shapes
        self._is_bare = is_bare

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Component name -> shape without the batch."""
        return self._shapes

    def project(self, x: Float[Tensor, "B N D"], first_step: int = 0) -> Float[Tensor, "B N D"]:  # noqa: ARG002
        """The inputs themselves."""
        return x

    def recur(self, projected_t: Float[Tensor, "B D"], state: State) -> State:
        """What the module returns."""
        following = self.module(projected_t, state[0] if self._is_bare else state)
        following = (following,) if isinstance(following, Tensor) else tuple(following)
        if [part.shape for part in following] != [part.shape for part in state]:
            raise ValueError(
                f"the module must return a state like the one it was given, {[tuple(part.shape) for part in state]}, "
                f"got {[tuple(part.shape) for part in following]}"
            )
        return following


class KernelAdapter(Recurrent):
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

    def project(self, x: Float[Tensor, "B N D"], first_step: int = 0) -> Float[Tensor, "B N D"]:  # noqa: ARG002
        """The inputs themselves."""
        return x

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
        x = x if self.module.batch_first else x.transpose(0, 1)
        layered = tuple(part.contiguous().unsqueeze(0) for part in state)
        outputs, last = self.module(x, layered if len(layered) > 1 else layered[0])
        last = (last,) if isinstance(last, Tensor) else last
        return outputs if self.module.batch_first else outputs.transpose(0, 1), tuple(part[0] for part in last)
