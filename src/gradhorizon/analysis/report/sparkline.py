"""A profile in the space of a word: for a table's cell, where a law's name would say less than its picture."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.scales import LOWEST_DRAWN
from gradhorizon.analysis.reading.cohort import CELL
from gradhorizon.analysis.report.panels import thinned

WIDTH, HEIGHT = 84, 22
_MOST_LAGS = 200
Key = tuple[str, str, int, str]
"""Series, task, T, stage."""


def sparklines(profiles: pd.DataFrame) -> dict[Key, str]:
    """(series, task, T, stage) -> the median profile as an inline SVG element.

    Args:
        profiles: of `gradhorizon.analysis.figures.gradient_profile.summarise`.
    """
    rows = profiles[profiles["lag"].isin(thinned(profiles["lag"], _MOST_LAGS))]
    return {
        (str(series), str(task), int(str(seq_len)), str(stage)): sparkline(
            own["lag"].to_numpy(float), own["median"].to_numpy(float)
        )
        for (series, task, seq_len, stage), own in rows.groupby([*CELL[:3], "stage"], sort=False)
    }


def sparkline(lags: np.ndarray, norms: np.ndarray) -> str:
    """Logarithm of the norms against lag, from the largest down to the smallest; what has no logarithm is a gap.

    Args:
        lags: ascending, shape (L,).
        norms: relative gradient norms, shape (L,).

    Example:
        >>> sparkline(np.array([0.0, 1.0]), np.array([1.0, 0.1])).count("M")
        1
    """
    place = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    if not len(place):
        return ""
    logs = np.log(np.clip(norms[place], LOWEST_DRAWN, None))
    x = 1 + (WIDTH - 2) * (lags[place] - lags[0]) / (np.ptp(lags) or 1.0)
    y = 1 + (HEIGHT - 2) * (logs.max() - logs) / (np.ptp(logs) or 1.0)
    steps = np.where(np.diff(place, prepend=-2) > 1, "M", "L")
    path = " ".join(f"{step}{left:.1f} {top:.1f}" for step, left, top in zip(steps, x, y, strict=True))
    said = (
        f"profile: log of the relative gradient against lag 0 to {lags[-1]:.0f}, "
        f"{np.ptp(logs) / np.log(10):.1f} decades from top to bottom"
    )
    return (
        f'<svg class="spark" role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<title>{said}</title><path d="{path}" fill="none" stroke="currentColor" stroke-width="1.3"/></svg>'
    )
