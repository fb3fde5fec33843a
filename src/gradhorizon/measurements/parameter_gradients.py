r"""Parameter-gradient norms of the live training step, before and after clipping.

.. math:: \lVert g_\theta \rVert_{\text{clipped}} = \min(1, c / \lVert g \rVert)\, \lVert g_\theta \rVert

Notation: g the batch-mean gradient of all parameters together, g_θ that of one tensor, c the clip threshold.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from gradhorizon.measurements.measurement import StepMeasurement, StepReading
from gradhorizon.measurements.summaries import table_rows
from gradhorizon.records.tables import Column, Table

TOTAL = "total"
"""Value of the column ``parameter`` for all tensors together."""


class ParameterGradients(StepMeasurement):
    """Norm per tensor and in total of the batch-mean gradient that the optimizer is about to use.

    These are gradients of the batch mean: samples cancel in them, and they are no profile over time.

    Args:
        schedule: when it fires.

    Source: clipping by the total norm, Pascanu, Mikolov & Bengio (2013), algorithm 1,
        https://arxiv.org/abs/1211.5063.
    """

    table: ClassVar[Table] = Table(
        "parameter_gradients",
        "norm of the batch-mean training gradient per parameter tensor and in total, before the optimizer step",
        (
            Column("parameter", "string", "name", f"name of the tensor, or {TOTAL} for all together"),
            Column("norm_unclipped", "float64", "loss per parameter unit", "norm before clipping"),
            Column("norm_clipped", "float64", "loss per parameter unit", "norm after clipping by the total norm"),
            Column("clip_fraction", "float64", "dimensionless", "clipped share of the steps since the last reading"),
            Column("num_steps", "int64", "optimizer steps", "steps since the last reading, this one included"),
            Column("num_non_finite_norms", "int64", "tensors", "tensors whose unclipped norm is infinite or NaN"),
        ),
    )

    def read(self, step: StepReading) -> pd.DataFrame:
        """One row per tensor, in the network's order, then the total."""
        norms = torch.stack([*step.norms_unclipped.values(), step.total_unclipped]).to(torch.float64).numpy(force=True)
        is_non_finite = ~np.isfinite(norms[:-1])
        with np.errstate(invalid="ignore"):
            clipped = norms * _clip_factor(norms[-1], step.clip_norm)
        columns = {
            "parameter": [*step.norms_unclipped, TOTAL],
            "norm_unclipped": norms,
            "norm_clipped": clipped,
            "clip_fraction": step.num_clipped / step.num_steps if step.num_steps else np.nan,
            "num_steps": step.num_steps,
            "num_non_finite_norms": [*is_non_finite, is_non_finite.sum()],
        }
        return table_rows(self.table, columns)

    @staticmethod
    def digest(rows: pd.DataFrame, has_two_directions: bool) -> dict[str, float]:  # noqa: ARG004
        """All tensors together, before and after clipping, and how often the gradient is clipped."""
        total = rows["parameter"].to_numpy() == TOTAL
        columns = {
            "train/parameter_gradient_norm/total_unclipped": "norm_unclipped",
            "train/parameter_gradient_norm/total_clipped": "norm_clipped",
            "train/clip_fraction": "clip_fraction",
        }
        return {key: float(rows[column].to_numpy(np.float64)[total][0]) for key, column in columns.items()}


def _clip_factor(total: float, clip_norm: float | None) -> float:
    if clip_norm is None or total <= clip_norm:
        return 1.0
    return clip_norm / total
