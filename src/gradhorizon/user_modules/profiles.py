r"""Gradient profiles of a user's own modules, without an experiment: two calls that return a table.

Both measure an evaluation-mode copy of the module in float64 and leave the module itself, its gradients, its mode and
the random state as they were. What cannot be measured as what it is, is refused in one line.

Notation: B batch, N steps, D input size, H output size, t in 1 … N counts inputs, lag τ = t* − t.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradhorizon.cells.adapters import as_recurrent
from gradhorizon.measurements.input_gradients import PROFILE, profile_rows, reported_steps
from gradhorizon.measurements.probe import log_spaced_lags
from gradhorizon.measurements.summaries import sample_norms, table_rows
from gradhorizon.user_modules.copies import measured_copy, said_in_one_line, same_draws
from gradhorizon.user_modules.derivatives import refuse_lower_precision, refuse_untrue_gradient
from gradhorizon.user_modules.loss_steps import checked_losses, refuse_other_steps, step_dimensions
from gradhorizon.user_modules.outputs import apart, step_lists, tensors_of
from gradhorizon.user_modules.repetition import refuse_kept_state
from gradhorizon.user_modules.samples import refuse_batch_as_time, refuse_interaction
from gradhorizon.user_modules.sequences import check_inputs, probed_steps, refuse_no_influence
from gradhorizon.user_modules.state_rows import Loss, flat_state, state_rows


def input_gradient_profile(
    module: nn.Module,
    inputs: Tensor,
    loss: Loss,
    *,
    probed_step: int | None = None,
    lengths: Any = None,
    max_lags: int = 1024,
    dtype: torch.dtype = torch.float64,
    has_surrogate_gradients: bool = False,
) -> pd.DataFrame:
    r"""Norm of ∂L_b/∂x_t per lag, summarised over samples, for any module that maps a sequence to anything.

    .. math:: g_b(\tau) = \lVert \partial L_b / \partial x_{b,\,t^*_b - \tau} \rVert_2

    A copy of `module` in evaluation mode is measured, so that dropout is off and batch statistics are frozen. It must
    be a function of its inputs, sample by sample: it is called again, with a second sample and with shorter
    sequences where it takes them, and its gradient is held against differences of the loss, which see an influence
    of more than about 1e-10 of it.

    Args:
        module: maps inputs (B, N, D), batch first, to anything that `loss` understands.
        inputs: shape (B, N, D), floating point.
        loss: maps what `module` returns to one loss per sample, shape (B,): no mean over the batch, whose gradient
            would be 1/B of each sample's. Of outputs at every step it reads those at the probed step alone.
        probed_step: t*, the step whose loss is measured, in 1 … N; the last one if omitted. Lags count back from it.
        lengths: of padded samples, B whole numbers in 1 … N (tensor, list or array): the t* of each, its own last
            step. Summaries at a lag are over the samples that reach it, which ``num_samples`` counts.
        max_lags: all lags are reported for at most so many steps, log-spaced ones beyond.
        dtype: precision of the copy. Gradients vanish in float32 long before they do in float64.
        has_surrogate_gradients: whether the module's gradient is no derivative on purpose (spikes, straight-through
            rounding, a deliberate detach): then it is not held against differences.

    Returns:
        One row per step, latest first: ``t``, ``lag`` (negative after t*), ``lag_from_start``, quantiles over samples
        of ``gradient_norm_`` (loss per input unit) and ``relative_gradient_norm_`` (divided, per sample, by the
        norm at t*; dimensionless), and counts of zero, subnormal and non-finite entries. As the table
        ``input_gradients`` of an experiment, without its column for the training loss. With `lengths`, ``t`` and
        ``lag_from_start`` are those of the longest sample.

    Raises:
        TypeError: `module` is no module, inputs are not floating point, or lengths are no whole numbers.
        ValueError: inputs, a loss, lengths or a step of no use; a module that mixes samples, takes the batch for time,
            keeps a state between calls, leaves `dtype`, or whose gradient is not that of its loss; a loss of several
            steps; a probed step that moves no sample's loss, or not that of some, without `lengths`.

    Warns:
        UserWarning: the probed step does not move the loss of some sample, which has no relative profile.

    Example:
        >>> lstm = torch.nn.LSTM(2, 8, batch_first=True)
        >>> profile = input_gradient_profile(
        ...     lstm, torch.randn(4, 50, 2), loss=lambda outputs: outputs[0][:, -1].square().sum(dim=1)
        ... )
        >>> profile["lag"].tolist()[:3], float(profile["relative_gradient_norm_median"][0])
        ([0, 1, 2], 1.0)
    """
    check_inputs(inputs)
    probed = probed_steps(probed_step, lengths, *inputs.shape[:2])
    if max_lags < 2:  # noqa: PLR2004
        raise ValueError(f"`max_lags` must be at least 2 (both ends of the profile), got {max_lags}")
    with measured_copy(module, inputs, dtype) as measured, said_in_one_line(measured, dtype):
        gradient = _input_gradient(measured, _leaf(inputs.to(dtype)), loss, probed, has_surrogate_gradients)
    unfelt = refuse_no_influence(sample_norms(gradient).numpy(force=True), probed, lengths is not None)
    if unfelt:
        warnings.warn(
            f"the probed steps of samples {unfelt[:8]} do not move their losses: their relative norms are undefined "
            "and left out (num_undefined_relative_norms); pass the right `lengths` if they are padded",
            stacklevel=2,
        )
    return _rows(gradient, probed, max_lags) if lengths is None else _rows_by_own_end(gradient, probed, max_lags)


def _input_gradient(
    module: nn.Module, x: Tensor, loss: Loss, probed: Int[np.ndarray, " B"], has_surrogate_gradients: bool
) -> Tensor:
    def call(inputs: Tensor) -> Any:
        with same_draws():
            return module(inputs.clone())  # which it may overwrite

    def losses_of(inputs: Tensor) -> Tensor:
        return loss(call(inputs))

    outputs = call(x)
    seen = apart(outputs)
    losses = checked_losses(loss(seen), len(x))
    refuse_interaction(losses, [x], module)
    (gradient,) = torch.autograd.grad(losses.sum(), x, retain_graph=True)
    refuse_batch_as_time(call, x, module)
    refuse_lower_precision(losses, tensors_of(outputs), x.dtype)
    shorter = refuse_kept_state(module, lambda: tensors_of(call(x)), _shorter(call, x), tensors_of(outputs))
    read = tensors_of(seen)
    lists = step_lists(seen, x.shape[1])
    if shorter is None or len(tensors_of(outputs)) - len(shorter) != len(lists):  # as many layers as steps, say
        lists = []
    refuse_other_steps(losses, read, step_dimensions(read, shorter, *x.shape[:2]), lists, probed)
    if not has_surrogate_gradients:
        refuse_untrue_gradient(losses_of, [x], "steps")
    return gradient


def _shorter(call: Callable[[Tensor], Any], x: Tensor) -> Callable[[], list[Tensor]]:
    return lambda: tensors_of(call(x[:, : max(1, x.shape[1] - 1)]))


def _rows(gradient: Float[Tensor, "B N D"], probed: Int[np.ndarray, " B"], max_lags: int) -> pd.DataFrame:
    steps = reported_steps(gradient.shape[1], int(probed[0]), max_lags, has_later_steps=True)
    return table_rows(PROFILE, profile_rows(gradient, int(probed[0]), steps))


def _rows_by_own_end(gradient: Float[Tensor, "B N D"], lengths: Int[np.ndarray, " B"], max_lags: int) -> pd.DataFrame:
    """Rows of padded samples, all ending at one step, lag by lag over those that reach it."""
    longest = int(lengths.max())
    own = torch.zeros_like(gradient[:, :longest])
    for sample, length in enumerate(lengths.tolist()):
        own[sample, longest - length :] = gradient[sample, :length]
    steps = np.array(reported_steps(longest, longest, max_lags, has_later_steps=False))
    num_reaching = (lengths[:, None] > longest - steps).sum(axis=0)
    frames = []
    for number in sorted(set(num_reaching.tolist()), reverse=True):
        block = steps[num_reaching == number]
        reaches = torch.from_numpy(lengths > longest - block[0]).to(gradient.device)
        frames.append(table_rows(PROFILE, profile_rows(own[reaches], longest, block.tolist())))
    return pd.concat(frames, ignore_index=True)


def state_gradient_profile(
    cell: nn.Module,
    inputs: Tensor,
    loss: Loss,
    *,
    cuts: Sequence[int] | None = None,
    initial_state: Any = None,
    lengths: Any = None,
    dtype: torch.dtype = torch.float64,
    has_surrogate_gradients: bool = False,
) -> pd.DataFrame:
    r"""Norm of ∂L_b/∂s_t per lag for a recurrent cell, with respect to the states that the recurrence consumed.

    The cell is run over `inputs` one segment at a time and the loss is felt through its last output alone: t* = N.
    It is checked as the module of `input_gradient_profile` is.

    Args:
        cell: a gradhorizon `Recurrent` cell, ``torch.nn.RNNCell``, ``LSTMCell`` or ``GRUCell``, ``torch.nn.RNN``,
            ``LSTM`` or ``GRU`` of one layer and one direction, or any module called as ``cell(x_t, state)`` that
            returns the next state, whose first tensor is its output, or the pair (output, next state).
        inputs: shape (B, N, D), batch first also where the module's ``batch_first`` is False.
        loss: maps the last output, shape (B, H), to one loss per sample, shape (B,).
        cuts: t in 0 … N at which the state gradient is read; N and 32 log-spaced lags if omitted.
        initial_state: s_0, one tensor (B, …) or a tuple, list or dict of them, nested as the cell takes it; zeros if
            omitted, but required for a module of your own.
        lengths: of padded samples, as in `input_gradient_profile`: the last output of each is that at its own end, and
            ``t`` and `cuts` are those of the longest.
        dtype: precision of the copy.
        has_surrogate_gradients: as in `input_gradient_profile`.

    Returns:
        Rows as in the table ``state_gradients`` of an experiment: one per ``part`` (through_time, direct, total),
        ``component`` (``h``, ``c``, …, and ``all`` for the whole state) and cut, with ``t``, ``lag``, quantiles over
        samples of ``gradient_norm_`` (loss per state unit) and ``relative_gradient_norm_`` (divided, per sample, by the
        norm of the whole state's gradient at t*; dimensionless), and counts.

    Raises:
        TypeError: a module that is no recurrent cell, or inputs that are not floating point.
        ValueError: inputs of another shape or not finite, several layers or directions, a loss that is not one number
            per sample, samples that interact, a state written in place, kept between calls, detached or of lower
            precision, or cuts outside the sequence.

    Example:
        >>> profile = state_gradient_profile(
        ...     torch.nn.GRUCell(2, 8), torch.randn(4, 50, 2), loss=lambda h: h.square().sum(dim=1), cuts=[0, 25, 50]
        ... )
        >>> profile.query("part == 'total' and component == 'all'")["lag"].tolist()
        [50, 25, 0]
    """
    check_inputs(inputs)
    ends = probed_steps(None, lengths, *inputs.shape[:2])
    longest = int(ends.max())
    if cuts is None:
        cuts = [longest - lag for lag in log_spaced_lags(longest, 32)]
    if not all(0 <= t <= longest for t in cuts):
        raise ValueError(f"`cuts` must lie in 0 … {longest}, got {min(cuts)} … {max(cuts)}")
    # t* is always kept: its total gradient is what every other one is divided by.
    lags = [longest - t for t in sorted({*cuts, longest})]
    state = None if initial_state is None else flat_state(initial_state, inputs, dtype)
    with measured_copy(cell, inputs, dtype) as measured:
        recurrent = as_recurrent(measured, inputs.shape[2], initial_state)
        with said_in_one_line(measured, dtype):
            state = recurrent.initial_state(inputs.shape[0]) if state is None else state
            x = _leaf(inputs.to(dtype))
            rows = state_rows(recurrent, x, state, loss, lags, ends, has_surrogate_gradients)
    return rows[rows["t"].isin(list(cuts))].reset_index(drop=True)


def _leaf(tensor: Tensor) -> Tensor:
    # Contiguous memory of its own, whatever the caller expanded, transposed or made in inference mode.
    return tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
