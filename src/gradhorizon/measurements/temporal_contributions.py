r"""Temporal contributions: how much of a layer's parameter gradient comes from uses of the parameters long ago.

.. math::
    g = \frac{\partial}{\partial \theta} \frac{1}{B} \sum_b L_b(t^*) = \sum_{\tau} g_\tau, \qquad
    g_{\le D} = \sum_{\tau \le D} g_\tau, \qquad
    \text{effective horizon} = \min \{D : \lVert g_{\le D'} - g \rVert \le 0.1 \lVert g \rVert \ \forall D' \ge D\}

g_τ is the share of the parameters as they were used at the one step t with lag τ. These are gradients of the batch
mean, the ones that train: samples cancel in them, and so do shares, which is why no share's norm bounds the others'.

Notation: B batch, K output steps, D lag, P parameters of one cell; t in the cell's own time, τ = read step − t.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.kernels.casting import real_numbers
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.probe import Probe, log_spaced_lags
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.measurements.summaries import LAYER_COLUMNS, entry_counts, sample_norms, stacked_rows, table_rows
from gradhorizon.network import LayerTrace
from gradhorizon.records.tables import Column, Table

EFFECTIVE_HORIZON_ERROR = 0.1
"""Relative error ‖g_{≤D} − g‖ / ‖g‖ that a gradient truncated at the effective horizon may have; dimensionless."""

_SAFE_NORM = 1e-120
_COUNTED = "entries of the bin's share that are"


class TemporalContributions(ProbeMeasurement):
    r"""Share of each lag bin in the batch-mean gradient of a cell's parameters, and where truncation stops to matter.

    The share of a lag is that of the parameters' use *at that step of that layer*: through its later states, and
    through all that lies above it. What reaches the layer's outputs comes from the probe; what the layer does in its
    turn to layers below is theirs. Shares sum to the gradient that training would see, and are exact for any cell.

    Steps after the read step have a negative lag. Where one of their outputs is felt (below the top of a bidirectional
    network, or under attention over the whole sequence) they form one bin, which every g_{≤D} contains; elsewhere their
    share is structurally 0 and has no row. A trained initial state belongs to the longest lag.

    Args:
        schedule: when it fires.
        num_bins: how many lag bins, log-spaced, before rounding merges neighbours; lags 0 and 1 have bins of their own.

    Raises:
        ValueError: `num_bins` below 2.

    Source: sum over the steps at which the parameters act, Pascanu, Mikolov & Bengio (2013), §2,
        https://arxiv.org/abs/1211.5063; there one sample's, here the batch mean's.
    """

    table: ClassVar[Table] = Table(
        "temporal_contributions",
        "share of each lag bin in the batch-mean gradient of the loss at t* for the parameters of one layer",
        (
            *LAYER_COLUMNS,
            Column("lag_from", "int64", "steps", "shortest lag of the bin; negative after the direction's read step"),
            Column("lag_to", "int64", "steps", "longest lag of the bin, itself included"),
            Column("share_norm", "float64", "loss per parameter unit", "norm of the bin's share of the gradient g"),
            Column("share_of_norm", "float64", "dimensionless", "share_norm / ‖g‖; shares may cancel and exceed 1"),
            Column("cumulative_cosine", "float64", "dimensionless", "cosine between g and all shares up to lag_to"),
            Column("cumulative_norm_ratio", "float64", "dimensionless", "norm of all shares up to lag_to, over ‖g‖"),
            Column(
                "cumulative_relative_error", "float64", "dimensionless", "norm of all shares beyond lag_to over ‖g‖"
            ),
            Column(
                "effective_horizon_steps",
                "float64",
                "steps",
                "smallest non-negative lag_to from which on cumulative_relative_error stays within "
                f"{EFFECTIVE_HORIZON_ERROR}; one value per layer and direction, NaN if ‖g‖ is 0 or not finite",
            ),
            Column("num_entries", "int64", "entries", "parameters of the layer and direction that are trained"),
            Column("num_zero_entries", "int64", "entries", f"{_COUNTED} exactly 0"),
            Column(
                "num_subnormal_entries", "int64", "entries", f"{_COUNTED} not 0 and below the smallest normal number"
            ),
            Column("num_non_finite_entries", "int64", "entries", f"{_COUNTED} infinite or NaN"),
        ),
    )

    def __init__(self, schedule: Schedule, num_bins: int = 32) -> None:
        super().__init__(schedule)
        refuse_below("num_bins", num_bins, 2, "both ends of the lags")
        self.num_bins = num_bins

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction and lag bin, shortest lags first; no rows for cells without parameters."""
        frames = []
        for trace, cotangent in zip(probe.trace.layers, _output_gradients(probe), strict=True):
            bins = lag_bins(trace, cotangent, self.num_bins)
            shares = lag_shares(trace, cotangent, bins)
            if shares[0].numel() > 0:
                lead = {"layer": trace.layer, "direction": trace.direction}
                with np.errstate(over="ignore"):
                    frames.append(table_rows(self.table, {**lead, **_summaries(bins, shares)}))
        return stacked_rows(self.table, frames)


