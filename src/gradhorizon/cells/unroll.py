r"""The only loop over time in the project: a cell run through a sequence in segments.

A segment is at once the unit of the fused kernel, of the parallel scan and of checkpointed recomputation.
Its ends are the *cuts*, where a state gradient is read: the tensors returned at a cut are the very ones that
the next segment consumes, so that :math:`\partial L / \partial s_t` with respect to them is the through-time
part, the part that reached step t from the future through the recurrence.

Notation: x_1 … x_N are inputs, s_0 … s_N states, s_t after input t; a cut at t lies between inputs t and t+1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gradhorizon.cells.cell import Recurrent, State


@dataclass(frozen=True)
class Trajectory:
    """What one cell did along one sequence, in the cell's own time.

    Attributes:
        outputs: shape (B, K, H), one per entry of `output_steps`.
        output_steps: ascending t in 1 … N whose outputs were kept.
        cuts: ascending t in 0 … N at which the state was kept.
        states: per cut, the state tuple that the next segment consumed.
        final_state: s_N.
    """

    outputs: Tensor
    output_steps: tuple[int, ...]
    cuts: tuple[int, ...]
    states: tuple[State, ...]
    final_state: State


def unroll(
    cell: Recurrent,
    x: Float[Tensor, "B N D"],
    state: State | None = None,
    *,
    cuts: Sequence[int] = (),
    output_steps: Sequence[int] | None = None,
    recompute_every: int | None = None,
) -> Trajectory:
    r"""Trajectory of `cell` along `x`, keeping states at `cuts` and outputs at `output_steps` alone.

    With no cuts it is one call of `cell.segment`. Gradients with respect to a kept state are taken with
    `torch.autograd.grad(loss, trajectory.states[i])`; where nothing later consumes it (a cut at N) the
    through-time part is 0 and autograd reports it as unused.

    Args:
        cell: the recurrence.
        x: inputs, shape (B, N, D).
        state: s_0; the cell's initial state if omitted.
        cuts: t in 0 … N, in any order, duplicates ignored.
        output_steps: t in 1 … N whose outputs somebody reads; all if omitted.
        recompute_every: longest segment, in steps, whose inner activations are recomputed during the backward
            pass instead of stored (memory O(N / recompute_every + recompute_every)); nothing is recomputed if omitted.

    Returns:
        The trajectory, with `cuts` and `output_steps` sorted.

    Raises:
        ValueError: a cut or an output step outside the sequence, or `recompute_every` below 1.

    Example:
        >>> from gradhorizon.cells.elman import Elman
        >>> trajectory = unroll(Elman(2, 4), torch.zeros(3, 10, 2), cuts=[5, 0], output_steps=[10])
        >>> trajectory.cuts, tuple(trajectory.outputs.shape)
        ((0, 5), (3, 1, 4))
    """
    input_len = x.shape[1]
    cuts = _sorted_within(cuts, 0, input_len, "cuts")
    edges = _edges(input_len, cuts, recompute_every)
    steps = range(1, input_len + 1) if output_steps is None else output_steps
    output_steps = _sorted_within(steps, 1, input_len, "output_steps")
    state = cell.initial_state(x.shape[0]) if state is None else state
    run = _run_segment if recompute_every is None else _run_segment_recomputed

    reads_all = len(output_steps) == input_len
    kept: list[State] = []
    outputs: list[Tensor] = []
    chunks = torch.split(x, [end - start for start, end in pairwise(edges)], dim=1)
    for chunk, (start, end) in zip(chunks, pairwise(edges), strict=True):
        if start in cuts:
            state = _as_cut(state)
            kept.append(state)
        read = None if reads_all else _read_within(output_steps, start, end)
        chunk_outputs, state = run(cell, chunk, state, start, read)
        if chunk_outputs is not None:
            outputs.append(chunk_outputs)
    if input_len in cuts:
        state = _as_cut(state)
        kept.append(state)
    merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return Trajectory(merged, output_steps, cuts, tuple(kept), state)


def _sorted_within(steps: Sequence[int], lowest: int, highest: int, name: str) -> tuple[int, ...]:
    ordered = tuple(sorted(set(steps)))
    if ordered and not lowest <= ordered[0] <= ordered[-1] <= highest:
        raise ValueError(f"`{name}` must lie in {lowest} … {highest}, got {ordered[0]} … {ordered[-1]}")
    if not ordered and name == "output_steps":
        raise ValueError("`output_steps` must name at least one step: an unroll that nobody reads has no gradient")
    return ordered


def _edges(input_len: int, cuts: tuple[int, ...], recompute_every: int | None) -> list[int]:
    if input_len < 1:
        raise ValueError("`x` must have at least one step, got shape (B, 0, D)")
    if recompute_every is not None and recompute_every < 1:
        raise ValueError(f"`recompute_every` must be at least 1 step, got {recompute_every}")
    inner = range(0, input_len, recompute_every) if recompute_every else ()
    return sorted({0, input_len, *cuts, *inner})


def _read_within(output_steps: tuple[int, ...], start: int, end: int) -> list[int]:
    first, last = bisect_right(output_steps, start), bisect_right(output_steps, end)
    return [t - start - 1 for t in output_steps[first:last]]


def _as_cut(state: State) -> State:
    # A view is a node of its own: outputs that were read from the same tensor keep their gradient to themselves.
    return tuple(
        part.view_as(part) if part.requires_grad else part.detach().requires_grad_(torch.is_grad_enabled())
        for part in state
    )


def _run_segment(
    cell: Recurrent, x: Tensor, state: State, first_step: int, read: list[int] | None
) -> tuple[Tensor | None, State]:
    outputs, state = cell.segment(x, state, first_step)
    return _select(outputs, read), state


def _run_segment_recomputed(
    cell: Recurrent, x: Tensor, state: State, first_step: int, read: list[int] | None
) -> tuple[Tensor | None, State]:
    if not torch.is_grad_enabled():
        return _run_segment(cell, x, state, first_step, read)
    recompute: Callable[..., Any] = _Recomputed.apply
    outputs, *parts = recompute(cell, first_step, read, x, *state, *cell.parameters())
    return outputs, tuple(parts)


class _Recomputed(torch.autograd.Function):
    """A segment of which the graph keeps one node and what it consumed.

    ``torch.utils.checkpoint`` drops the tensors inside but keeps a node per operation and a holder per tensor: for a
    cell that loops over its steps that is 17 KiB a step, whatever its size.
    """

    @staticmethod
    def forward(ctx: Any, cell: Recurrent, first_step: int, read: list[int] | None, x: Tensor, *rest: Tensor) -> Any:
        state = rest[: len(cell.state_shapes)]
        ctx.arguments, ctx.surroundings = (cell, first_step, read), _Surroundings(x.device)
        ctx.save_for_backward(x, *state)
        ctx.set_materialize_grads(False)
        outputs, state = _run_segment(cell, x, state, first_step, read)
        return (outputs, *state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        cell, first_step, read = ctx.arguments
        needs_grad = ctx.needs_input_grad[3:]
        x, *state = (
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, needs_grad, strict=False)
        )
        with torch.enable_grad(), ctx.surroundings.restored():
            outputs, reached = _run_segment(cell, x, tuple(state), first_step, read)
        felt = [
            (own, arrived) for own, arrived in zip((outputs, *reached), upstream, strict=True) if arrived is not None
        ]
        ends, arrived = [own for own, _ in felt if own is not None], [arrived for _, arrived in felt]
        wanted = [own for own, needed in zip((x, *state, *cell.parameters()), needs_grad, strict=True) if needed]
        found = iter(torch.autograd.grad(ends, wanted, arrived, allow_unused=True))
        return None, None, None, *(next(found) if needed else None for needed in needs_grad)


class _Surroundings:
    """Random state, autocast and cuDNN's switch of a forward pass, to be found again by its recomputation."""

    def __init__(self, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        self.cpu_state = torch.get_rng_state()
        self.cuda_states = [torch.cuda.get_rng_state(own) for own in self.devices]
        self.is_autocast = torch.is_autocast_enabled(device.type)
        self.autocast_dtype = torch.get_autocast_dtype(device.type)
        self.device_type = device.type
        self.has_cudnn = torch.backends.cudnn.enabled

    @contextmanager
    def restored(self) -> Iterator[None]:
        """All of it as it was, inside; as it is now, afterwards."""
        autocast = torch.autocast(self.device_type, self.autocast_dtype, self.is_autocast)
        with torch.random.fork_rng(self.devices), autocast, _cudnn(self.has_cudnn):
            torch.set_rng_state(self.cpu_state)
            for own, state in zip(self.devices, self.cuda_states, strict=True):
                torch.cuda.set_rng_state(state, own)
            yield


def _cudnn(is_enabled: bool) -> AbstractContextManager[None]:
    return nullcontext() if is_enabled else torch.backends.cudnn.flags(enabled=False)


def _select(outputs: Tensor, read: list[int] | None) -> Tensor | None:
    if read is None or len(read) == outputs.shape[1]:
        return outputs
    if not read:
        return None
    if read[-1] - read[0] + 1 == len(read):
        return outputs[:, read[0] : read[-1] + 1]
    return outputs[:, read]
