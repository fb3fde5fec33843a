r"""Gate statistics along the probe batch: how open, how saturated, and for how long a unit remembers.

.. math:: \text{time scale} = \frac{1}{1 - f}

A unit that keeps the share f of its state each step forgets it over 1/(1 − f) steps. Which gates are retention gates is
said by their name: `RETENTION_GATES`. A GRU's update gate is one in PyTorch's convention, where it multiplies the old
state; a cell in the opposite convention gives its gate another name.

Notation: B batch, C cuts, H units.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from gradhorizon.cells.cell import select_step
from gradhorizon.measurements.curves import by_layer
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.summaries import LAYER_COLUMNS, PROBABILITIES, log_quantiles, stacked_rows, table_rows
from gradhorizon.network import LayerTrace
from gradhorizon.records.tables import Column, Table

RETENTION_GATES = frozenset({"forget_gate", "update_gate"})
"""Gates that multiply the old state, and therefore set a time scale."""
LOW_SATURATION = 0.1
HIGH_SATURATION = 0.9


class Gates(ProbeMeasurement):
    """Mean, saturated fractions and time scale of every gate at the steps that consume the probe's cuts.

    Args:
        schedule: when it fires.

    Source: saturation below 0.1 and above 0.9, Karpathy, Johnson & Li (2015), https://arxiv.org/abs/1506.02078 (there
        over time per unit, here over samples and units per step); time scale, Tallec & Ollivier (2018),
        https://arxiv.org/abs/1804.11188.
    """

    table: ClassVar[Table] = Table(
        "gates",
        "gate values along the probe batch, over samples and units",
        (
            *LAYER_COLUMNS,
            Column("gate", "string", "name", "name of the gate"),
            Column("t", "int64", "steps", "step at which the gate acts, in its direction's own time, 1 … N"),
            Column("lag", "int64", "steps", "the direction's last read step minus t"),
            Column("mean", "float64", "dimensionless", "mean over samples and units"),
            Column("saturated_low_fraction", "float64", "dimensionless", f"share of the values below {LOW_SATURATION}"),
            Column(
                "saturated_high_fraction", "float64", "dimensionless", f"share of the values above {HIGH_SATURATION}"
            ),
            *(
                Column(
                    f"time_scale_{name}_steps",
                    "float64",
                    "steps",
                    f"1/(1 − f) of the {name} value f over samples and units; NaN for gates that do not retain",
                )
                for name in PROBABILITIES
            ),
            Column("num_values", "int64", "values", "samples × units, those that the summaries leave out included"),
            Column("num_non_finite_values", "int64", "values", "values left out: infinite or NaN"),
        ),
    )

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction, gate and cut before t*; no rows for a network without gates."""
        frames = []
        for trace in probe.trace.layers:
            last = trace.read_step
            cuts = [(t, state) for t, state in zip(trace.trajectory.cuts, trace.trajectory.states, strict=True)]
            steps = np.array([t + 1 for t, _ in cuts if t < last])
            lead = {"layer": trace.layer, "direction": trace.direction, "t": steps, "lag": last - steps}
            for name, values in _gate_values(trace, last).items():
                columns = {**lead, "gate": name, **_summaries(values, name in RETENTION_GATES)}
                frames.append(table_rows(self.table, columns))
        return stacked_rows(self.table, frames)

    @staticmethod
    def digest(rows: pd.DataFrame, has_two_directions: bool) -> dict[str, float]:  # noqa: ARG004
        """Each gate's mean per layer and direction, and its time scale where it retains."""
        scalars = {}
        for layer, of_layer in by_layer(rows):
            for gate, own in of_layer.groupby("gate", sort=False):
                scalars[f"probe/gate_mean/{layer}_{gate}"] = float(own["mean"].mean())
                time_scale = float(own["time_scale_median_steps"].median())
                if not np.isnan(time_scale):
                    scalars[f"probe/gate_time_scale_steps/{layer}_{gate}"] = time_scale
        return scalars


def _gate_values(trace: LayerTrace, last: int) -> dict[str, Float[np.ndarray, "C V"]]:
    values: dict[str, list[np.ndarray]] = {}
    with torch.no_grad():
        for t, state in zip(trace.trajectory.cuts, trace.trajectory.states, strict=True):
            if t < last:
                projected = select_step(trace.cell.project(trace.inputs[:, t : t + 1], t), 0)
                for name, gate in trace.cell.gates(projected, state).items():
                    values.setdefault(name, []).append(gate.flatten().to(torch.float64).numpy(force=True))
    return {name: np.stack(rows) for name, rows in values.items()}


def _summaries(values: Float[np.ndarray, "C V"], is_retention_gate: bool) -> dict[str, Any]:
    is_kept = np.isfinite(values)
    num_kept = is_kept.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if is_retention_gate:
            time_scales = 1 / (1 - log_quantiles(values.T, list(PROBABILITIES.values())))
        else:
            time_scales = np.full((len(PROBABILITIES), len(values)), np.nan)
        return {
            "mean": np.where(is_kept, values, 0.0).sum(axis=1) / num_kept,
            "saturated_low_fraction": (is_kept & (values < LOW_SATURATION)).sum(axis=1) / num_kept,
            "saturated_high_fraction": (is_kept & (values > HIGH_SATURATION)).sum(axis=1) / num_kept,
            **{f"time_scale_{name}_steps": row for name, row in zip(PROBABILITIES, time_scales, strict=True)},
            "num_values": values.shape[1],
            "num_non_finite_values": values.shape[1] - num_kept,
        }
