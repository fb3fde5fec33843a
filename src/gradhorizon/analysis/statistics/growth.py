r"""Growth rate, gradient horizon and verdict of relative gradient profiles.

.. math:: g(\tau) = \|\partial L_{t^*} / \partial x_{t^* - \tau}\| \,/\, \|\partial L_{t^*} / \partial x_{t^*}\|

Notation: τ lag in steps, g relative gradient norm (dimensionless, 1 at lag 0), M seeds, L lags.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsInt

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

HORIZON_LEVEL = 1e-3
"""Relative gradient norm under which a gradient no longer counts as reaching."""
MIN_SEEDS = 5
"""Seeds from which on an interval is estimated: even the range of four covers the median in 87.5 % of cases alone."""
CONFIDENCE = 0.95
_LOG_SMALLEST = math.log(5e-324)
_UNDERFLOW_SLACK_NATS = 70.0
_FEWEST_POINTS = 2
_CUT_OFF_SHARE = 0.1

Lags = Int[np.ndarray, " L"]
Norms = Float[np.ndarray, " L"]


@dataclass(frozen=True)
class Horizon:
    """A gradient horizon in steps; with `is_censored`, the truth is beyond `lag`. NaN if no norm was finite."""

    lag: float
    is_censored: bool


@dataclass(frozen=True)
class Interval:
    """An interval of the median over seeds: see `median_interval`."""

    low: float
    high: float


def growth_rate(lags: Lags, relative_norms: Norms) -> float:
    r"""Growth rate of a relative profile in nats per step: the least-squares slope of ln g(τ) against τ.

    Fitted over the finite positive values at lags ≥ 1: lag 0 is 1 by definition and carries the direct path.
    Zeros and non-finite values cannot enter a logarithm, so they decide only where the fit would mislead:
    a profile whose last tenth or more is exactly zero, which the fit does not explain as underflow, is cut off and has
    rate −∞ (fewer zeros at the end may be the first inputs of a ReLU network, whose units they leave switched off);
    one with fewer than two usable values is −∞ if the others are zeros, +∞ if they are infinite.
    Least squares and not a median of slopes, because the verdict asks for the change over the whole span: a profile
    that drops a thousandfold at once and stays there has not been stable.

    Args:
        lags: ascending, shape (L,).
        relative_norms: g, shape (L,).

    Returns:
        The rate in nats per step; NaN where the profile says nothing.

    Example:
        >>> lags = np.arange(50)
        >>> round(growth_rate(lags, np.exp(-0.25 * lags)), 12)
        -0.25
    """
    lags, norms = lags[lags >= 1], relative_norms[lags >= 1]
    usable = np.isfinite(norms) & (norms > 0)
    if usable.sum() < _FEWEST_POINTS:
        return _rate_of_extremes(norms)
    slope, intercept = np.polyfit(lags[usable].astype(float), np.log(norms[usable]), 1)
    return -math.inf if _is_cut_off(lags, norms, float(slope), float(intercept)) else float(slope)


def _rate_of_extremes(norms: Norms) -> float:
    has_zeros, has_overflow = bool((norms == 0).any()), bool(np.isposinf(norms).any())
    if has_zeros == has_overflow:
        return math.nan
    return -math.inf if has_zeros else math.inf


def _is_cut_off(lags: Lags, norms: Norms, slope: float, intercept: float) -> bool:
    first_of_the_end = int(np.flatnonzero(norms != 0)[-1]) + 1
    if len(norms) - first_of_the_end < _CUT_OFF_SHARE * len(norms):
        return False
    expected = intercept + slope * float(lags[first_of_the_end])
    return expected > _LOG_SMALLEST + _UNDERFLOW_SLACK_NATS + abs(slope)


def gradient_horizon(lags: Lags, relative_norms: Norms, level: float = HORIZON_LEVEL) -> Horizon:
    """First lag from which a relative profile stays under `level`, right-censored if it never does.

    A NaN is not known to be under the level and counts as above it.

    Args:
        lags: ascending, shape (L,).
        relative_norms: g, shape (L,).
        level: dimensionless.

    Returns:
        The horizon in steps; if censored, the longest lag, beyond which it lies.

    Example:
        >>> gradient_horizon(np.arange(4), np.array([1.0, 1e-2, 1e-4, 1e-5]))
        Horizon(lag=2.0, is_censored=False)
    """
    if not len(lags) or np.isnan(relative_norms).all():
        return Horizon(math.nan, False)
    reaches = np.flatnonzero(~(relative_norms < level))
    first_under = int(reaches[-1]) + 1 if len(reaches) else 0
    return Horizon(float(lags[min(first_under, len(lags) - 1)]), first_under == len(lags))


def median_profile(profiles: Float[np.ndarray, "... M L"]) -> Float[np.ndarray, "... L"]:
    """Median over seeds at each lag, of the seeds whose norm is a number; NaN where there is none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanmedian(profiles, axis=-2)