def lag_bins(trace: LayerTrace, cotangent: Float[Tensor, "B K H"], num_bins: int) -> list[tuple[int, int]]:
    """Shortest and longest lag of each bin, ascending; together they cover every step that the loss can feel.

    Args:
        trace: one direction of one layer.
        cotangent: gradient of the objective with respect to its outputs, shape (B, K, H).
        num_bins: see `TemporalContributions`.
    """
    longest = log_spaced_lags(trace.read_step - 1, num_bins)
    bins = [(shorter + 1, lag) for shorter, lag in pairwise([-1, *longest])]
    num_read = bisect_right(trace.trajectory.output_steps, trace.read_step)
    later = (cotangent[:, num_read:] != 0).flatten(2).any(dim=2).any(dim=0).tolist()
    felt = [step for step, is_felt in zip(trace.trajectory.output_steps[num_read:], later, strict=True) if is_felt]
    return [(trace.read_step - felt[-1], -1), *bins] if felt else bins


def lag_shares(
    trace: LayerTrace, cotangent: Float[Tensor, "B K H"], bins: Sequence[tuple[int, int]]
) -> list[Float[Tensor, " P"]]:
    """Each bin's share of the gradient of all trained parameters of the cell, one vector (P,) per bin.

    The parameters of each bin are tensors of their own over the same memory, so that one backward pass tells the
    shares apart.

    Args:
        trace: one direction of one layer.
        cotangent: gradient of the objective with respect to its outputs, shape (B, K, H).
        bins: shortest and longest lag of each, ascending and adjacent.

    Returns:
        In the order of `bins`; loss per parameter unit. Parameters lie in the order of ``cell.parameters()``,
        complex ones as pairs.
    """
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        # A fused kernel remembers the weights of its last call: those of the probe's own cell must stay its own.
        cell = _Segment(copy.deepcopy(trace.cell))
        trained = {name: parameter for name, parameter in cell.named_parameters() if parameter.requires_grad}
        aliases = [{name: own.detach().requires_grad_() for name, own in trained.items()} for _ in bins]
        felt = list(_felt_outputs(cell, trace, cotangent, bins, aliases))
        gradients = _gradients(felt, [alias for of_bin in aliases for alias in of_bin.values()])
    per_bin = [gradients[start : start + len(trained)] for start in range(0, len(gradients), len(trained) or 1)]
    return [torch.cat([real_numbers(part).flatten() for part in parts]) for parts in per_bin] or [
        cotangent.new_zeros(0)
    ]


class _Segment(nn.Module):
    """A cell's `segment` as a module, the form in which its parameters can be exchanged."""

    def __init__(self, cell: Recurrent) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: State | None, first_step: int) -> tuple[Tensor, State]:
        return self.cell.segment(x, self.cell.initial_state(x.shape[0]) if state is None else state, first_step)


