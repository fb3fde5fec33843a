r"""The input-gradient profile: how strongly each input step moves the loss at the probed step t*.

.. math:: g_b(\tau) = \left\lVert \frac{\partial L_b(t^*)}{\partial x_{b,\,t^*-\tau}} \right\rVert_2

It is defined for every model, recurrent or not, and is therefore the profile by which families are compared.

Notation: B batch, N steps, E encoder features, t in 1 … N, τ = t* − t.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from gradhorizon.measurements.curves import log10_at_longest_lag
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.probe import Probe, log_spaced_lags
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.measurements.summaries import (
    entry_counts,
    log_quantiles,
    norm_columns,
    norm_summaries,
    sample_norms,
    table_rows,
)
from gradhorizon.records.read_ends import by_read_end
from gradhorizon.records.tables import Column, Table

PROFILE = Table(
    "input_gradient_profile",
    "norm of ∂L(t*)/∂x_t against the lag t* − t, summarised over samples",
    (
        Column("t", "int64", "steps", "input step, 1 … N"),
        Column("lag", "int64", "steps", "t* − t; negative after the probed step, which only a non-causal model feels"),
        Column("lag_from_start", "int64", "steps", "t − 1, distance to the first input"),
        *norm_columns("loss per input unit", "the norm at the probed step t*"),
    ),
)


class InputGradients(ProbeMeasurement):
    r"""Norm of ∂L(t*)/∂x_t, x the encoder's output, against the lag, from one backward pass.

    Steps after t* are reported for bidirectional networks alone, with a negative lag: elsewhere they are
    structurally 0. A bidirectional network is near its input at both ends, hence the second distance, and, of a long
    sequence, as many reported steps near the first as near the last: `gradhorizon.records.read_ends` folds the profile.

    Args:
        schedule: when it fires.
        max_lags: all lags are reported for at most so many steps, log-spaced ones (about as many) beyond.

    Raises:
        ValueError: `max_lags` below 2.
    """

    table: ClassVar[Table] = Table(
        "input_gradients",
        "norm of the gradient of the loss at the probed step t* with respect to the encoder's output at each step",
        (
            *PROFILE.columns,
            Column(
                "training_loss_gradient_norm_median",
                "float64",
                "loss per input unit",
                "median of the norm of the gradient of each sample's mean loss over all loss steps; no horizon",
            ),
        ),
    )

    def __init__(self, schedule: Schedule, max_lags: int = 1024) -> None:
        super().__init__(schedule)
        refuse_below("max_lags", max_lags, 2, "both ends of the profile")
        self.max_lags = max_lags

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per reported step, latest first."""
        has_two_ends = probe.network.bidirectional
        steps = reported_steps(probe.input_len, probe.probed_step, self.max_lags, has_two_ends, has_two_ends)
        rows = profile_rows(probe.input_gradient, probe.probed_step, steps)
        training_norms = sample_norms(_at(probe.training_loss_input_gradient, steps)).numpy(force=True)
        rows["training_loss_gradient_norm_median"] = log_quantiles(training_norms, [0.5])[0]
        return table_rows(self.table, rows)

    @staticmethod
    def digest(rows: pd.DataFrame, has_two_directions: bool) -> dict[str, float]:
        """The longest lag; of two directions it is the distance to the nearest end that is read."""
        profile = by_read_end(rows, has_two_directions)
        return {"probe/log10_relative_input_gradient/longest_lag": log10_at_longest_lag(profile)}


def reported_steps(
    input_len: int, probed_step: int, max_lags: int, has_later_steps: bool, has_two_ends: bool = False
) -> list[int]:
    """Steps t of a profile, latest first: all of at most `max_lags`, log-spaced in their distance to t* beyond.

    Args:
        input_len: N.
        probed_step: t*.
        max_lags: the most lags that are listed one by one.
        has_later_steps: whether steps after t* are reported too.
        has_two_ends: whether steps as near to the first as those are to t* are reported too.

    Example:
        >>> reported_steps(input_len=1000, probed_step=1000, max_lags=4, has_later_steps=False)
        [1000, 999, 990, 900, 1]
        >>> reported_steps(1000, 1000, max_lags=4, has_later_steps=True, has_two_ends=True)
        [1000, 999, 990, 900, 101, 11, 2, 1]
    """
    earlier = [probed_step - lag for lag in _lags(probed_step - 1, max_lags)]
    later = [probed_step + lag for lag in _lags(input_len - probed_step, max_lags)[1:]] if has_later_steps else []
    mirrored = [probed_step + 1 - t for t in earlier] if has_two_ends else []
    return sorted({*later, *earlier, *mirrored}, reverse=True)


def profile_rows(gradient: Float[Tensor, "B N E"], probed_step: int, steps: list[int]) -> dict[str, np.ndarray]:
    """Column name of `PROFILE` -> values, one row per step in `steps`.

    Args:
        gradient: gradient of each sample's own loss, shape (B, N, E).
        probed_step: t*, whose norm divides the others.
        steps: t of the rows.
    """
    reported = _at(gradient, steps)
    reference = sample_norms(_at(gradient, [probed_step])).numpy(force=True)[:, 0]
    t = np.array(steps)
    return {
        "t": t,
        "lag": probed_step - t,
        "lag_from_start": t - 1,
        **norm_summaries(sample_norms(reported).numpy(force=True), reference),
        **entry_counts(reported),
    }


def _lags(longest: int, max_lags: int) -> list[int]:
    return list(range(longest + 1)) if longest < max_lags else log_spaced_lags(longest, max_lags)


def _at(gradient: Tensor, steps: list[int]) -> Tensor:
    return gradient[:, [t - 1 for t in steps]]
