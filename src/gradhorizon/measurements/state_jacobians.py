r"""Norms, extreme singular values and condition of the state's Jacobian against the lag.

.. math:: M_\tau = \frac{\partial s_{t^*}}{\partial s_{t^*-\tau}}, \qquad s = (\text{all components of the full state})

for each recurrent layer and direction, given that layer's own input: what its recurrence can carry from one state to
another, whatever the loss. :math:`\lVert M_\tau \rVert_F / \sqrt S` is the root mean square of its singular values.

Notation: B samples, L lags, P quantiles, S size of the full state, t* the direction's last read step, τ = t* − t.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from gradhorizon.jacobians.one_step import StepJacobians, state_size
from gradhorizon.jacobians.products import LogSpectra, exact_spectra, projected_spectra
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.measurements.summaries import LAYER_COLUMNS, PROBABILITIES, stacked_rows, table_rows
from gradhorizon.network import LayerTrace
from gradhorizon.records.tables import Column, Table

EXACT = "exact"
RANDOM_PROJECTIONS = "random_projections"

_QUANTITIES = {
    "frobenius_norm": "‖M‖_F/√S",
    "sigma_max": f"the largest singular value of M; under {RANDOM_PROJECTIONS} a lower bound",
    "sigma_min": f"the smallest singular value of M; NaN under {RANDOM_PROJECTIONS}",
    "condition": f"σ_max/σ_min, infinite if σ_min is 0, undefined if both are; NaN under {RANDOM_PROJECTIONS}",
}


class StateJacobians(ProbeMeasurement):
    """‖∂s_{t*}/∂s_{t*−τ}‖_F/√S, σ_max, σ_min and condition at the probe's lags, per layer and direction.

    Exact for full states of at most `max_exact_size` entries, at O(S³) per step and sample; estimated by random
    projections beyond, with their standard error. The column ``method`` says which.

    Args:
        schedule: when it fires.
        num_samples: the first so many samples of the probe batch are measured.
        max_exact_size: largest S that is measured exactly.
        num_projections: random vectors per sample beyond it.
        num_power_iterations: passes forward and back that improve the lower bound of σ_max beyond it.

    Raises:
        ValueError: fewer than 1 sample or 2 projections, or a negative number elsewhere.
    """

    table: ClassVar[Table] = Table(
        "state_jacobians",
        "Jacobian M of the state at the direction's last read step with respect to the state after step t, given the "
        "layer's own input, summarised over samples",
        (
            *LAYER_COLUMNS,
            Column("t", "int64", "steps", "the earlier state's step in its direction's own time, 0 … N"),
            Column("lag", "int64", "steps", "the direction's last read step minus t"),
            Column("state_size", "int64", "entries", "S, entries of the full state, all components together"),
            Column("method", "string", "name", f"{EXACT} (one-step Jacobians multiplied) or {RANDOM_PROJECTIONS}"),
            Column("num_projections", "int64", "vectors", f"random vectors per sample; 0 if {EXACT}"),
            *(
                Column(f"{quantity}_{name}", "float64", "dimensionless", f"{name} over samples of {description}")
                for quantity, description in _QUANTITIES.items()
                for name in PROBABILITIES
            ),
            *(
                Column(
                    f"log10_{quantity}_{name}",
                    "float64",
                    "dimensionless",
                    f"its decimal logarithm, where {quantity}_{name} itself may under- or overflow; −inf for 0",
                )
                for quantity in _QUANTITIES
                for name in PROBABILITIES
            ),
            Column(
                "frobenius_norm_relative_standard_error",
                "float64",
                "dimensionless",
                f"standard error of a sample's ‖M‖_F/√S divided by it, the largest over samples; 0 if {EXACT}",
            ),
            Column("num_samples", "int64", "samples", "samples measured, those that the summaries leave out included"),
            Column("num_zero_norms", "int64", "samples", "samples whose M is exactly 0"),
            Column(
                "num_sigma_min_below_resolution",
                "int64",
                "samples",
                "samples in which some one-step Jacobian is singular to working precision: their σ_min is stored as 0; "
                f"0 under {RANDOM_PROJECTIONS}",
            ),
            Column("num_non_finite_norms", "int64", "samples", "samples left out: a Jacobian is infinite or NaN"),
        ),
    )

    def __init__(
        self,
        schedule: Schedule,
        num_samples: int = 8,
        max_exact_size: int = 128,
        num_projections: int = 32,
        num_power_iterations: int = 4,
    ) -> None:
        super().__init__(schedule)
        refuse_below("num_samples", num_samples, 1)
        refuse_below("max_exact_size", max_exact_size, 0)
        refuse_below("num_projections", num_projections, 2)
        refuse_below("num_power_iterations", num_power_iterations, 0)
        self.num_samples = num_samples
        self.max_exact_size = max_exact_size
        self.num_projections = num_projections
        self.num_power_iterations = num_power_iterations

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction and lag; no rows without a recurrent layer."""
        frames = [self._layer_rows(trace, probe.lags) for trace in probe.trace.layers]
        return stacked_rows(self.table, frames)

    def _layer_rows(self, trace: LayerTrace, probe_lags: list[int]) -> pd.DataFrame:
        lags = [lag for lag in probe_lags if lag <= trace.read_step]
        size = state_size(trace.cell)
        is_exact = size <= self.max_exact_size
        columns = {
            "layer": trace.layer,
            "direction": trace.direction,
            "t": trace.read_step - np.array(lags),
            "lag": lags,
            "state_size": size,
            "method": EXACT if is_exact else RANDOM_PROJECTIONS,
            "num_projections": 0 if is_exact else self.num_projections,
            **jacobian_summaries(self._spectra(trace, lags, is_exact)),
        }
        return table_rows(self.table, columns)

    def _spectra(self, trace: LayerTrace, lags: list[int], is_exact: bool) -> LogSpectra:
        # A validation hook, from which a solved member is probed, runs in inference mode.
        with torch.inference_mode(mode=False):
            inputs = trace.inputs[: self.num_samples, : trace.read_step].detach()
            maps = StepJacobians(trace.cell, inputs)
            if is_exact:
                return exact_spectra(maps, trace.read_step, lags)
            generator = torch.Generator().manual_seed(0)
            return projected_spectra(
                maps, trace.read_step, lags, generator, self.num_projections, self.num_power_iterations
            )


