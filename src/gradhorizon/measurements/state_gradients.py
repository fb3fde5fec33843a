r"""The state-gradient profile: what reaches each earlier state from the loss at the probed step t*.

.. math::
    \frac{\partial L}{\partial s_t}
    = \underbrace{\frac{\partial L}{\partial s_{t+1}} \frac{\partial s_{t+1}}{\partial s_t}}_{\text{through time}}
    + \underbrace{\frac{\partial L}{\partial y_t} \frac{\partial y_t}{\partial s_t}}_{\text{direct}}

The through-time part is taken with respect to the very tensors that step t + 1 consumed; at t* it is exactly 0.

Notation: B batch, C cuts, S size of one state component, y_t what step t fed upward.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.measurements.curves import by_layer, log10_at_longest_lag
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.probe import StateGradients as CutGradients
from gradhorizon.measurements.summaries import (
    LAYER_COLUMNS,
    entry_counts,
    norm_columns,
    norm_summaries,
    sample_norms,
    stacked_rows,
    table_rows,
)
from gradhorizon.records.tables import Column, Table

WHOLE_STATE = "all"
"""Value of the column ``component`` for the norm over all components together."""


class StateGradients(ProbeMeasurement):
    """Norm of ∂L(t*)/∂s_t at the probe's cuts, per layer, direction, component and part.

    Relative norms are divided, per sample, by the total gradient of the whole state at lag 0 of the same layer and
    direction, so that through-time and direct parts and components keep one scale.

    Args:
        schedule: when it fires.
    """

    table: ClassVar[Table] = Table(
        "state_gradients",
        "norm of the gradient of the loss at the probed step t* with respect to the state after step t",
        (
            *LAYER_COLUMNS,
            Column("component", "string", "name", f"component of the state, or {WHOLE_STATE} for all together"),
            Column(
                "part",
                "string",
                "name",
                "through_time (came back through the recurrence), direct (what step t itself fed upward) or total",
            ),
            Column("t", "int64", "steps", "the state's step in its direction's own time, 0 … N"),
            Column("lag", "int64", "steps", "the direction's last read step minus t"),
            *norm_columns("loss per state unit", "the total norm of the whole state at lag 0"),
        ),
    )

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction, part, component and cut; no rows without a recurrent layer."""
        by_layer = groupby(probe.state_gradients, key=lambda cut: (cut.layer.layer, cut.layer.direction))
        frames = [_layer_rows(list(cuts)) for _, cuts in by_layer]
        return stacked_rows(self.table, frames)

    @staticmethod
    def digest(rows: pd.DataFrame, has_two_directions: bool) -> dict[str, float]:  # noqa: ARG004
        """The whole state's total gradient at the longest lag, per layer and direction."""
        whole = rows[(rows["part"] == "total") & (rows["component"] == WHOLE_STATE)]
        return {
            f"probe/log10_relative_state_gradient/{layer}_longest_lag": log10_at_longest_lag(own)
            for layer, own in by_layer(whole)
        }


def _layer_rows(cuts: list[CutGradients]) -> pd.DataFrame:
    trace = cuts[0].layer
    components = list(trace.cell.state_shapes)
    return state_gradient_rows(
        components,
        [cut.t for cut in cuts],
        [cut.lag for cut in cuts],
        [_stacked([cut.through_time[index] for cut in cuts]) for index in range(len(components))],
        [_stacked([cut.direct[index] for cut in cuts]) for index in range(len(components))],
        layer=trace.layer,
        direction=trace.direction,
    )


def _stacked(gradients: list[Tensor]) -> Float[Tensor, "B C S"]:
    # A component of shape () is one entry per sample.
    return torch.stack([gradient.reshape(len(gradient), -1) for gradient in gradients], dim=1)


def state_gradient_rows(
    components: Sequence[str],
    steps: Sequence[int],
    lags: Sequence[int],
    through_time: Sequence[Float[Tensor, "B C _"]],
    direct: Sequence[Float[Tensor, "B C _"]],
    layer: int = 0,
    direction: str = "forward",
) -> pd.DataFrame:
    """Rows of one layer and direction.

    Args:
        components: names of the state's components.
        steps: t of the C cuts.
        lags: their lags.
        through_time: per component, gradients at the cuts, shape (B, C, S).
        direct: per component, the same.
        layer: fills the column.
        direction: fills the column.

    Returns:
        One row per part, component (and the whole state) and cut.
    """
    parts = {
        "through_time": through_time,
        "direct": direct,
        "total": [back + own for back, own in zip(through_time, direct, strict=True)],
    }
    norms = {part: _norms_of_components(gradients) for part, gradients in parts.items()}
    counts = [count for gradients in parts.values() for count in _counts_of_components(gradients)]
    reference = _at_lag_zero(norms["total"][-1], lags)
    labels = [(part, component) for part in parts for component in (*components, WHOLE_STATE)]
    columns = {
        "layer": layer,
        "direction": direction,
        "component": np.repeat([component for _, component in labels], len(steps)),
        "part": np.repeat([part for part, _ in labels], len(steps)),
        "t": np.tile(steps, len(labels)),
        "lag": np.tile(lags, len(labels)),
        **norm_summaries(np.concatenate([rows for part in norms.values() for rows in part], axis=1), reference),
        **{name: np.concatenate([count[name] for count in counts]) for name in counts[0]},
    }
    return table_rows(StateGradients.table, columns)


def _norms_of_components(gradients: Sequence[Tensor]) -> list[np.ndarray]:
    norms = [sample_norms(gradient) for gradient in gradients]
    return [rows.numpy(force=True) for rows in (*norms, sample_norms(torch.stack(norms, dim=-1)))]


def _counts_of_components(gradients: Sequence[Tensor]) -> list[dict[str, np.ndarray]]:
    counts = [entry_counts(gradient) for gradient in gradients]
    return [*counts, {name: np.sum([count[name] for count in counts], axis=0) for name in counts[0]}]


def _at_lag_zero(norms: np.ndarray, lags: Sequence[int]) -> np.ndarray:
    return norms[:, list(lags).index(0)] if 0 in lags else np.full(len(norms), np.nan)
