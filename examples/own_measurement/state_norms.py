r"""How large a layer's state is at the steps that the probe keeps.

.. math:: \lVert s_t \rVert \quad \text{at lag } \tau = t^* - t

Notation: B batch, t step, t* the step whose loss is probed.
"""

from __future__ import annotations

import pandas as pd
import torch

from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.records.tables import Column, Table


class StateNorms(ProbeMeasurement):
    """Median over samples of the state's norm, per layer, direction and lag.

    Args:
        schedule: when it fires.
    """

    table = Table(
        "state_norms",
        "norm of the full state at the probe's cuts",
        (
            Column("layer", "int64", "dimensionless", "0 is the lowest layer"),
            Column("direction", "string", "name", "forward or backward"),
            Column("lag", "int64", "steps", "from the state to the step whose loss is probed"),
            Column("state_norm_median", "float64", "dimensionless", "median over samples"),
        ),
    )

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction and cut."""
        rows = []
        for trace in probe.trace.layers:
            for t, state in zip(trace.trajectory.cuts, trace.trajectory.states, strict=True):
                flat = torch.cat([part.detach().flatten(1) for part in state], dim=1)  # (B, all components)
                norm = float(flat.norm(dim=1).median())
                rows.append((trace.layer, trace.direction, trace.read_step - t, norm))
        return pd.DataFrame(rows, columns=[column.name for column in self.table.columns])