def horizon_interval(
    lags: Lags, profiles: Float[np.ndarray, "M L"], level: float = HORIZON_LEVEL
) -> tuple[Horizon, Horizon] | None:
    """Interval of the median over seeds of their horizons; None with fewer than `MIN_SEEDS` seeds that have one.

    Its ends are horizons of seeds, as `median_interval` chooses them, so that a censored end says so.

    Args:
        lags: ascending, shape (L,).
        profiles: one relative profile per seed, shape (M, L).
        level: dimensionless.
    """
    found = [gradient_horizon(lags, profile, level) for profile in profiles]
    known = [math.inf if horizon.is_censored else horizon.lag for horizon in found if not math.isnan(horizon.lag)]
    interval = median_interval(np.array(known))
    if interval is None:
        return None
    ends = (interval.low, interval.high)
    low, high = (Horizon(float(lags[-1]) if math.isinf(end) else end, math.isinf(end)) for end in ends)
    return low, high


def rate_interval(rates: Float[np.ndarray, " M"]) -> Interval | None:
    """Interval over seeds of the median growth rate, in nats per step: that of `median_interval`.

    Args:
        rates: one per seed, shape (M,).

    Returns:
        None where it is not estimable: fewer than `MIN_SEEDS` seeds, or a rate that is not finite.
    """
    return median_interval(rates) if np.isfinite(rates).all() else None


def median_interval(values: Float[np.ndarray, " M"]) -> Interval | None:
    r"""Interval of the population's median: from the k-th smallest to the k-th largest of the values.

    It covers the median with probability :math:`1 - 2 P(B < k)`, B binomial with M trials of chance ½, whatever
    continuous distribution the values come from (`coverage`). k is the largest with a coverage of `CONFIDENCE` or more;
    five values reach that with no k, and their range covers 93.75 %. A bootstrap of the median of so few values
    has no other ends to offer, and promises 95 %.

    Args:
        values: one per seed, shape (M,); infinite where censored.

    Returns:
        None with fewer than `MIN_SEEDS` values.

    Source: Conover (1999), Practical nonparametric statistics, §3.2; ``scipy.stats.quantile_test`` has no interval
        where `CONFIDENCE` is out of reach.

    Example:
        >>> median_interval(np.array([5.0, 1.0, 2.0, 4.0, 3.0]))
        Interval(low=1.0, high=5.0)
    """
    if len(values) < MIN_SEEDS:
        return None
    ordered, rank = np.sort(values), _rank(len(values))
    return Interval(float(ordered[rank - 1]), float(ordered[-rank]))


def _rank(num_seeds: int) -> int:
    return max(int(stats.binom.ppf((1 - CONFIDENCE) / 2, num_seeds, 0.5)), 1)