def _felt_outputs(
    cell: _Segment,
    trace: LayerTrace,
    cotangent: Tensor,
    bins: Sequence[tuple[int, int]],
    aliases: Sequence[dict[str, Tensor]],
) -> Iterator[tuple[Tensor, Tensor]]:
    steps, inputs = trace.trajectory.output_steps, trace.inputs.detach()
    state = None
    for (lag_from, lag_to), own in zip(reversed(bins), reversed(aliases), strict=True):
        start, end = trace.read_step - lag_to - 1, trace.read_step - lag_from
        outputs, state = torch.func.functional_call(cell, own, (inputs[:, start:end], state, start))
        first, last = bisect_right(steps, start), bisect_right(steps, end)
        if first < last:
            yield outputs[:, [t - start - 1 for t in steps[first:last]]], cotangent[:, first:last]


def _gradients(felt: Sequence[tuple[Tensor, Tensor]], wanted: Sequence[Tensor]) -> Sequence[Tensor]:
    differentiable = [(output, cotangent) for output, cotangent in felt if output.requires_grad]
    if not differentiable or not wanted:
        return [torch.zeros_like(alias) for alias in wanted]
    outputs, cotangents = zip(*differentiable, strict=True)
    return torch.autograd.grad(outputs, wanted, cotangents, materialize_grads=True)


def _output_gradients(probe: Probe) -> Sequence[Tensor]:
    outputs = [trace.trajectory.outputs for trace in probe.trace.layers]
    with torch.inference_mode(mode=False), torch.enable_grad():
        objective = probe.losses[:, -1].mean()
        # Other measurements read the same graph.
        return torch.autograd.grad(objective, outputs, retain_graph=True, materialize_grads=True) if outputs else ()


def _summaries(bins: Sequence[tuple[int, int]], shares: Sequence[Tensor]) -> dict[str, Any]:
    heads = list(accumulate(shares))
    norm = _norm(heads[-1])
    beyond = [_norm(tail) for tail in accumulate(reversed(shares))][-2::-1]
    is_defined = np.isfinite(norm) and norm > 0
    errors = np.array([*beyond, 0.0]) / norm if is_defined else np.full(len(bins), np.nan)
    share_norms = np.array([_norm(share) for share in shares])
    unit_total = heads[-1] / norm  # the product of two vanished vectors would underflow
    up_to = np.array([_norm_and_cosine(head, unit_total) for head in heads])
    counts = [entry_counts(share[None, None]) for share in shares]
    return {
        "lag_from": [lag_from for lag_from, _ in bins],
        "lag_to": [lag_to for _, lag_to in bins],
        "share_norm": share_norms,
        "share_of_norm": share_norms / norm if is_defined else np.nan,
        "cumulative_cosine": up_to[:, 1] if is_defined else np.nan,
        "cumulative_norm_ratio": up_to[:, 0] / norm if is_defined else np.nan,
        "cumulative_relative_error": errors,
        "effective_horizon_steps": _effective_horizon([lag_to for _, lag_to in bins], errors) if is_defined else np.nan,
        **{name: np.concatenate([count[name] for count in counts]) for name in counts[0]},
    }


def _norm(vector: Tensor) -> float:
    norm = torch.linalg.vector_norm(vector, dtype=torch.float64).item()
    # Only where squares may have vanished or overflowed is the slower, scaled norm needed.
    return norm if _SAFE_NORM < norm < 1 / _SAFE_NORM else sample_norms(vector[None, None]).item()


def _norm_and_cosine(head: Tensor, unit_total: Tensor) -> tuple[float, float]:
    norm = _norm(head)
    return norm, torch.dot(head, unit_total).item() / norm if norm > 0 else np.nan


def _effective_horizon(longest_lags: Sequence[int], errors: np.ndarray) -> int:
    pairs = [(lag, error) for lag, error in zip(longest_lags, errors, strict=True) if lag >= 0]
    is_beyond = [error > EFFECTIVE_HORIZON_ERROR for _, error in pairs]
    return next(
        (pairs[index + 1][0] for index in reversed(range(len(pairs))) if is_beyond[index]),
        pairs[0][0],
    )
