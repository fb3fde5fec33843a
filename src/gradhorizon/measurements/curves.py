"""What digests have in common: rows layer by layer, and a profile's value at its longest lag."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd


def by_layer(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """``layer_<layer>_<direction>``, as it stands in a curve's name, with its rows."""
    for (layer, direction), own in rows.groupby(["layer", "direction"], sort=False):
        yield f"layer_{layer}_{direction}", own


def log10_at_longest_lag(rows: pd.DataFrame) -> float:
    """Decimal logarithm of the median relative norm at the longest lag, dimensionless; −inf where it has vanished.

    Args:
        rows: of one profile, with the columns of `summaries.norm_columns` and ``lag``.
    """
    value = rows["relative_gradient_norm_median"].to_numpy(np.float64)[int(rows["lag"].to_numpy().argmax())]
    with np.errstate(divide="ignore"):
        return float(np.log10(value))