def coverage(num_seeds: int) -> float:
    """Probability that `median_interval` of so many values holds the population's median; dimensionless.

    Args:
        num_seeds: M, at least `MIN_SEEDS`.

    Example:
        >>> coverage(5), round(coverage(10), 4)
        (0.9375, 0.9785)
    """
    return float(1 - 2 * stats.binom.cdf(_rank(num_seeds) - 1, num_seeds, 0.5))


def spoken_coverage(counts: Iterable[SupportsInt]) -> str:
    """Coverage of the intervals over so many seeds, as figures and tables name it; ``–`` where there are none.

    Args:
        counts: numbers of seeds; those below `MIN_SEEDS` have no interval.

    Example:
        >>> spoken_coverage([3, 5]), spoken_coverage([5, 10, 6])
        ('93.75 %', '93.75 to 97.85 %')
    """
    found = sorted({coverage(count) for count in map(int, counts) if count >= MIN_SEEDS})
    said = dict.fromkeys(f"{100 * share:.4g}" for share in found[:1] + found[-1:])
    return f"{' to '.join(said)} %" if said else "–"


def stable_rate(span: float) -> float:
    """Largest rate in nats per step that still counts as stable: a factor of 10 over `span` steps."""
    return math.log(10) / span if span > 0 else math.nan


def verdict(rates: Float[np.ndarray, " M"], span: float) -> str:
    """``stable``, ``vanishing``, ``exploding``, ``undecided``, or ``not estimable`` with its reason.

    Stable if the interval of the median rate lies inside ±ln 10 / span, vanishing or exploding if it lies wholly
    beyond, else undecided. Fewer than `MIN_SEEDS` seeds give no interval; seeds whose rates are all −∞ or all +∞
    need none.

    Args:
        rates: growth rate of each seed in nats per step, shape (M,).
        span: longest lag of the profile in steps.
    """
    if len(rates) < MIN_SEEDS:
        return f"not estimable ({len(rates)} {'seed' if len(rates) == 1 else 'seeds'})"
    interval, limit = rate_interval(rates), stable_rate(span)
    if interval is None:
        kinds = {classify(float(rate), span) for rate in rates}
        return kinds.pop() if len(kinds) == 1 else "not estimable (a rate is not finite)"
    kinds = {classify(interval.low, span), classify(interval.high, span)}
    return "undecided" if len(kinds) > 1 or math.isnan(limit) else kinds.pop()


def classify(rate: float, span: float) -> str:
    """``vanishing``, ``stable`` or ``exploding`` for one seed's rate; ``unknown`` if it is NaN.

    Args:
        rate: nats per step.
        span: longest lag of the profile in steps.
    """
    limit = stable_rate(span)
    if math.isnan(rate) or math.isnan(limit):
        return "unknown"
    if abs(rate) <= limit:
        return "stable"
    return "vanishing" if rate < 0 else "exploding"


def tendency(rates: Float[np.ndarray, " M"], span: float) -> str:
    """What the seeds say, counted: a description, not an inference.

    Args:
        rates: growth rate of each seed in nats per step, shape (M,).
        span: longest lag of the profile in steps.

    Example:
        >>> tendency(np.array([-0.5, -0.4, -0.6]), span=99)
        '3/3 vanishing'
    """
    counts = Counter(classify(float(rate), span) for rate in rates)
    return ", ".join(f"{count}/{len(rates)} {kind}" for kind, count in sorted(counts.items(), key=_most_first))


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def too_few(num_seeds: Iterable[int]) -> str:
    """One sentence on intervals that are ``–`` for want of seeds; empty if there are none.

    Args:
        num_seeds: of each row of a table.

    Example:
        >>> too_few([3, 5, 3])
        '–: not estimable with 3 seeds; an interval needs 5.'
    """
    few = sorted({count for count in num_seeds if count < MIN_SEEDS})
    counts = " to ".join(str(count) for count in dict.fromkeys([*few[:1], *few[-1:]]))
    return f"–: not estimable with {counts} seeds; an interval needs {MIN_SEEDS}." if few else ""
