r"""Precision: from which lag on the number format alone, and no optimiser, has lost the gradient.

.. math:: \text{lost}_b(\tau) \iff \max_e \left| \frac{\partial L_b(t^*)}{\partial x_{b,\,t^*-\tau,\,e}} \right|
    < \text{smallest normal number}

The network is run again in each format, forward and backward, and held against float64.

Notation: B batch, L lags, E encoder features, τ = t* − t, g gradient in a format, g₆₄ in float64, s loss scale.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.probe import Probe, log_spaced_lags
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.measurements.summaries import entry_counts, log_quantiles, sample_norms, table_rows
from gradhorizon.records.tables import Column, Table

log = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Formats that are measured, the reference first."""

_ENTRIES = "of the gradient's entries (over samples and features) that are"
_FIRST_LAG = "first lag from which on, up to the longest, at least half of the samples have nothing but"
_CENSORED = "the lag lies beyond the longest one, t* − 1, which stands in its place"


class Precision(ProbeMeasurement):
    r"""Zero, subnormal and non-finite entries of ∂L(t*)/∂x_t in four formats, and the lag from which on all are lost.

    Network, inputs, loss and gradient are all in the format (no autocast, no float32 accumulators but those of the
    kernels), as they run on the network's device: `segment` in its fused form, whose products may flush subnormal
    numbers to zero where single operations keep them. Lost is therefore what is zero *or* subnormal: that lag is one of
    the format, the lag of exact zeros is one of the format and the kernel. A format in which the device cannot run the
    network has rows without values; no other program is run in its place.

    A loss scale s multiplies the gradient before it flows back, as mixed-precision training does; rows are of s · g.
    In float16 a scale above 65504 is itself infinite.

    Args:
        schedule: when it fires.
        num_lags: about how many lags are reported, log-spaced; the lags of underflow are exact whatever they are.
        loss_scales: s, one set of rows each; 1 for the loss as it is.

    Raises:
        ValueError: `num_lags` below 2; no loss scale, or one that is not positive and finite, or given twice.

    Source: formats and loss scaling of Micikevicius et al. (2018), §3.2, https://arxiv.org/abs/1710.03740. Deviation:
        their loss and master weights stay in float32.
    """

    table: ClassVar[Table] = Table(
        "precision",
        "what float32, bfloat16 and float16 make of the input gradient of the loss at t*, against float64",
        (
            Column("dtype", "string", "name", "float64 (the reference), float32, bfloat16 or float16"),
            Column("loss_scale", "float64", "dimensionless", "factor s on the loss; norms and entries include it"),
            Column("lag", "int64", "steps", "t* − t"),
            Column("is_supported", "bool", "true or false", "whether the device can run the network in the format"),
            Column("fraction_zero", "float64", "dimensionless", f"fraction {_ENTRIES} exactly 0"),
            Column(
                "fraction_subnormal",
                "float64",
                "dimensionless",
                f"fraction {_ENTRIES} not 0 and below the smallest normal number of the format",
            ),
            Column("fraction_non_finite", "float64", "dimensionless", f"fraction {_ENTRIES} infinite or NaN"),
            Column(
                "largest_entry_median",
                "float64",
                "loss per input unit",
                "median over samples, in log space, of the largest absolute entry",
            ),
            Column(
                "relative_error_median",
                "float64",
                "dimensionless",
                "median over samples, in log space, of ‖g − g₆₄‖ / ‖g₆₄‖; 1 where g is lost and g₆₄ is not",
            ),
            Column(
                "num_undefined_errors",
                "int64",
                "samples",
                "samples left out of that median: g not finite, or g₆₄ 0 or not finite",
            ),
            Column(
                "underflow_lag_steps",
                "float64",
                "steps",
                f"{_FIRST_LAG} zero or subnormal entries; one value per format and loss scale",
            ),
            Column("is_underflow_censored", "bool", "true or false", f"of underflow_lag_steps: {_CENSORED}"),
            Column(
                "zero_lag_steps",
                "float64",
                "steps",
                f"{_FIRST_LAG} exact zeros; one value per format and loss scale",
            ),
            Column("is_zero_censored", "bool", "true or false", f"of zero_lag_steps: {_CENSORED}"),
            Column("num_samples", "int64", "samples", "samples measured; 0 where the format is not supported"),
        ),
    )

    def __init__(self, schedule: Schedule, num_lags: int = 64, loss_scales: Sequence[float] = (1.0,)) -> None:
        super().__init__(schedule)
        refuse_below("num_lags", num_lags, 2, "both ends of the profile")
        scales = [float(scale) for scale in loss_scales]
        if not scales or len(set(scales)) < len(scales) or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"`loss_scales` must be positive and finite, each named once, got {scales}")
        self.num_lags = num_lags
        self.loss_scales = scales

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per format, loss scale and reported lag, float64 first, shortest lags first."""
        lags = log_spaced_lags(probe.probed_step - 1, self.num_lags)
        references = _gradients(probe, self.loss_scales)
        frames = []
        for name, dtype in DTYPES.items():
            found = references if dtype == torch.float64 else _gradients_in(probe, dtype, self.loss_scales)
            for number, scale in enumerate(self.loss_scales):
                values = _NOTHING if found is None else _summaries(found[number], references[number], lags)
                lead = {"dtype": name, "loss_scale": scale, "lag": lags, "is_supported": found is not None}
                frames.append(table_rows(self.table, {**lead, **values}))
        return pd.concat(frames, ignore_index=True)


_INTEGERS = ("num_undefined_errors", "num_samples")
_FLAGS = ("is_underflow_censored", "is_zero_censored")
_NOTHING: dict[str, Any] = {
    **{column.name: math.nan for column in Precision.table.columns[4:]},
    **dict.fromkeys(_INTEGERS, 0),
    **dict.fromkeys(_FLAGS, False),
}


def _gradients_in(probe: Probe, dtype: torch.dtype, scales: Sequence[float]) -> list[Tensor] | None:
    try:
        return _gradients(Probe(probe.network, probe.task, probe.batch, num_cuts=2, dtype=dtype), scales)
    except RuntimeError as error:
        # The same program has just run in float64: what fails now is the format's.
        log.warning("precision: not measured in %s, which this device cannot run: %s", dtype, error)
        return None


def _gradients(probe: Probe, scales: Sequence[float]) -> list[Float[Tensor, "B L E"]]:
    """Input gradient of each loss scale, latest step first, so that the index is the lag; steps after t* left out."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        objective, encoded = probe.losses[:, -1].sum(), probe.trace.encoded
        starts = [torch.tensor(scale, dtype=torch.float64).to(objective) for scale in scales]
        found = [
            torch.autograd.grad(objective, encoded, start, retain_graph=True, materialize_grads=True)[0]
            for start in starts
        ]
    return [gradient[:, : probe.probed_step].flip(1) for gradient in found]


