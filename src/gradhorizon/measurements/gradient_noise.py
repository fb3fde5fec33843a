r"""Gradient noise scale: how far the gradients of single samples scatter about their mean.

.. math::
    \mathcal{B}_{\text{simple}} = \frac{\operatorname{tr} \Sigma}{|G|^2}, \qquad
    \widehat{\operatorname{tr} \Sigma} = \frac{1}{B - 1} \sum_b |g_b - \bar g|^2, \qquad
    \widehat{|G|^2} = |\bar g|^2 - \frac{1}{B} \widehat{\operatorname{tr} \Sigma}

A batch much smaller than B_simple has a gradient that is mostly noise, a much larger one adds little.

Notation: g_b the gradient of L_b(t*), ḡ its mean over B samples, G and Σ its expectation and covariance over the task,
P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from gradhorizon.kernels.casting import real_numbers
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.parameter_gradients import TOTAL
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.summaries import table_rows
from gradhorizon.records.tables import Column, Table

_SQUARED = "(loss per parameter unit)²"


class GradientNoise(ProbeMeasurement):
    r"""Simple noise scale of the probe objective's parameter gradient, per tensor and in total.

    Each sample's gradient is exact, for any network: one forward and one backward pass of its own. The estimates of
    |G|² and tr Σ are unbiased; their ratio is not, and over seeds or steps their means should be divided, not the
    ratios averaged. Where no mean gradient stands out of the noise, |G|² is estimated as 0 or less, and the noise
    scale is NaN: not estimable from so few samples, rather than infinite. The signal fraction

    .. math:: \widehat{|G|^2} \,/\, \tfrac{1}{B} \textstyle\sum_b |g_b|^2 = 1 / (1 + \mathcal{B}_{\text{simple}})

    is there all the same: the mean inner product of two samples' gradients over their mean square, 1 if all agree, 0
    if nothing is shared, down to −1/(B − 1).

    A sample with an infinite or NaN gradient is left out of every row, so that the rows' estimates still add up to the
    total's. The loss is that at t*; where a protocol has several loss steps, it trains on their mean instead.

    Args:
        schedule: when it fires.

    Source: McCandlish, Kaplan, Amodei & the OpenAI Dota Team (2018), §2.2 (the simple noise scale) and appendix A.1
        (unbiased estimates from two batch sizes, here 1 and B), https://arxiv.org/abs/1812.06162. There the estimates
        are averaged over training steps; here they are those of one probe batch.
    """

    table: ClassVar[Table] = Table(
        "gradient_noise",
        "scatter over samples of the parameter gradient of the loss at t*, per tensor and in total",
        (
            Column("parameter", "string", "name", f"name of the tensor, or {TOTAL} for all together"),
            Column("gradient_norm", "float64", "loss per parameter unit", "norm of the mean gradient over samples"),
            Column("trace_of_covariance", "float64", _SQUARED, "unbiased estimate of tr Σ"),
            Column("squared_norm_unbiased", "float64", _SQUARED, "unbiased estimate of |G|²; may be 0 or less"),
            Column(
                "signal_fraction",
                "float64",
                "dimensionless",
                "squared_norm_unbiased / mean of |g_b|²; at most 1",
            ),
            Column(
                "noise_scale_samples",
                "float64",
                "samples",
                "trace_of_covariance / squared_norm_unbiased; NaN (not estimable) where that is 0 or less",
            ),
            Column("num_samples", "int64", "samples", "B, those left out included; estimates need 2 that are not"),
            Column("num_zero_norms", "int64", "samples", "samples whose gradient is exactly 0"),
            Column(
                "num_non_finite_samples",
                "int64",
                "samples",
                "samples left out of every row: some tensor's gradient is infinite or NaN",
            ),
        ),
    )

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per trained tensor, in the network's order, then the total; no rows if nothing is trained."""
        of_tensors = sample_gradients(probe)
        whole = np.concatenate(list(of_tensors.values()), axis=1) if of_tensors else np.empty((0, 0))
        is_kept = np.isfinite(whole).all(axis=1)
        counts = {"num_samples": len(whole), "num_non_finite_samples": len(whole) - int(is_kept.sum())}
        rows = [
            {"parameter": name, **noise(gradients[is_kept]), **counts}
            for name, gradients in {**of_tensors, TOTAL: whole}.items()
            if gradients.size
        ]
        return table_rows(
            self.table, {column.name: [row[column.name] for row in rows] for column in self.table.columns}
        )


def sample_gradients(probe: Probe) -> dict[str, Float[np.ndarray, "B _"]]:
    """Name of each trained tensor -> gradient of each sample's loss at t*, one row per sample; loss per parameter unit.

    Args:
        probe: whose network is differentiated; what it has computed already stays as it is.
    """
    trained = {name: own for name, own in probe.network.named_parameters() if own.requires_grad}
    if not trained:
        return {}
    found: list[list[np.ndarray]] = []
    with _as_the_probe(probe):
        # A batch of one and a pass of its own: half the work of one forward pass and B backward passes through all.
        for sample in probe.batch.split(1):
            predictions = probe.network(sample.inputs, sample.loss_steps)
            loss = probe.task.loss(predictions, sample.targets)[:, -1].sum()
            gradients = torch.autograd.grad(loss, list(trained.values()), materialize_grads=True)
            found.append([real_numbers(gradient).flatten().numpy(force=True) for gradient in gradients])
    return {name: np.stack(rows) for name, rows in zip(trained, zip(*found, strict=True), strict=True)}


@contextmanager
def _as_the_probe(probe: Probe) -> Iterator[None]:
    device = probe.batch.inputs.device
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # it refuses a backward pass in evaluation mode
        yield


def noise(gradients: Float[np.ndarray, "B P"]) -> dict[str, float]:
    """Column name -> estimate from the gradients of B samples, all finite; NaN where B is too small for it.

    Args:
        gradients: shape (B, P).

    Example:
        >>> noise(np.array([[3.0], [1.0]]))["noise_scale_samples"]
        0.6666666666666666
    """
    # Squares vanish below 1e-162 and overflow above 1e154; a power of two is taken out and put back without rounding.
    exponent = math.frexp(float(np.abs(gradients).max(initial=0.0)))[1]
    square_of_mean, mean_square, trace = _moments(np.ldexp(gradients, -exponent))
    squared_norm = square_of_mean - trace / max(len(gradients), 1)
    with np.errstate(over="ignore"):
        return {
            "gradient_norm": float(np.ldexp(math.sqrt(square_of_mean), exponent)),
            "trace_of_covariance": float(np.ldexp(trace, 2 * exponent)),
            "squared_norm_unbiased": float(np.ldexp(squared_norm, 2 * exponent)),
            "signal_fraction": squared_norm / mean_square if mean_square > 0 else math.nan,
            "noise_scale_samples": trace / squared_norm if squared_norm > 0 else math.nan,
            "num_zero_norms": int((gradients == 0).all(axis=1).sum()),
        }


def _moments(gradients: Float[np.ndarray, "B P"]) -> tuple[float, float, float]:
    """Square of the mean, mean square and trace of the covariance; NaN where there are too few samples."""
    if not len(gradients):
        return math.nan, math.nan, math.nan
    deviations = gradients - gradients[0]  # exactly 0 where the samples agree, which a rounded mean would not give
    deviations -= deviations.mean(axis=0)
    trace = _square(deviations) / (len(gradients) - 1) if len(gradients) > 1 else math.nan
    return _square(gradients.mean(axis=0)), _square(gradients) / len(gradients), trace


def _square(values: np.ndarray) -> float:
    return float(np.square(values).sum())
