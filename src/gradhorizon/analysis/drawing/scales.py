"""Axes that figures and report share: the same limits, the same ticks, the same words, and labels that never touch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

MIN_GAP = 0.085
"""Between two labels, as a fraction of the axis: of the lowest panel, one and a third of a line."""
_WIDEST_GAP = 0.1
_MOST_TICKS = 7
LOWEST_DRAWN = 1e-12
"""Norms below leave the panel: an axis down to 1e-300 would hide what happens around the horizon."""


@dataclass(frozen=True)
class RateScale:
    """A growth rate's axis, linear around 0 and logarithmic beyond.

    Attributes:
        linear: nats per step, where the one turns into the other: y ↦ sign(y) ln(1 + |y| / linear).
        low: lowest rate shown, nats per step.
        high: highest rate shown, nats per step.
    """

    linear: float
    low: float
    high: float

    def forward(self, rates: np.ndarray) -> np.ndarray:
        """Where rates stand on the axis, dimensionless."""
        return np.sign(rates) * np.log1p(np.abs(rates) / self.linear)

    def inverse(self, places: np.ndarray) -> np.ndarray:
        """Which rates stand there, nats per step."""
        return np.sign(places) * np.expm1(np.abs(places)) * self.linear

    @property
    def ticks(self) -> list[float]:
        """0 and powers of ten of both signs, nats per step, at least `MIN_GAP` of the axis apart."""
        least = math.ceil(math.log10(self.linear) - 1e-9)
        most = math.floor(math.log10(max(-self.low, self.high)) + 1e-9)
        for every in range(1, most - least + 2):
            for first in range(least, most + 1):
                found = self._within(range(first, most + 1, every))
                if len(found) > 1 and _is_apart(found, self.low, self.high, self.forward):
                    return found
        return [0.0]

    def _within(self, powers: Sequence[int]) -> list[float]:
        rates = [sign * float(f"1e{power}") for power in powers for sign in (-1, 1)]
        return sorted([0.0, *(rate for rate in rates if self.low <= rate <= self.high)])


def rate_scale(table: pd.DataFrame) -> RateScale:
    """The axis that shows all growth rates of a table and what is stable at its lengths.

    Args:
        table: rows of `gradhorizon.analysis.figures.sequence_length_scaling.summarise` that share the axis.
    """
    stable = table["stable_rate"].to_numpy(dtype=float)
    stable = stable[~np.isnan(stable)]
    linear = float(10 ** np.floor(np.log10(stable.min()))) if len(stable) else 0.01
    measured = table[["rate_low", "rate_high"]].to_numpy(dtype=float)
    rates = np.append(measured[np.isfinite(measured)], [stable.max(initial=linear), -linear])
    return RateScale(linear, min(float(rates.min()) * 1.6, -2 * linear), max(float(rates.max()) * 1.6, 2 * linear))


def horizon_limits(table: pd.DataFrame) -> tuple[float, float]:
    """Lowest and highest horizon shown, in steps.

    Args:
        table: rows of `gradhorizon.analysis.figures.sequence_length_scaling.summarise` that share the axis.
    """
    horizons = table[["horizon_low", "horizon"]].to_numpy(dtype=float)
    lowest = min(horizons[horizons > 0].min(initial=np.inf), table["input_len"].min())
    return max(lowest / 1.5, 0.7), float(table["input_len"].max()) * 1.6


def horizon_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or powers alone where those would touch, in steps.

    Args:
        low: lowest horizon shown.
        high: highest horizon shown.
    """
    for bases in ((1, 2, 5), (1, 3), (1,)):
        found = [base * 10.0**power for power in range(8) for base in bases if low <= base * 10.0**power <= high]
        if _is_apart(found, low, high, np.log):
            break
    return found


def length_ticks(lengths: Sequence[int]) -> list[int]:
    """Lengths that get a label on a logarithmic axis: the longest, and those that touch no longer one, in steps.

    Args:
        lengths: T, of all panels that share the axis.

    Example:
        >>> length_ticks([10, 50, 98, 100])
        [10, 50, 100]
    """
    ordered = sorted(set(lengths), reverse=True)
    least = _WIDEST_GAP * math.log(ordered[0] / ordered[-1] * 1.25**2)
    kept = ordered[:1]
    for length in ordered[1:]:
        if math.log(kept[-1] / length) >= least:
            kept.append(length)
    return kept[::-1]


def powers_of_ten(low: float, high: float) -> list[float]:
    """At most seven powers of ten between `low` and `high`, evenly spaced, 1 among them where it is inside.

    Example:
        >>> powers_of_ten(1e-12, 10.0)
        [1e-12, 1e-10, 1e-08, 1e-06, 0.0001, 0.01, 1.0]
    """
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    every = math.ceil(len(powers) / _MOST_TICKS)
    return [float(f"1e{power}") for power in powers if power % every == 0]


def label(value: float) -> str:
    """A tick's words: no exponent from 0.0001 to 99999, and a true minus."""
    return f"{value:g}".replace("-", "−")


def _is_apart(ticks: Sequence[float], low: float, high: float, forward: Callable[[np.ndarray], np.ndarray]) -> bool:
    ends = forward(np.array([low, high]))
    places = forward(np.array(ticks)) / (ends[1] - ends[0])
    return bool((np.diff(places) >= MIN_GAP).all())
