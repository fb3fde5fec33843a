r"""Profiles of bidirectional networks by the distance to the nearest end that is read, instead of the lag.

A network of two directions with one loss, at the last step, reads the forward state at step N and the backward state
at step 1. Its profile over the lag is a U, through which no line can be laid, and its longest lag is as near to what is
read as the shortest. What a recurrence has carried a gradient over is

.. math:: d = \min(t^* - t,\; t - 1)

and where the loss is felt through both directions at t* itself (several loss steps, or one before the end),
:math:`d = |t^* - t|`. An attention readout reads every state besides, which lifts the middle; its query is read there,
so that the distance is the same.

Imports neither torch nor Hydra, so that analysis and mirrors are told the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gradhorizon.records.tables import LEAD_COLUMNS

VALUE = "relative_gradient_norm_median"
NAME = "distance to the nearest read end"
_LEAD = tuple(column.name for column in LEAD_COLUMNS)


def is_bidirectional(config: Mapping[str, Any]) -> bool:
    """Whether the model of a run's configuration has two directions; not if it does not say.

    Args:
        config: plain containers and scalars, resolved.
    """
    model = config.get("model")
    return isinstance(model, Mapping) and model.get("bidirectional") is True


def by_read_end(rows: pd.DataFrame, has_two_directions: bool) -> pd.DataFrame:
    """Rows of ``input_gradients`` whose ``lag`` is the distance to the nearest end that is read.

    Of the two steps at one distance the row with the larger median is kept: a gradient reaches as far as it does on
    either side. Norms stay relative to that at t*, so that at distance 0 the other end may lie above 1.

    Args:
        rows: of one run: of any members at any probes.
        has_two_directions: rows of other networks are handed back as they are.
    """
    if not has_two_directions or rows.empty:
        return rows
    distance = rows["lag"].abs()
    if _reads_each_direction_at_its_own_end(rows):
        distance = distance.clip(upper=rows["lag_from_start"])
    probe = [name for name in _LEAD if name in rows]
    ordered = rows.assign(lag=distance).sort_values(VALUE, na_position="first", kind="stable")
    return ordered.drop_duplicates([*probe, "lag"], keep="last").sort_index()


def _reads_each_direction_at_its_own_end(rows: pd.DataFrame) -> bool:
    # With the last step as the only loss step, the loss of training is the loss at t*: the columns are the same.
    own = rows["gradient_norm_median"].to_numpy(float)
    training = rows["training_loss_gradient_norm_median"].to_numpy(float)
    is_last = bool((rows["lag"] >= 0).all())
    return is_last and bool(np.isclose(own, training, rtol=1e-9, atol=0.0, equal_nan=True).all())
