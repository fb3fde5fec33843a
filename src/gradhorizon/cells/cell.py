r"""The contract of a recurrence: what depends on the input, what depends on the state.

.. math::
    s_t = \mathrm{recur}(\mathrm{project}(x_t),\, s_{t-1}), \qquad
    y_t = \mathrm{output}(\mathrm{project}(x_t),\, s_t)

Notation: B batch, N steps, D input size, H hidden size, t in 1 … N counts inputs, s_0 is the initial state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

State = tuple[Tensor, ...]
Projected = Any  # a tensor, or a (nested) tuple of tensors, each with the steps on dimension 1


class Layer(nn.Module, ABC):
    """A map from a sequence (B, N, D) to a sequence (B, N, H), recurrent or not.

    Args:
        input_size: D, features per step.
        hidden_size: H, features that the layer above sees at each step.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        # Moves with the module, so that one without parameters knows its format and device too.
        self._like: Tensor
        self.register_buffer("_like", torch.empty(0), persistent=False)

    @abstractmethod
    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H"]:
        """Outputs at every step, shape (B, N, H)."""


class Recurrent(Layer):
    """A recurrence over its *full* state, a tuple of tensors such as ``(h,)`` or ``(h, c)``.

    `step` is the definition. `segment` may be a fused kernel or a parallel scan, and must equal the loop
    over `step` in outputs and gradients; the kernel gate compares them before anything is measured.
    A cell updates no tensor in place and branches on no value, so that a harness may batch it over networks.

    Complex states are stored as pairs of real tensors: each complex Lyapunov exponent then counts twice.
    """

    @property
    @abstractmethod
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Component name -> shape without the batch, in the order of the state tuple."""

    @abstractmethod
    def project(self, x: Float[Tensor, "B N D"], first_step: int = 0) -> Projected:
        """All that depends on the input and the clock alone, for N steps at once.

        Args:
            x: inputs, shape (B, N, D).
            first_step: how many inputs came before ``x[:, 0]`` (a clocked cell needs it).

        Returns:
            One tensor or a tuple of tensors, each of shape (B, N, …).
        """

    @abstractmethod
    def recur(self, projected_t: Projected, state: State) -> State:
        """State after one step: all that depends on the previous state.

        Args:
            projected_t: what `project` returned, at one step: shapes (B, …).
            state: s_{t−1}, one tensor (B, …) per component.

        Returns:
            s_t, with the shapes of `state`.
        """

    def output(self, projected_t: Projected, state: State) -> Float[Tensor, "B H"]:  # noqa: ARG002
        """What the layer above sees after one step, shape (B, H); by default the first state component."""
        return state[0]

    def gates(self, projected_t: Projected, state: State) -> dict[str, Tensor]:  # noqa: ARG002
        """Gate name -> values in [0, 1], shape (B, H), at the step that consumes `state`; empty without gates."""
        return {}

    def recurrent_weights(self) -> dict[str, Tensor]:
        """Name -> square recurrent matrix (H, H), one per gate or candidate; empty if there is none."""
        return {}

    def initial_state(self, batch_size: int) -> State:
        """s_0: zeros, one tensor (B, …) per component, real, with the parameters' dtype and device."""
        like = next((own for own in self.parameters() if own.is_floating_point() or own.is_complex()), self._like)
        return tuple(
            like.new_zeros(batch_size, *shape, dtype=like.dtype.to_real()) for shape in self.state_shapes.values()
        )

    def step(self, x_t: Float[Tensor, "B D"], state: State, first_step: int = 0) -> State:
        """s_t from x_t, shape (B, D), and s_{t−1}: the textbook equation."""
        projected = self.project(x_t.unsqueeze(1), first_step)
        return self.recur(select_step(projected, 0), state)

    def segment(
        self, x: Float[Tensor, "B N D"], state: State, first_step: int = 0
    ) -> tuple[Float[Tensor, "B N H"], State]:
        """Outputs (B, N, H) of many steps, and the state after the last one."""
        outputs = []
        for projected_t in split_steps(self.project(x, first_step), x.shape[1]):
            state = self.recur(projected_t, state)
            outputs.append(self.output(projected_t, state))
        return torch.stack(outputs, dim=1), state

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N H"]:
        """Outputs at every step, shape (B, N, H), from the initial state."""
        return self.segment(x, self.initial_state(x.shape[0]))[0]


Initialization = Callable[[Any], None]
"""Sets a cell's parameters in place, drawing from torch's global generator as ``torch.nn.init`` does."""


def select_step(projected: Projected, step: int) -> Projected:
    """What `Recurrent.project` returned, at one of its steps: shapes (B, …)."""
    return tree_map(lambda tensor: tensor[:, step], projected)


def split_steps(projected: Projected, num_steps: int) -> list[Projected]:
    """What `Recurrent.project` returned, step by step: `num_steps` times shapes (B, …).

    The backward pass of ``tensor[:, t]`` fills a tensor of all N steps for every single one; that of ``unbind`` fills
    one for all of them, with the same bits.
    """
    tensors, structure = tree_flatten(projected)
    columns = [tensor.unbind(1) for tensor in tensors]
    return [tree_unflatten([column[step] for column in columns], structure) for step in range(num_steps)]
