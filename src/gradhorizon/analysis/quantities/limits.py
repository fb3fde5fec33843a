"""What a panel shows of a quantity: limits and ticks, the same in the figure and on the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from gradhorizon.analysis.drawing.scales import powers_of_ten
from gradhorizon.analysis.quantities.declared import Axis

MOST_DECADES = 12
"""Of a logarithmic axis, below its largest value."""
_STRIP = 0.14
"""Share of an axis that marks of exact zeros take."""
_FEWEST_TICKS = 2


@dataclass(frozen=True)
class Limits:
    """What of a vertical axis is shown.

    Attributes:
        low: its lower end.
        lowest: the lowest value that has a place of its own; above `low` where a strip of exact zeros lies between.
        high: its upper end.
        is_log: whether it is logarithmic.
    """

    low: float
    lowest: float
    high: float
    is_log: bool

    @property
    def strip(self) -> float | None:
        """Where marks of exact zeros stand; None without any."""
        if self.low == self.lowest:
            return None
        return math.sqrt(self.low) * math.sqrt(self.lowest) if self.is_log else (self.low + self.lowest) / 2

    @property
    def ticks(self) -> list[float]:
        """Few round values from the lowest to the highest."""
        if not self.is_log:
            return _within(MaxNLocator(5).tick_values(self.lowest, self.high), self.lowest, self.high)
        ticks = powers_of_ten(self.lowest, self.high)
        if len(ticks) < _FEWEST_TICKS:
            ticks = steps_of_decades(self.lowest, self.high, (1, 2, 5))
        if len(ticks) < _FEWEST_TICKS:
            ticks = _within(MaxNLocator(4).tick_values(self.lowest, self.high), self.lowest, self.high)
        return ticks


def _within(ticks: Iterable[float], low: float, high: float) -> list[float]:
    return [round(float(tick), 12) for tick in ticks if low <= tick <= high]


def steps_of_decades(low: float, high: float, bases: tuple[int, ...] = (1,)) -> list[float]:
    """Multiples of powers of ten between two positive ends.

    Args:
        low: positive.
        high: the upper end.
        bases: multiples, of one decade.

    Example:
        >>> steps_of_decades(0.3, 20.0, (1, 2, 5))
        [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [base * float(f"1e{power}") for power in powers for base in bases]
    return [value for value in found if low <= value <= high]


def limits(axis: Axis, rows: pd.DataFrame) -> Limits:
    """Limits that suit all curves that share an axis, and the values that they are compared with.

    Args:
        axis: vertical.
        rows: of `gradhorizon.analysis.quantities.over_seeds.summarise`.
    """
    facets = set(rows["facet"])
    known = [one.value for one in axis.references if not one.facet or one.facet in facets]
    values = np.append(rows[["median", "low", "high"]].to_numpy(float).ravel(), known)
    values = values[np.isfinite(values) & ~axis.is_beyond(values)]
    is_log = axis.scale == "log"
    lowest, high = axis.limits or (_padded_log if is_log else _padded)(values)
    if rows["median_is_censored"].any():  # whose arrows stand above them
        high += 0.12 * (high - lowest)
    has_strip = bool(axis.is_beyond(rows["median"]).any())
    if not has_strip:
        return Limits(lowest, lowest, high, is_log)
    strip = lowest * (lowest / high) ** _STRIP if is_log else lowest - _STRIP * (high - lowest)
    return Limits(strip, lowest, high, is_log)


def _padded(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _padded_log(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return 0.1, 10.0
    high = float(values.max())
    low = max(float(values.min()), high * 10.0**-MOST_DECADES, 1e-300)
    margin = min(max((high / low) ** 0.08, 1.15), 2.5)
    return low / margin, min(high * margin, 1e300)