def jacobian_summaries(spectra: LogSpectra) -> dict[str, np.ndarray]:
    """Column name -> summary over samples at every lag, each of shape (L,).

    Args:
        spectra: natural logarithms per sample and lag.
    """
    logs = {
        "frobenius_norm": spectra.frobenius_norm.numpy(force=True),
        "sigma_max": spectra.sigma_max.numpy(force=True),
        "sigma_min": spectra.sigma_min.numpy(force=True),
    }
    is_finite = logs["sigma_max"] < np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        logs["condition"] = logs["sigma_max"] - logs["sigma_min"]
        errors = spectra.relative_standard_error.numpy(force=True)
        quantiles = {
            f"log10_{name}": log_quantiles_of_logs(np.where(is_finite, values, np.nan) / np.log(10))
            for name, values in logs.items()
        }
        decimal = {f"{name}_{key}": row for name, rows in quantiles.items() for key, row in rows.items()}
        return {
            **decimal,
            **{name.removeprefix("log10_"): np.power(10.0, row) for name, row in decimal.items()},
            "frobenius_norm_relative_standard_error": np.where(is_finite, errors, 0.0).max(axis=0),
            "num_samples": np.full(is_finite.shape[1], len(is_finite)),
            "num_zero_norms": np.isneginf(logs["sigma_max"]).sum(axis=0),
            "num_sigma_min_below_resolution": np.isneginf(logs["sigma_min"]).sum(axis=0),
            "num_non_finite_norms": (~is_finite).sum(axis=0),
        }


def log_quantiles_of_logs(logs: Float[np.ndarray, "B L"]) -> dict[str, Float[np.ndarray, " L"]]:
    """Name of each of `PROBABILITIES` -> quantile over samples of logarithms, linear between neighbours.

    NaN is left out, and the quantile of nothing is NaN. A quantile that touches −inf is −inf, as in
    `summaries.log_quantiles`, whose values would have to fit float64; one that touches +inf alone is +inf.

    Example:
        >>> log_quantiles_of_logs(np.array([[-400.0], [-600.0], [np.nan]]))["median"].tolist()
        [-500.0]
    """
    ordered = np.sort(logs, axis=0)  # NaN last
    last = np.maximum((~np.isnan(logs)).sum(axis=0) - 1, 0)
    position = np.multiply.outer(np.array(list(PROBABILITIES.values())), last)
    below = np.floor(position).astype(np.int64)
    low = np.take_along_axis(ordered, below, axis=0)
    high = np.take_along_axis(ordered, np.minimum(below + 1, last), axis=0)
    weight = position - below
    with np.errstate(invalid="ignore"):
        between = low + weight * (high - low)
    return dict(
        zip(PROBABILITIES, np.where((weight == 0) | np.isneginf(low) | (low == high), low, between), strict=True)
    )
