r"""Dimension of the states along the probe batch: over how many directions the samples are spread.

.. math:: D = \frac{(\sum_i \mu_i)^2}{\sum_i \mu_i^2} = \frac{(\mathrm{tr}\, C)^2}{\mathrm{tr}\, C^2}

with μ the eigenvalues of the covariance C of the full state over samples: D = 1 where all samples lie on a line, D = S
where they spread alike over all S directions.

Notation: B batch, S state size (all components together), C covariance over samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from gradhorizon.cells.cell import State
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.summaries import table_rows
from gradhorizon.records.tables import Column, Table


class StateDimension(ProbeMeasurement):
    """Variance and participation ratio of the full state over the probe's samples, at every cut.

    B samples tell at most B − 1 directions apart: compare with ``num_samples`` before calling D the network's.

    Args:
        schedule: when it fires.

    Source: participation ratio, Rajan, Abbott & Sompolinsky (2010), "Inferring stimulus selectivity from the spatial
        structure of neural network dynamics", Advances in Neural Information Processing Systems 23: there N_eff over
        time, here over samples at one time.
    """

    table: ClassVar[Table] = Table(
        "state_dimension",
        "spread of the full state over samples, at each cut",
        (
            Column("layer", "int64", "dimensionless", "0 is the layer nearest to the input"),
            Column("direction", "string", "name", "forward or backward"),
            Column("t", "int64", "steps", "the cut, in its direction's own time, 0 … N"),
            Column("lag", "int64", "steps", "the direction's last read step minus t"),
            Column("total_variance", "float64", "dimensionless", "tr C, with B − 1 in its denominator"),
            Column("participation_ratio", "float64", "dimensionless", "D = (tr C)²/tr C²; NaN without variance"),
            Column("num_samples", "int64", "samples", "samples, those that are left out included"),
            Column("num_non_finite_samples", "int64", "samples", "samples left out: a state infinite or NaN"),
        ),
    )

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction and cut; no rows for a network without recurrence."""
        frames = []
        for trace in probe.trace.layers:
            for t, state in zip(trace.trajectory.cuts, trace.trajectory.states, strict=True):
                lead = {"layer": trace.layer, "direction": trace.direction, "t": t, "lag": trace.read_step - t}
                frames.append(table_rows(self.table, {**lead, **spread(_full(state))}))
        return pd.concat(frames, ignore_index=True) if frames else table_rows(self.table, _NO_ROWS)


_NO_ROWS: Mapping[str, list[Any]] = {column.name: [] for column in StateDimension.table.columns}


def _full(state: State) -> Float[np.ndarray, "B S"]:
    return np.concatenate([part.flatten(1).numpy(force=True) for part in state], axis=1)


def spread(states: Float[np.ndarray, "B S"]) -> dict[str, float]:
    """Column name -> value of states over samples.

    Args:
        states: shape (B, S); samples with an entry that is not finite are counted and left out.

    Example:
        >>> round(spread(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))["participation_ratio"], 12)
        2.0
    """
    is_kept = np.isfinite(states).all(axis=1)
    centred = states[is_kept] - states[is_kept].mean(axis=0) if is_kept.any() else states[is_kept]
    # Squared singular values of the samples are the eigenvalues of B − 1 covariances, and nothing is squared before.
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    total = values.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "total_variance": total / (is_kept.sum() - 1) if is_kept.sum() > 1 else np.nan,
            "participation_ratio": 1 / ((values / total) ** 2).sum() if total > 0 else np.nan,
            "num_samples": len(states),
            "num_non_finite_samples": (~is_kept).sum(),
        }
