r"""The Jacobian of each step over the *full* state: as a map on tangent vectors, and as the exact matrix.

.. math:: J_t = \frac{\partial s_t}{\partial s_{t-1}}, \qquad s = (\text{all components, flattened, in their order})

A tangent vector is pushed by forward differentiation of `Recurrent.recur`, on inputs projected once for all steps.

Notation: B batch, N steps, D input size, S size of the full state, K tangent vectors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from gradhorizon.cells.cell import Projected, Recurrent, State, select_step

_MAX_ENTRIES = 2**20  # of exact Jacobians held at once, 8 MiB in float64
_MAX_DENSE_SIZE = 32  # up to it, all Jacobians of many steps at once are cheaper than one call per step

Push = Callable[[Tensor], Tensor]


def state_size(cell: Recurrent) -> int:
    """S, entries of the full state, all components together.

    Example:
        >>> from gradhorizon.cells.lstm import LSTM
        >>> state_size(LSTM(2, 3))
        6
    """
    return sum(math.prod(shape) for shape in cell.state_shapes.values())


def random_frames(size: int, num_vectors: int, count: int = 2) -> Float[Tensor, "count S K"]:
    """Orthonormal frames drawn by a private generator of fixed seed: the same ones always.

    Args:
        size: S.
        num_vectors: K, at most S.
        count: how many independent frames.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(count, size, num_vectors, generator=generator, dtype=torch.float64)).Q


@torch.no_grad()
def tangent_maps(cell: Recurrent, x: Float[Tensor, "B N D"], state: State) -> Iterator[Push]:
    """J_1 … J_N, each as a map of tangent vectors (B, S, K) -> (B, S, K).

    Args:
        cell: the recurrence.
        x: inputs, shape (B, N, D).
        state: s_0.
    """
    _prepare_forward_differentiation()
    if state_size(cell) <= _MAX_DENSE_SIZE:
        for projected, states in _chunks(cell, x, state):
            identity = torch.eye(states.shape[1]).to(states).expand(*states.shape, -1)
            jacobians = _push(cell, projected, _components(cell, states), identity)
            yield from (partial(torch.matmul, own) for own in jacobians.unflatten(0, (len(x), -1)).unbind(1))
        return
    projected = cell.project(x)
    for step in range(x.shape[1]):
        projected_t = select_step(projected, step)
        yield partial(_push, cell, projected_t, state)
        state = cell.recur(projected_t, state)


