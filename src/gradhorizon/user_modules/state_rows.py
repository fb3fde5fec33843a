"""State gradients of one cell along one batch, and the checks that its recurrence is measured as what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gradhorizon.cells.adapters import KernelAdapter, StepAdapter
from gradhorizon.cells.cell import Recurrent, State, select_step
from gradhorizon.cells.unroll import unroll
from gradhorizon.measurements.state_gradients import state_gradient_rows
from gradhorizon.user_modules.copies import same_draws
from gradhorizon.user_modules.derivatives import refuse_lower_precision, refuse_untrue_gradient
from gradhorizon.user_modules.loss_steps import checked_losses
from gradhorizon.user_modules.repetition import refuse_kept_state
from gradhorizon.user_modules.samples import refuse_interaction

Loss = Callable[[Any], Tensor]

_CHECKED_STEPS = 5


def flat_state(state: Any, inputs: Tensor, dtype: torch.dtype) -> State:
    """The tensors of a nested state, in `dtype`, detached.

    Args:
        state: a tensor (B, …), or a tuple, list or dict of them.
        inputs: whose batch size and device they have.
        dtype: their format.

    Raises:
        TypeError: a part that is no tensor.
        ValueError: a tensor of another batch size.
    """
    parts = tree_leaves(state)
    for part in parts:
        if not isinstance(part, Tensor):
            raise TypeError(f"`initial_state` must be a tensor, or tuples, lists or dicts of them, got {part!r} in it")
        if part.ndim < 2 or len(part) != len(inputs):  # noqa: PLR2004
            raise ValueError(
                f"`initial_state` must be tensors of shape ({len(inputs)}, features), got {tuple(part.shape)}"
            )
        if part.is_complex() or part.device != inputs.device:
            raise ValueError(
                f"`initial_state` must be real, on {inputs.device}, got {part.dtype} on {part.device}; store (real, "
                "imaginary) pairs, and move it with `.to(device)`"
            )
    return tuple(part.detach().to(dtype) for part in parts)


def state_rows(
    cell: Recurrent,
    x: Tensor,
    state: State,
    loss: Loss,
    lags: list[int],
    lengths: Int[np.ndarray, " B"],
    has_surrogate_gradients: bool,
) -> pd.DataFrame:
    """Rows of the table ``state_gradients`` at `lags`, after the checks.

    Args:
        cell: the recurrence.
        x: inputs, shape (B, N, D), a leaf that requires a gradient.
        state: s_0.
        loss: of the last outputs.
        lags: descending, down to 0.
        lengths: steps of each sample.
        has_surrogate_gradients: whether its gradient is held against no difference.

    Raises:
        ValueError: a cell that cannot be measured as what it is.
    """
    _check_shapes(cell, state)
    groups = {int(length): torch.from_numpy(np.flatnonzero(lengths == length)).to(x.device) for length in set(lengths)}
    with same_draws():
        runs = {
            length: _run(
                cell,
                x[own, :length],
                tuple(_leaf(part[own]) for part in state),
                [length - lag for lag in lags if lag <= length],
            )
            for length, own in groups.items()
        }
    order = torch.cat(list(groups.values())).argsort()
    output = torch.cat([own for own, _, _ in runs.values()])[order]
    losses = checked_losses(loss(output), len(x))
    # Of samples in groups, states are in another order than losses; what mixes them mixes inputs too.
    states = chain.from_iterable(runs[len(x[0])][1]) if list(groups) == [len(x[0])] else ()
    refuse_interaction(losses, [x, output, *states], _subject(cell))
    refuse_lower_precision(losses, [output], x.dtype)
    found = {length: _gradients(losses, kept, last) for length, (_, kept, last) in runs.items()}
    if not any(bool((own[:, -1] != 0).any()) for components in found.values() for own in components):
        raise ValueError(
            "the loss must depend on the last state, or no relative norm is defined, got a gradient of exactly 0; make "
            "the output from the tensors that are returned as the state"
        )
    _check_conduct(cell, x.detach(), state, loss, has_surrogate_gradients)
    return _rows(list(cell.state_shapes), lags, found)


def _gradients(losses: Tensor, kept: list[State], last: State) -> list[Tensor]:
    """Per component, the gradients at the cuts, the last of which is at the end, shape (B, C, S)."""
    parts = list(chain.from_iterable(kept[:-1]))
    earlier = torch.autograd.grad(losses.sum(), parts, materialize_grads=True, retain_graph=True) if parts else ()
    found = [*earlier, *_direct(losses, last)]
    return [_stack(found[index :: len(last)]) for index in range(len(last))]


def _rows(components: list[str], lags: list[int], found: Mapping[int, list[Tensor]]) -> pd.DataFrame:
    """Rows lag by lag over the samples that reach it; ``t`` is that of the longest.

    Args:
        components: names of the state's components.
        lags: descending, down to 0.
        found: gradients of the samples of each length, per component, at those of the lags that they reach.
    """
    longest = max(found)
    frames = []
    for reaching, block in groupby(lags, key=lambda lag: [length for length in found if length >= lag]):
        own = list(block)
        read = own if 0 in own else [*own, 0]  # by which the others are divided
        gradients = [
            torch.cat([found[length][index][:, _places(lags, length, read)] for length in reaching])
            for index in range(len(components))
        ]
        is_probed = torch.tensor([lag == 0 for lag in read], device=gradients[0].device)[:, None]
        rows = state_gradient_rows(
            components,
            [longest - lag for lag in read],
            read,
            # Only the output consumed the state at t*, and nothing but the recurrence the earlier ones.
            [gradient.masked_fill(is_probed, 0.0) for gradient in gradients],
            [gradient.masked_fill(~is_probed, 0.0) for gradient in gradients],
        )
        frames.append(rows[rows["lag"].isin(own)])
    if len(frames) == 1:
        return frames[0]
    rows = pd.concat(frames)
    component, part = (pd.factorize(rows[name])[0] for name in ("component", "part"))
    return rows.iloc[np.lexsort((rows["t"].to_numpy(), component, part))]


def _places(lags: list[int], length: int, read: list[int]) -> list[int]:
    reached = [lag for lag in lags if lag <= length]
    return [reached.index(lag) for lag in read]


def _subject(cell: Recurrent) -> nn.Module:
    return cell.module if isinstance(cell, StepAdapter | KernelAdapter) else cell


def _run(cell: Recurrent, x: Tensor, state: State, cuts: list[int]) -> tuple[Tensor, list[State], State]:
    """The last output, at each cut the state that was consumed, and the last state as the output was made from it."""
    if isinstance(cell, StepAdapter):
        return _run_steps(cell, x, state, cuts)
    input_len = x.shape[1]
    trajectory = unroll(cell, x, state, cuts=cuts, output_steps=[input_len])
    last_projected = select_step(cell.project(x[:, -1:], input_len - 1), 0)
    last = trajectory.final_state
    return cell.output(last_projected, last), list(trajectory.states), last


def _run_steps(cell: StepAdapter, x: Tensor, state: State, cuts: list[int]) -> tuple[Tensor, list[State], State]:
    """The same of a module that makes its output together with its state."""
    earlier, kept = [t for t in cuts if t < x.shape[1]], []
    if x.shape[1] > 1:
        trajectory = unroll(cell, x[:, :-1], state, cuts=earlier, output_steps=[x.shape[1] - 1])
        kept, state = list(trajectory.states), trajectory.final_state
    elif earlier:
        kept = [state]
    output, last = cell.advance(x[:, -1], state)
    apart = tuple(part.view_as(part) if part.requires_grad else _leaf(part) for part in last)
    for part, own in zip(last, apart, strict=True):
        if part is output or (part.shape == output.shape and torch.equal(part, output)):
            return own, [*kept, apart], apart
    return output, [*kept, apart], last


def _direct(losses: Tensor, last: State) -> list[Tensor]:
    """Gradients with respect to each component of the last state, what passes through another one held back."""
    found: list[Tensor] = []
    for part in last:
        others = [other for other in last if other is not part and other.requires_grad]
        handles = [other.register_hook(torch.zeros_like) for other in others]
        own = [part] if part.requires_grad else []
        ends = torch.autograd.grad(losses.sum(), own, retain_graph=True, materialize_grads=True) if own else ()
        found.extend(ends or [torch.zeros_like(part)])
        for handle in handles:
            handle.remove()
    return found


def _check_shapes(cell: Recurrent, state: State) -> None:
    expected = [tuple(shape) for shape in cell.state_shapes.values()]
    if [tuple(part.shape[1:]) for part in state] != expected:
        raise ValueError(
            f"`initial_state` must be of shapes {[('batch', *shape) for shape in expected]} for this "
            f"{type(_subject(cell)).__name__}, got {[tuple(part.shape) for part in state]}"
        )


def _check_conduct(cell: Recurrent, x: Tensor, state: State, loss: Loss, has_surrogate_gradients: bool) -> None:
    input_len = x.shape[1]

    def run(num_steps: int) -> list[Tensor]:
        with same_draws():
            outputs, last = cell.segment(x[:, :num_steps], tuple(map(_leaf, state)))
            return [outputs.detach(), *(part.detach() for part in last)]

    refuse_kept_state(_subject(cell), lambda: run(input_len), lambda: run(max(1, input_len - 1)), run(input_len))
    if has_surrogate_gradients:
        return
    first_step = max(0, input_len - _CHECKED_STEPS)
    start = state if first_step == 0 else tuple(run(first_step)[1:])

    def losses_of(*parts: Tensor) -> Tensor:
        shaped = tuple(part.reshape(own.shape) for part, own in zip(parts, start, strict=True))
        with same_draws():
            outputs, _ = cell.segment(x[:, first_step:], tuple(part.clone() for part in shaped), first_step)
        return loss(outputs[:, -1])

    refuse_untrue_gradient(losses_of, [part.reshape(len(part), 1, -1) for part in start], "states")


def _leaf(part: Tensor) -> Tensor:
    return part.detach().clone().requires_grad_()


def _stack(gradients: Sequence[Tensor]) -> Float[Tensor, "B C S"]:
    return torch.stack([gradient.reshape(len(gradient), -1) for gradient in gradients], dim=1)
