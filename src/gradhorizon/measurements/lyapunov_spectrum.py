r"""Finite-time Lyapunov exponents of every layer and direction along its own input of the probe batch.

.. math:: \lambda_i = \frac{1}{N - N_0} \sum_{t > N_0} \ln \lvert (R_t)_{ii} \rvert, \qquad J_t Q_{t-1} = Q_t R_t

:math:`J_t = \partial s_t / \partial s_{t-1}` is over the full state: over the hidden state alone an LSTM's exponents do
not see its forget gate. Complex parts are stored as real pairs, so that each complex exponent counts twice.

Notation: B batch, N steps, :math:`N_0` transient steps, S size of the full state, K exponents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.measurements.summaries import PROBABILITIES, table_rows
from gradhorizon.measurements.tangent_maps import (
    finite_time_exponents,
    mean_log_determinants,
    random_frames,
    state_size,
)
from gradhorizon.network import LayerTrace
from gradhorizon.records import Column, Table

MAX_SUM_RULE_SIZE = 128
"""Largest state whose exact Jacobians are taken for the sum rule."""


class LyapunovSpectrum(ProbeMeasurement):
    r"""Leading or all finite-time Lyapunov exponents, with a residual that says how far to trust them.

    All S exponents start from the identity frame and obey :math:`\sum_i \lambda_i = \overline{\ln |\det J_t|}` wherever
    no step is singular. Fewer start from a random frame, on which they depend as C/N; a second frame says how much.

    Args:
        schedule: when it fires.
        num_exponents: K, the leading ones; all S of every layer if None.
        num_samples: at most so many samples of the probe batch, its first ones.
        transient_steps: steps before the window, in each direction's own time.
        qr_every_steps: steps between two QR decompositions.

    Raises:
        ValueError: fewer than 1 exponent, sample or step between decompositions, or a negative transient.
    """

    table: ClassVar[Table] = Table(
        "lyapunov_spectrum",
        "finite-time Lyapunov exponents over the full state along the layer's own input, summarised over samples",
        (
            Column("layer", "int64", "dimensionless", "0 is the layer nearest to the input"),
            Column("direction", "string", "name", "forward or backward"),
            Column("exponent", "int64", "dimensionless", "rank of the exponent in its sample, 1 is the largest"),
            *(
                Column(
                    f"exponent_{name}_nats_per_step",
                    "float64",
                    "nats per step",
                    f"{name} over the samples that are finite and resolved; NaN if there is none",
                )
                for name in PROBABILITIES
            ),
            Column("num_samples", "int64", "samples", "samples measured, those that the summaries leave out included"),
            Column("num_non_finite", "int64", "samples", "samples left out: they met an infinite or NaN number"),
            Column(
                "num_below_resolution",
                "int64",
                "samples",
                "samples left out: in some step |R_ii| ≤ S · eps · ‖J‖, so that no finite estimate exists",
            ),
            Column("window_steps", "int64", "steps", "steps over which the logarithms are averaged"),
            Column("transient_steps", "int64", "steps", "steps before the window"),
            Column("state_size", "int64", "dimensionless", "S, entries of the full state and length of its spectrum"),
            Column(
                "sum_rule_residual_nats_per_step",
                "float64",
                "nats per step",
                "largest |sum of all exponents − mean ln |det J|| over samples; "
                f"NaN for a part of the spectrum, S > {MAX_SUM_RULE_SIZE} or a singular step",
            ),
            Column(
                "frame_residual_nats_per_step",
                "float64",
                "nats per step",
                "largest difference, over exponents and samples, between two random initial frames; "
                "NaN where the sum rule is taken instead",
            ),
        ),
    )

    def __init__(
        self,
        schedule: Schedule,
        num_exponents: int | None = 8,
        num_samples: int = 8,
        transient_steps: int = 0,
        qr_every_steps: int = 1,
    ) -> None:
        super().__init__(schedule)
        lowest = {"num_exponents": 1, "num_samples": 1, "transient_steps": 0, "qr_every_steps": 1}
        received = (num_exponents, num_samples, transient_steps, qr_every_steps)
        for (name, minimum), value in zip(lowest.items(), received, strict=True):
            if value is not None and value < minimum:
                raise ValueError(f"`{name}` must be at least {minimum}, got {value}")
        self.num_exponents = num_exponents
        self.num_samples = num_samples
        self.transient_steps = transient_steps
        self.qr_every_steps = qr_every_steps

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction and exponent; no rows without a recurrent layer.

        Raises:
            ValueError: more exponents than the state has entries, or no step left after the transient.
        """
        # A validation hook, from which a solved member is probed, runs in inference mode.
        with torch.inference_mode(mode=False):
            frames = [self._layer_rows(trace) for trace in probe.trace.layers]
        return pd.concat(frames, ignore_index=True) if frames else table_rows(self.table, _NO_ROWS)

    def _layer_rows(self, trace: LayerTrace) -> pd.DataFrame:
        size = state_size(trace.cell)
        count = size if self.num_exponents is None else self.num_exponents
        if count > size:
            raise ValueError(
                f"`num_exponents` must be at most the state size, got {count} for the {size} entries of "
                f"{type(trace.cell).__name__}'s state {dict(trace.cell.state_shapes)}; use null for all of them"
            )
        exponents, sum_rule, frame_residual = self._measured(trace, size, count)
        columns = {
            "layer": trace.layer,
            "direction": trace.direction,
            "exponent": np.arange(1, count + 1),
            **_summaries(exponents),
            "window_steps": trace.inputs.shape[1] - self.transient_steps,
            "transient_steps": self.transient_steps,
            "state_size": size,
            "sum_rule_residual_nats_per_step": sum_rule,
            "frame_residual_nats_per_step": frame_residual,
        }
        return table_rows(self.table, columns)

    def _measured(self, trace: LayerTrace, size: int, count: int) -> tuple[Tensor, float, float]:
        if count < size:
            exponents, other = self._from_random_frames(trace, size, count)
            return exponents, np.nan, _frame_residual(exponents, other)
        x = trace.inputs[: self.num_samples].detach()
        exponents = self._exponents(trace, x, torch.eye(size))
        if size <= MAX_SUM_RULE_SIZE and not exponents.isneginf().any():
            expected = mean_log_determinants(trace.cell, x, transient_steps=self.transient_steps)
            return exponents, _largest((exponents.sum(dim=1) - expected).numpy(force=True)), np.nan
        return exponents, np.nan, _frame_residual(*self._from_random_frames(trace, size, count))

    def _from_random_frames(self, trace: LayerTrace, size: int, count: int) -> list[Tensor]:
        x = trace.inputs[: self.num_samples].detach()
        # Both frames in one pass, as if they were twice the samples.
        frames = random_frames(size, count).repeat_interleave(x.shape[0], dim=0)
        both = self._exponents(trace, torch.cat([x, x]), frames)
        return list(both.chunk(2))

    def _exponents(self, trace: LayerTrace, x: Tensor, frame: Tensor) -> Tensor:
        return finite_time_exponents(
            trace.cell, x, frame, transient_steps=self.transient_steps, qr_every_steps=self.qr_every_steps
        )


