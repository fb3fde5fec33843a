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
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

HORIZON_LEVEL = 1e-3
"""Relative gradient norm under which a gradient no longer counts as reaching."""
MIN_SEEDS = 5
"""Seeds from which on an interval is estimated; fewer leave a bootstrap too few distinct resamples."""
CONFIDENCE = 0.95
_LOG_SMALLEST = math.log(5e-324)
_UNDERFLOW_SLACK_NATS = 70.0
_RESAMPLES = 1999
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
    """A bootstrap interval over seeds."""

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
    lag, is_censored = _horizons(lags, relative_norms[np.newaxis], level)
    return Horizon(float(lag[0]), bool(is_censored[0]))


def _horizons(
    lags: Lags, profiles: Float[np.ndarray, "R L"], level: float
) -> tuple[Int[np.ndarray, " R"], Bool[np.ndarray, " R"]]:
    reaches = ~(profiles < level)
    steps_after_last_reach = np.argmax(reaches[:, ::-1], axis=1)
    steps_after_last_reach[~reaches.any(axis=1)] = len(lags)
    is_censored = steps_after_last_reach == 0
    first_under = np.minimum(len(lags) - steps_after_last_reach, len(lags) - 1)
    return lags[first_under], is_censored


def median_profile(profiles: Float[np.ndarray, "... M L"]) -> Float[np.ndarray, "... L"]:
    """Median over seeds at each lag, of the seeds whose norm is a number; NaN where there is none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanmedian(profiles, axis=-2)


def horizon_interval(
    lags: Lags, profiles: Float[np.ndarray, "M L"], level: float = HORIZON_LEVEL
) -> tuple[Horizon, Horizon] | None:
    """Bootstrap interval over seeds of the horizon of the median profile; None with fewer than `MIN_SEEDS` seeds.

    Percentile, not BCa: a horizon takes few distinct values, where BCa's acceleration is undefined. The ends are
    resampled horizons themselves, so a censored end says so.

    Args:
        lags: ascending, shape (L,).
        profiles: one relative profile per seed, shape (M, L).
        level: dimensionless.
    """
    if len(profiles) < MIN_SEEDS:
        return None
    draws = np.random.default_rng(0).integers(len(profiles), size=(_RESAMPLES, len(profiles)))
    blocks = [_horizons(lags, median_profile(profiles[draw]), level) for draw in np.array_split(draws, 20)]
    is_censored = np.concatenate([censored for _, censored in blocks])
    found = np.where(is_censored, np.inf, np.concatenate([lag for lag, _ in blocks]).astype(float))
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(found, [tail, 1 - tail], method="inverted_cdf")
    low, high = (Horizon(float(lags[-1] if np.isinf(end) else end), bool(np.isinf(end))) for end in ends)
    return low, high


def rate_interval(rates: Float[np.ndarray, " M"]) -> Interval | None:
    """Bootstrap interval (BCa) over seeds of the median growth rate, in nats per step.

    Args:
        rates: one per seed, shape (M,).

    Returns:
        None where it is not estimable: fewer than `MIN_SEEDS` seeds, or a rate that is not finite.
    """
    if len(rates) < MIN_SEEDS or not np.isfinite(rates).all():
        return None
    if np.ptp(rates) == 0:
        return Interval(float(rates[0]), float(rates[0]))
    ends = _bootstrap(rates, "BCa")
    return Interval(*(ends if np.isfinite(ends).all() else _bootstrap(rates, "percentile")))


def _bootstrap(values: Float[np.ndarray, " M"], method: Literal["BCa", "percentile"]) -> tuple[float, float]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (values,),
            np.median,
            n_resamples=_RESAMPLES,
            confidence_level=CONFIDENCE,
            method=method,
            rng=np.random.default_rng(0),
        ).confidence_interval
    return float(found.low), float(found.high)


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
