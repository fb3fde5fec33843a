r"""Gradient profiles of a user's own modules, without an experiment: two calls that return a table.

Both measure an evaluation-mode copy of the module in float64 and leave the module itself, its gradients, its mode and
the random state as they were.

Notation: B batch, N steps, D input size, H output size, t in 1 … N counts inputs, lag τ = t* − t.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradhorizon.adapters import as_recurrent
from gradhorizon.cells.cell import Recurrent, State, select_step
from gradhorizon.measurements.input_gradients import PROFILE, profile_rows, reported_steps
from gradhorizon.measurements.probe import log_spaced_lags
from gradhorizon.measurements.state_gradients import state_gradient_rows
from gradhorizon.measurements.summaries import table_rows
from gradhorizon.unroll import unroll

Loss = Callable[[Any], Tensor]


def input_gradient_profile(
    module: nn.Module,
    inputs: Tensor,
    loss: Loss,
    *,
    probed_step: int | None = None,
    max_lags: int = 1024,
    dtype: torch.dtype = torch.float64,
) -> pd.DataFrame:
    r"""Norm of ∂L_b/∂x_t per lag, summarised over samples, for any module that maps a sequence to anything.

    .. math:: g_b(\tau) = \lVert \partial L_b / \partial x_{b,\,t^* - \tau} \rVert_2

    A copy of `module` in evaluation mode is measured, so that dropout is off and batch statistics are frozen: samples
    must not interact, and it is refused if they do.

    Args:
        module: maps inputs (B, N, D), batch first, to anything that `loss` understands.
        inputs: shape (B, N, D), floating point.
        loss: maps what `module` returns to one loss per sample, shape (B,): no mean over the batch, whose gradient
            would be 1/B of each sample's. For a horizon it reads the outputs at `probed_step` alone.
        probed_step: t*, the step whose loss is measured, in 1 … N; the last one if omitted. Lags count back from it.
        max_lags: all lags are reported for at most so many steps, log-spaced ones beyond.
        dtype: precision of the copy. Gradients vanish in float32 long before they do in float64.

    Returns:
        One row per step, latest first: ``t``, ``lag`` (negative after t*), ``lag_from_start``, quantiles over samples
        of ``gradient_norm_`` (loss per input unit) and ``relative_gradient_norm_`` (divided, per sample, by the
        norm at t*; dimensionless), and counts of zero, subnormal and non-finite entries. As the table
        ``input_gradients`` of an experiment, without its column for the training loss.

    Raises:
        TypeError: `module` is no module, or inputs are not floating point.
        ValueError: inputs of another shape or not finite, a loss that is not one number per sample or does not
            depend on the inputs, samples that interact, or a step outside the sequence.

    Example:
        >>> lstm = torch.nn.LSTM(2, 8, batch_first=True)
        >>> profile = input_gradient_profile(
        ...     lstm, torch.randn(4, 50, 2), loss=lambda outputs: outputs[0][:, -1].square().sum(dim=1)
        ... )
        >>> profile["lag"].tolist()[:3], float(profile["relative_gradient_norm_median"][0])
        ([0, 1, 2], 1.0)
    """
    _check_inputs(inputs)
    input_len = inputs.shape[1]
    probed_step = input_len if probed_step is None else probed_step
    if not 1 <= probed_step <= input_len:
        raise ValueError(f"`probed_step` must lie in 1 … {input_len} (the steps of `inputs`), got {probed_step}")
    steps = reported_steps(input_len, probed_step, max_lags, has_later_steps=True)
    with _measured_copy(module, inputs, dtype) as measured:
        x = inputs.detach().to(dtype).requires_grad_()
        losses = _checked_losses(loss(measured(x)), len(inputs))
        _refuse_interaction(losses, [x])
        (gradient,) = torch.autograd.grad(losses.sum(), x)
    return table_rows(PROFILE, profile_rows(gradient, probed_step, steps))


def state_gradient_profile(
    cell: nn.Module,
    inputs: Tensor,
    loss: Loss,
    *,
    cuts: Sequence[int] | None = None,
    initial_state: Tensor | State | None = None,
    dtype: torch.dtype = torch.float64,
) -> pd.DataFrame:
    r"""Norm of ∂L_b/∂s_t per lag for a recurrent cell, with respect to the states that the recurrence consumed.

    The cell is run over `inputs` one segment at a time and the loss is felt through its last output alone: t* = N.

    Args:
        cell: a gradhorizon `Recurrent` cell, ``torch.nn.RNNCell``, ``LSTMCell`` or ``GRUCell``, ``torch.nn.RNN``,
            ``LSTM`` or ``GRU`` of one layer and one direction, or any module called as ``cell(x_t, state)`` that
            returns the next state, a tensor or a tuple of tensors, whose first one is its output.
        inputs: shape (B, N, D), batch first also where the module's ``batch_first`` is False.
        loss: maps the last output, shape (B, H), to one loss per sample, shape (B,).
        cuts: t in 0 … N at which the state gradient is read; N and 32 log-spaced lags if omitted.
        initial_state: s_0, one tensor (B, …) per component; zeros if omitted, but required for a module of your own.
        dtype: precision of the copy.

    Returns:
        Rows as in the table ``state_gradients`` of an experiment: one per ``part`` (through_time, direct, total),
        ``component`` (``h``, ``c``, …, and ``all`` for the whole state) and cut, with ``t``, ``lag``, quantiles over
        samples of ``gradient_norm_`` (loss per state unit) and ``relative_gradient_norm_`` (divided, per sample, by the
        norm of the whole state's gradient at t*; dimensionless), and counts.

    Raises:
        TypeError: a module that is no recurrent cell, or inputs that are not floating point.
        ValueError: inputs of another shape or not finite, several layers or directions, a loss that is not one number
            per sample, samples that interact, or cuts outside the sequence.

    Example:
        >>> profile = state_gradient_profile(
        ...     torch.nn.GRUCell(2, 8), torch.randn(4, 50, 2), loss=lambda h: h.square().sum(dim=1), cuts=[0, 25, 50]
        ... )
        >>> profile.query("part == 'total' and component == 'all'")["lag"].tolist()
        [50, 25, 0]
    """
    _check_inputs(inputs)
    input_len = inputs.shape[1]
    if cuts is None:
        cuts = [input_len - lag for lag in log_spaced_lags(input_len, 32)]
    state = None if initial_state is None else _checked_state(initial_state, inputs.shape[0], dtype)
    with _measured_copy(cell, inputs, dtype) as measured:
        recurrent = as_recurrent(measured, inputs.shape[2], initial_state)
        state = recurrent.initial_state(inputs.shape[0]) if state is None else state
        # t* is always kept: its total gradient is what every other one is divided by.
        rows = _state_rows(recurrent, inputs.detach().to(dtype), state, loss, sorted({*cuts, input_len}))
    return rows[rows["t"].isin(list(cuts))].reset_index(drop=True)


def _state_rows(cell: Recurrent, x: Tensor, state: State, loss: Loss, cuts: list[int]) -> pd.DataFrame:
    input_len = x.shape[1]
    trajectory = unroll(cell, x, tuple(map(_leaf, state)), cuts=cuts, output_steps=[input_len])
    last_projected = select_step(cell.project(x[:, -1:], input_len - 1), 0)
    losses = _checked_losses(loss(cell.output(last_projected, trajectory.final_state)), len(x))
    parts = list(chain.from_iterable(trajectory.states))
    _refuse_interaction(losses, parts)
    found = torch.autograd.grad(losses.sum(), parts, materialize_grads=True)
    by_component = [_stack(found[index :: len(state)]) for index in range(len(state))]
    is_probed = torch.tensor([t == input_len for t in cuts], device=x.device)[:, None]
    return state_gradient_rows(
        list(cell.state_shapes),
        cuts,
        [input_len - t for t in cuts],
        # Only the output consumed the state at t*, and nothing but the recurrence the earlier ones.
        [gradient.masked_fill(is_probed, 0.0) for gradient in by_component],
        [gradient.masked_fill(~is_probed, 0.0) for gradient in by_component],
    )


def _leaf(part: Tensor) -> Tensor:
    return part.detach().clone().requires_grad_()


def _stack(gradients: Sequence[Tensor]) -> Float[Tensor, "B C S"]:
    return torch.stack([gradient.reshape(len(gradient), -1) for gradient in gradients], dim=1)


def _checked_state(state: Tensor | State, batch_size: int, dtype: torch.dtype) -> State:
    parts = (state,) if isinstance(state, Tensor) else tuple(state)
    for part in parts:
        if part.ndim < 2 or len(part) != batch_size:  # noqa: PLR2004
            raise ValueError(
                f"`initial_state` must be tensors of shape ({batch_size}, features), got {tuple(part.shape)}"
            )
    return tuple(part.detach().to(dtype) for part in parts)


@contextmanager
def _measured_copy(module: Any, inputs: Tensor, dtype: torch.dtype) -> Iterator[nn.Module]:
    if not isinstance(module, nn.Module):
        raise TypeError(f"a torch.nn.Module is measured, got {type(module).__name__}; wrap a function in a module")
    try:
        measured = copy.deepcopy(module).to(dtype).eval()
    except RuntimeError as error:
        raise ValueError(
            f"a copy of the module is measured, and {type(module).__name__} cannot be copied ({error}); drop what an "
            "earlier forward pass stored on it, or pass a freshly built module"
        ) from error
    cuda = [inputs.device] if inputs.device.type == "cuda" else []
    # cuDNN refuses a backward pass in evaluation mode; the native kernels do not.
    with torch.random.fork_rng(devices=cuda), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield measured


def _check_inputs(inputs: Tensor) -> None:
    if inputs.ndim != 3:  # noqa: PLR2004
        raise ValueError(f"`inputs` must have shape (batch, steps, features), got {tuple(inputs.shape)}")
    if 0 in inputs.shape:
        raise ValueError(f"`inputs` must hold at least one sample, step and feature, got shape {tuple(inputs.shape)}")
    if not inputs.is_floating_point():
        raise TypeError(f"`inputs` must be floating point to have gradients, got {inputs.dtype}; embed or one-hot them")
    if not inputs.isfinite().all():
        raise ValueError(f"`inputs` must be finite, got {int((~inputs.isfinite()).sum())} infinite or NaN entries")


def _checked_losses(losses: Any, batch_size: int) -> Tensor:
    if not isinstance(losses, Tensor) or losses.shape != (batch_size,):
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"`loss` must return one number per sample, shape ({batch_size},), got {got}. A mean over the batch would "
            "divide every gradient by its size: use reduction='none' and reduce over all dimensions but the first"
        )
    if not losses.requires_grad:
        raise ValueError(
            "`loss` must depend on the inputs, got a tensor without gradient; look for a detach or no_grad"
        )
    return losses


def _refuse_interaction(losses: Tensor, tensors: Sequence[Tensor]) -> None:
    # The last one: a module that takes the batch for time lets later samples see earlier ones, not the reverse.
    found = torch.autograd.grad(losses[-1], tensors, retain_graph=True, allow_unused=True)
    of_others = [gradient[:-1] for gradient in found if gradient is not None]
    if not of_others:
        raise ValueError("`loss` must depend on the inputs, got one that does not; check which output it reads")
    # Where parameters are NaN, 0 · NaN reaches every sample: that is counted, not refused.
    if any(bool((gradient.isfinite() & (gradient != 0)).any()) for gradient in of_others):
        raise ValueError(
            "samples must not interact, got a loss of the last sample that depends on others. A module without "
            "batch_first=True takes the batch for time; norms over the batch mix samples too"
        )