_NO_ROWS: Mapping[str, list[Any]] = {column.name: [] for column in LyapunovSpectrum.table.columns}


def _summaries(exponents: Tensor) -> dict[str, Any]:
    values = exponents.numpy(force=True)
    quantiles = [_quantiles(column[np.isfinite(column)]) for column in values.T]
    return {
        **{
            f"exponent_{name}_nats_per_step": column
            for name, column in zip(PROBABILITIES, np.transpose(quantiles), strict=True)
        },
        "num_samples": len(values),
        "num_non_finite": np.isnan(values).any(axis=1).sum(),
        "num_below_resolution": np.isneginf(values).sum(axis=0),
    }


def _quantiles(values: Float[np.ndarray, " B"]) -> Float[np.ndarray, " P"]:
    probabilities = list(PROBABILITIES.values())
    return np.quantile(values, probabilities) if len(values) else np.full(len(probabilities), np.nan)


def _frame_residual(one: Tensor, other: Tensor) -> float:
    first, second = one.numpy(force=True), other.numpy(force=True)
    is_kept = np.isfinite(first) & np.isfinite(second)
    return _largest(first[is_kept] - second[is_kept])


def _largest(differences: Float[np.ndarray, ...]) -> float:
    finite = np.abs(differences[np.isfinite(differences)])
    return float(finite.max()) if len(finite) else np.nan