def _chunks(cell: Recurrent, x: Tensor, state: State) -> Iterator[tuple[Projected, Float[Tensor, "M S"]]]:
    # Once the states are known, many steps are one larger batch, sample by sample.
    projected = cell.project(x)
    per_chunk = max(1, _MAX_ENTRIES // (len(x) * state_size(cell) ** 2))
    for start in range(0, x.shape[1], per_chunk):
        steps = range(start, min(start + per_chunk, x.shape[1]))
        states = []
        for step in steps:
            states.append(_flat(state, 1))
            state = cell.recur(select_step(projected, step), state)
        own = slice(steps.start, steps.stop)
        chunk = tree_map(lambda part, own=own: part[:, own].flatten(0, 1), projected)
        yield chunk, torch.stack(states, dim=1).flatten(0, 1)


@cache
def _prepare_forward_differentiation() -> None:
    # PyTorch compiles some forward rules at their first use, by a compiler that it warns against.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.neg, (torch.zeros(()),), (torch.zeros(()),))


def _push(cell: Recurrent, projected_t: Projected, state: State, frame: Tensor) -> Tensor:
    def along(tangent: State) -> State:
        return torch.func.jvp(lambda *parts: cell.recur(projected_t, parts), state, tangent)[1]

    pushed = torch.func.vmap(along)(_components(cell, frame.movedim(-1, 0)))
    return _flat(pushed, 2).movedim(0, -1)


def _components(cell: Recurrent, flat: Tensor) -> State:
    shapes = list(cell.state_shapes.values())
    parts = flat.split([math.prod(shape) for shape in shapes], dim=-1)
    return tuple(part.reshape(*flat.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True))


def _flat(state: State, num_lead: int) -> Tensor:
    return torch.cat([part.reshape(*part.shape[:num_lead], -1) for part in state], dim=-1)


@torch.no_grad()
def finite_time_exponents(
    cell: Recurrent,
    x: Float[Tensor, "B N D"],
    frame: Float[Tensor, "*frames S K"],
    state: State | None = None,
    transient_steps: int = 0,
    qr_every_steps: int = 1,
) -> Float[Tensor, "B K"]:
    r"""Lyapunov exponents along `x`, from the QR decomposition of :math:`J_N \cdots J_1` applied to a frame.

    .. math:: J_t Q_{t-1} = Q_t R_t, \qquad \lambda_i = \frac{1}{N - N_0} \sum_{t > N_0} \ln \lvert (R_t)_{ii} \rvert

    The frame travels through the transient too, so that it is aligned when the window begins. An exponent is below
    resolution if any :math:`\lvert R_{ii} \rvert` of the window is at most :math:`S \varepsilon \lVert J \rVert`, the
    norm taken as that of the longest pushed vector.

    Args:
        cell: the recurrence.
        x: inputs, shape (B, N, D).
        frame: orthonormal tangent vectors at s_0, shape (S, K) or one frame per sample, (B, S, K).
        state: s_0; the cell's initial state if omitted.
        transient_steps: :math:`N_0`, below N.
        qr_every_steps: steps between decompositions; more are faster and resolve less.

    Returns:
        In nats per step, shape (B, K), float64, the largest of each sample first; −inf where below resolution, NaN in
        every entry of a sample that met an infinite or NaN number.

    Raises:
        ValueError: no step is left after the transient.

    Source: Benettin, Galgani, Giorgilli & Strelcyn (1980), https://doi.org/10.1007/BF02128236; by QR decomposition,
        Geist, Parlitz & Lauterborn (1990), https://doi.org/10.1143/PTP.83.875.

    Example:
        >>> from gradhorizon.cells.elman import Elman
        >>> finite_time_exponents(Elman(2, 4), torch.zeros(3, 10, 2), torch.eye(4)).shape
        torch.Size([3, 4])
    """
    batch_size, num_steps, _ = x.shape
    if transient_steps >= num_steps:
        raise ValueError(
            f"a window needs at least 1 step after the transient, got `transient_steps`={transient_steps} and "
            f"{num_steps} steps of input; shorten the transient or lengthen the sequence"
        )
    frame = frame.to(x).expand(batch_size, *frame.shape[-2:])
    sums = torch.zeros(batch_size, frame.shape[-1], dtype=torch.float64, device=x.device)
    is_below = torch.zeros_like(sums, dtype=torch.bool)
    for t, push in enumerate(tangent_maps(cell, x, cell.initial_state(batch_size) if state is None else state), 1):
        frame = push(frame)
        if t in (transient_steps, num_steps) or (t - transient_steps) % qr_every_steps == 0:
            longest = torch.linalg.vector_norm(frame, dim=1).amax(dim=-1, keepdim=True)
            frame, triangle = torch.linalg.qr(frame)
            if t > transient_steps:
                factors = triangle.diagonal(dim1=-2, dim2=-1).abs()
                floor = frame.shape[1] * torch.finfo(frame.dtype).eps * longest
                is_below |= (factors <= floor) & floor.isfinite()
                sums += factors.to(torch.float64).log()
    return _ordered(sums / (num_steps - transient_steps), is_below)


def _ordered(means: Tensor, is_below: Tensor) -> Tensor:
    values = torch.where(is_below, -torch.inf, means)
    is_broken = ~(means < torch.inf).all(dim=1, keepdim=True)  # NaN is below nothing
    return torch.where(is_broken, torch.nan, values.sort(dim=1, descending=True).values)


@torch.no_grad()
def mean_log_determinants(
    cell: Recurrent, x: Float[Tensor, "B N D"], state: State | None = None, transient_steps: int = 0
) -> Float[Tensor, " B"]:
    r"""Mean of :math:`\ln \lvert \det J_t \rvert` over the steps after the transient, in nats per step, shape (B,).

    From exact Jacobians by reverse differentiation: independent of how `tangent_maps` pushes vectors.

    Args:
        cell: the recurrence.
        x: inputs, shape (B, N, D).
        state: s_0; the cell's initial state if omitted.
        transient_steps: steps before the window.
    """
    state = cell.initial_state(len(x)) if state is None else state
    logarithms = [
        torch.linalg.slogdet(exact_jacobians(cell, *chunk)).logabsdet.unflatten(0, (len(x), -1))
        for chunk in _chunks(cell, x, state)
    ]
    return torch.cat(logarithms, dim=1)[:, transient_steps:].mean(dim=1, dtype=torch.float64)


def exact_jacobians(cell: Recurrent, projected_t: Projected, state: Float[Tensor, "B S"]) -> Float[Tensor, "B S S"]:
    """J_t of every sample, shape (B, S, S), rows ∂(entry of s_t), columns ∂(entry of s_{t−1}).

    Args:
        cell: the recurrence.
        projected_t: what `project` returned at one step, shapes (B, …).
        state: s_{t−1}, flattened, shape (B, S).
    """

    def advance(flat: Tensor, own: Projected) -> Tensor:
        batch_of_one = tree_map(lambda part: part.unsqueeze(0), own)
        return _flat(cell.recur(batch_of_one, _components(cell, flat.unsqueeze(0))), 1).squeeze(0)

    return torch.func.vmap(torch.func.jacrev(advance))(state, projected_t)
