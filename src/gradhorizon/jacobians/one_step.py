r"""The Jacobian of each step over the *full* state, as a map on vectors and as the exact matrix.

.. math:: J_t = \frac{\partial s_t}{\partial s_{t-1}}, \qquad s = (\text{all components, flattened, in their order})

There are two independent ways to it: `StepJacobians.push` differentiates `Recurrent.recur` forward,
`StepJacobians.pull` in reverse, and the exact matrices are pulled. So each can check the other.

Notation: B batch, N steps, D input size, S size of the full state, K vectors, M samples of several steps together.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from gradhorizon.cells.cell import Projected, Recurrent, State, select_step

_MAX_ENTRIES = 2**20  # of exact Jacobians held at once, 8 MiB in float64
_MAX_DENSE_ENTRIES = 2**15  # of one step's Jacobians: up to it, those of many steps are cheaper than a call per step

Push = Callable[[Tensor], Tensor]


def state_size(cell: Recurrent) -> int:
    """S, entries of the full state, all components together.

    Example:
        >>> from gradhorizon.cells.lstm import LSTM
        >>> state_size(LSTM(2, 3))
        6
    """
    return sum(component_sizes(cell))


def component_sizes(cell: Recurrent) -> list[int]:
    """Entries of each component of the state, in the order of the state tuple.

    Example:
        >>> from gradhorizon.cells.lstm import LSTM
        >>> component_sizes(LSTM(2, 3))
        [3, 3]
    """
    return [math.prod(shape) for shape in cell.state_shapes.values()]


class StepMaps(ABC):
    """One square matrix per step and sample of a trajectory, the first step first.

    Attributes:
        batch_size: B.
        num_steps: N.
        size: S, rows of each matrix.
        like: a tensor of their dtype, on their device.
    """

    batch_size: int
    num_steps: int
    size: int
    like: Tensor

    @abstractmethod
    def pushes(self) -> Iterator[Push]:
        """The N matrices, each as a map of vectors (K, B, S) -> (K, B, S), by forward differentiation."""

    @abstractmethod
    def matrices(self) -> Iterator[Float[Tensor, "B n S S"]]:
        """The N matrices in chunks of n steps, shape (B, n, S, S), by reverse differentiation."""


class StepJacobians(StepMaps):
    """J_1 … J_N of a cell along a batch, as linear maps of the flattened full state.

    Args:
        cell: the recurrence.
        inputs: what the cell itself consumed, shape (B, N, D).
        state: s_0; the cell's initial state if omitted.
    """

    def __init__(self, cell: Recurrent, inputs: Float[Tensor, "B N D"], state: State | None = None) -> None:
        self._cell = cell
        self.batch_size, self.num_steps, _ = inputs.shape
        self.size = state_size(cell)
        with torch.no_grad():
            self._projected = cell.project(inputs)
            state = cell.initial_state(self.batch_size) if state is None else state
            states = [_flat(state, 1)]
            for step in range(self.num_steps - 1):
                state = cell.recur(select_step(self._projected, step), state)
                states.append(_flat(state, 1))
        self.states: Float[Tensor, "B N S"] = torch.stack(states, dim=1)
        """s_0 … s_{N−1}, at which the Jacobians are taken, shape (B, N, S)."""
        self.like = self.states

    def push(self, t: int, columns: Float[Tensor, "K B S"]) -> Float[Tensor, "K B S"]:
        """Products J_t v with K vectors v per sample, by forward differentiation."""
        return _pushed(self._cell, select_step(self._projected, t - 1), self.states[:, t - 1], columns)

    def pull(self, t: int, rows: Float[Tensor, "K B S"]) -> Float[Tensor, "K B S"]:
        """Products J_tᵀ u with K vectors u per sample, by reverse differentiation."""
        return _pulled(self._cell, select_step(self._projected, t - 1), self.states[:, t - 1], rows)

    def matrix(self, t: int) -> Float[Tensor, "B S S"]:
        """J_t, rows ∂(entry of s_t), columns ∂(entry of s_{t−1}), shape (B, S, S), by reverse differentiation."""
        return self.pull(t, _basis(self.states[:, t - 1])).transpose(0, 1)

    def pushes(self) -> Iterator[Push]:
        """J_1 … J_N, each as a map of vectors (K, B, S) -> (K, B, S), by forward differentiation."""
        if self.batch_size * self.size**2 > _MAX_DENSE_ENTRIES:
            yield from (partial(self.push, t) for t in range(1, self.num_steps + 1))
            return
        for projected, states in self._chunks():
            columns = _pushed(self._cell, projected, states, _basis(states))
            transposed = torch.unflatten(columns, 1, (self.batch_size, -1)).permute(2, 1, 0, 3).contiguous()
            yield from (partial(_times, own) for own in transposed)

    def matrices(self) -> Iterator[Float[Tensor, "B n S S"]]:
        """J_1 … J_N in chunks of n steps, shape (B, n, S, S), by reverse differentiation."""
        for projected, states in self._chunks():
            rows = _pulled(self._cell, projected, states, _basis(states))
            yield torch.unflatten(rows.transpose(0, 1), 0, (self.batch_size, -1))

    def _chunks(self) -> Iterator[tuple[Projected, Float[Tensor, "M S"]]]:
        # Once the states are known, many steps are one larger batch, sample by sample.
        per_chunk = max(1, _MAX_ENTRIES // (self.batch_size * self.size**2))
        for start in range(0, self.num_steps, per_chunk):
            own = slice(start, start + per_chunk)
            chunk = tree_map(lambda part, own=own: part[:, own].flatten(0, 1), self._projected)
            yield chunk, self.states[:, own].flatten(0, 1)


class LeadingBlocks(StepMaps):
    """The leading n × n blocks of other matrices: how the first n entries move themselves, all others held.

    Args:
        maps: the whole matrices.
        size: n.
    """

    def __init__(self, maps: StepMaps, size: int) -> None:
        self._maps = maps
        self.batch_size, self.num_steps, self.size, self.like = maps.batch_size, maps.num_steps, size, maps.like

    def pushes(self) -> Iterator[Push]:
        """The N blocks, each as a map of vectors (K, B, n) -> (K, B, n)."""
        return (partial(self._push, push) for push in self._maps.pushes())

    def matrices(self) -> Iterator[Float[Tensor, "B m n n"]]:
        """The N blocks in chunks of m steps, shape (B, m, n, n)."""
        return (matrix[..., : self.size, : self.size] for matrix in self._maps.matrices())

    def _push(self, push: Push, columns: Tensor) -> Tensor:
        others = columns.new_zeros(*columns.shape[:-1], self._maps.size - self.size)
        return push(torch.cat([columns, others], dim=-1))[..., : self.size]


@torch.no_grad()
def _pushed(cell: Recurrent, projected: Projected, states: Tensor, columns: Float[Tensor, "K M S"]) -> Tensor:
    _prepare_forward_differentiation()
    # Under `vmap` a tangent is allocated with all that its primal's storage holds, so a view of many states is slow.
    primals = tuple(part.clone() for part in _components(cell, states))

    def along(tangent: State) -> State:
        pushed: State = torch.func.jvp(lambda *parts: cell.recur(projected, parts), primals, tangent)[1]
        return pushed

    return _flat(torch.func.vmap(along)(_components(cell, columns)), 2)


@torch.no_grad()
def _pulled(cell: Recurrent, projected: Projected, states: Tensor, rows: Float[Tensor, "K M S"]) -> Tensor:
    def advance(flat: Tensor) -> Tensor:
        return _flat(cell.recur(projected, _components(cell, flat)), 1)

    pull = torch.func.vjp(advance, states)[1]
    pulled: Tensor = torch.func.vmap(lambda row: pull(row)[0])(rows)
    return pulled


@cache
def _prepare_forward_differentiation() -> None:
    # PyTorch compiles some forward rules at their first use, by a compiler that it warns against.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.neg, (torch.zeros(()),), (torch.zeros(()),))


def _times(transposed: Float[Tensor, "B S S"], columns: Float[Tensor, "K B S"]) -> Tensor:
    return (columns.transpose(0, 1) @ transposed).transpose(0, 1)


def _basis(states: Float[Tensor, "M S"]) -> Float[Tensor, "S M S"]:
    return torch.eye(states.shape[1]).to(states).unsqueeze(1).expand(-1, len(states), -1)


def _components(cell: Recurrent, flat: Tensor) -> State:
    parts = torch.split(flat, component_sizes(cell), dim=-1)
    return tuple(
        part.reshape(*flat.shape[:-1], *shape) for part, shape in zip(parts, cell.state_shapes.values(), strict=True)
    )


def _flat(state: State, num_lead: int) -> Tensor:
    return torch.cat([part.reshape(*part.shape[:num_lead], -1) for part in state], dim=-1)