def _summaries(
    gradient: Float[Tensor, "B L E"], reference: Float[Tensor, "B L E"], lags: list[int]
) -> dict[str, np.ndarray | float | bool | int]:
    size = gradient.abs()
    underflow_lag, is_underflow_censored = first_lost_lag((size < torch.finfo(size.dtype).tiny).all(dim=-1))
    zero_lag, is_zero_censored = first_lost_lag((size == 0).all(dim=-1))
    counts = entry_counts(gradient[:, lags])
    largest = size[:, lags].amax(dim=-1).to(torch.float64).numpy(force=True)
    errors = _relative_errors(gradient[:, lags], reference[:, lags])
    return {
        **{f"fraction_{kind}": counts[f"num_{kind}_entries"] / counts["num_entries"] for kind in _KINDS},
        "largest_entry_median": log_quantiles(largest, [0.5])[0],
        "relative_error_median": log_quantiles(errors, [0.5])[0],
        "num_undefined_errors": (~np.isfinite(errors)).sum(axis=0),
        "underflow_lag_steps": underflow_lag,
        "is_underflow_censored": is_underflow_censored,
        "zero_lag_steps": zero_lag,
        "is_zero_censored": is_zero_censored,
        "num_samples": len(gradient),
    }


_KINDS = ("zero", "subnormal", "non_finite")


def _relative_errors(gradient: Float[Tensor, "B L E"], reference: Float[Tensor, "B L E"]) -> Float[np.ndarray, "B L"]:
    size = sample_norms(reference).numpy(force=True)
    error = sample_norms(gradient.to(torch.float64) - reference).numpy(force=True)
    with np.errstate(all="ignore"):
        return np.where(np.isfinite(size), error / size, np.nan)


def first_lost_lag(is_lost: Bool[Tensor, "B L"]) -> tuple[float, bool]:
    """First lag in steps from which on at least half of the samples stay lost, and whether it is right-censored.

    If it is, no such lag exists and the longest one is returned.

    Args:
        is_lost: per sample and lag 0, 1, …, L − 1, shape (B, L).

    Example:
        >>> first_lost_lag(torch.tensor([[False, True, False, True], [False, False, True, True]]))
        (2.0, False)
    """
    stays_lost = np.logical_and.accumulate(is_lost.numpy(force=True)[:, ::-1], axis=1)[:, ::-1]
    at_lag = (2 * stays_lost.sum(axis=0) >= len(is_lost)).tolist()
    return (float(at_lag.index(True)), False) if any(at_lag) else (float(len(at_lag) - 1), True)
