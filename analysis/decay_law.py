r"""Exponential decay or a power law: which of the two straight lines a relative gradient profile follows.

.. math:: \ln g(\tau) = a + \lambda \tau \qquad \text{or} \qquad \ln g(\tau) = a - \alpha \ln \tau, \qquad \tau \ge 1

Both laws have two parameters and are fitted, seed by seed, to the same lags. Neighbouring lags share their error, so
that a likelihood which multiplies over lags is far too sure of itself. The evidence is therefore a mean per lag, and
what counts is that it has the same sign over seeds.

Notation: τ lag in steps, g relative gradient norm (1 at lag 0), λ growth rate, α exponent, M seeds, L lags.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.growth import MIN_SEEDS, Interval, Lags, Norms, growth_rate, rate_interval

EXPONENTIAL = "exponential"
POWER_LAW = "power law"
UNDECIDED = "undecided"

MAX_LAGS = 32
"""Lags of a profile to which the laws are fitted."""
MIN_LAGS = 8
"""Lags below which two lines can hardly be told from each other."""
MIN_SPAN_RATIO = 10.0
"""Longest over shortest lag: a power law says the same thing in every decade, so it takes one to see it."""
MIN_CHANGE_NATS = math.log(10)
"""Change over the span below which a profile counts as stable, and stability has no law."""
MIN_EVIDENCE = 0.2
"""Evidence in nats per lag below which the lines are as good as each other: the spacing of lags alone can give it."""
MAX_SCATTER = 0.1
"""Scatter about the better line as a share of that line's change, above which neither law describes the profile."""


@dataclass(frozen=True)
class LawFit:
    """Both lines through the profile of one seed.

    Attributes:
        rate: λ, nats per step.
        exponent: α, dimensionless.
        evidence: nats per lag, positive for exponential: ln(scatter about the power law / about the exponential).
        change: of the better line over the span, nats.
        scatter: residual standard deviation about the better line, nats.
        num_lags: lags fitted.
        span_ratio: longest of them over the shortest.
    """

    rate: float
    exponent: float
    evidence: float
    change: float
    scatter: float
    num_lags: int
    span_ratio: float


@dataclass(frozen=True)
class DecayLaw:
    """What the seeds say together: medians, and intervals where they are estimable.

    Attributes:
        law: ``exponential``, ``power law`` or ``undecided``.
        reason: why it is undecided; empty otherwise.
        rate: λ, nats per step.
        rate_interval: over seeds.
        exponent: α, dimensionless.
        exponent_interval: over seeds.
        evidence: nats per lag, positive for exponential.
        evidence_interval: over seeds.
        num_excluded: zeros, infinities and NaN at lags ≥ 1, over all seeds: they have no place on a logarithm.
    """

    law: str
    reason: str
    rate: float
    rate_interval: Interval | None
    exponent: float
    exponent_interval: Interval | None
    evidence: float
    evidence_interval: Interval | None
    num_excluded: int


def decay_law(lags: Lags, profiles: Float[np.ndarray, "M L"]) -> DecayLaw:
    """The law that the profiles of several seeds follow, with its evidence.

    A law is preferred if, and only if, there are at least `MIN_SEEDS` seeds, all of which can be fitted and none of
    which is cut off by zeros or overflows; the lags span a decade; the profile changes by a factor of 10 at least; the
    bootstrap interval of the evidence lies beyond ±`MIN_EVIDENCE`; and the law explains the profile, with a scatter of
    at most `MAX_SCATTER` of its change. Everything else is undecided, with the first reason that applies.

    The preference is one of two lines over the lags that were measured: a power law that ends beyond them looks whole.

    Args:
        lags: ascending, shape (L,).
        profiles: relative gradient norms, shape (M, L).

    Example:
        >>> lags = np.arange(200)
        >>> noise = np.exp(0.05 * np.random.default_rng(0).standard_normal((5, 200)))
        >>> decay_law(lags, noise / (1 + lags)).law, decay_law(lags, noise * np.exp(-0.1 * lags)).law
        ('power law', 'exponential')
    """
    fits = [fitted for fitted in (fit_laws(lags, profile) for profile in profiles) if fitted is not None]
    rates, exponents, evidence = (
        np.array([getattr(fitted, name) for fitted in fits]) for name in ("rate", "exponent", "evidence")
    )
    interval = rate_interval(evidence)
    reason = _unusable(lags, profiles, len(fits)) or _unclear(fits, interval)
    return DecayLaw(
        UNDECIDED if reason else EXPONENTIAL if np.median(evidence) > 0 else POWER_LAW,
        reason,
        _median(rates),
        rate_interval(rates),
        _median(exponents),
        rate_interval(exponents),
        _median(evidence),
        interval,
        int((~_is_usable(profiles[:, lags >= 1])).sum()),
    )


def columns(found: DecayLaw) -> dict[str, float | str | int]:
    """Column name -> value of one row of a table: the law, its reason, exponent and evidence with their intervals.

    Ends of intervals that are not estimable are NaN.
    """
    named = {
        "power_law_exponent": (found.exponent, found.exponent_interval),
        "decay_evidence": (found.evidence, found.evidence_interval),
    }
    ends = {name: (value, interval or Interval(math.nan, math.nan)) for name, (value, interval) in named.items()}
    return {
        "decay_law": found.law,
        "decay_reason": found.reason,
        **{
            key: number
            for name, (value, interval) in ends.items()
            for key, number in ((name, value), (f"{name}_low", interval.low), (f"{name}_high", interval.high))
        },
        "num_excluded_norms": found.num_excluded,
    }


def _median(values: Float[np.ndarray, " M"]) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _is_usable(norms: Float[np.ndarray, ...]) -> Bool[np.ndarray, ...]:
    return np.isfinite(norms) & (norms > 0)


def fit_laws(lags: Lags, relative_norms: Norms) -> LawFit | None:
    """Both laws fitted by least squares to ln g of one seed, at the same lags.

    Args:
        lags: ascending, shape (L,).
        relative_norms: g, shape (L,); what is not finite and positive is left out.

    Returns:
        None where fewer than `MIN_LAGS` lags are left.

    Example:
        >>> lags = np.arange(100)
        >>> fitted = fit_laws(lags, np.exp(-0.25 * lags))
        >>> round(fitted.rate, 12), fitted.evidence > 10
        (-0.25, True)
    """
    usable = (lags >= 1) & _is_usable(relative_norms)
    if usable.sum() < MIN_LAGS:
        return None
    chosen = even_handed(lags[usable])
    tau, logs = lags[usable][chosen].astype(float), np.log(relative_norms[usable][chosen])
    exponential, power = _line(tau, logs), _line(np.log(tau), logs)
    better = exponential if exponential.scatter <= power.scatter else power
    evidence = math.log(power.scatter / exponential.scatter)
    return LawFit(
        exponential.slope, -power.slope, evidence, better.change, better.scatter, len(tau), float(tau[-1] / tau[0])
    )


def even_handed(lags: Lags, most: int = MAX_LAGS) -> Int[np.ndarray, " K"]:
    """Indices of at most `most` lags whose spacing favours neither law: log-spaced ones, as far as there are.

    Evenly spaced lags crowd where ln τ is flat: they let the exponential miss the first decade at hardly any cost, and
    give a profile halfway between both lines, ln g = −c (τ/τ_max + ln τ/ln τ_max), an evidence of 0.4 nats per lag for
    the exponential over two decades and of 0.7 over three. With these it stays within ±`MIN_EVIDENCE`.

    Args:
        lags: ascending, positive, shape (L,).
        most: how many at most; fewer where several fall on one lag.

    Example:
        >>> (lags := np.arange(1, 1001))[even_handed(lags, 4)].tolist()
        [1, 10, 100, 1000]
    """
    place, targets = np.log(lags), np.linspace(np.log(lags[0]), np.log(lags[-1]), most)
    return np.unique(np.abs(place[:, np.newaxis] - targets).argmin(axis=0))


@dataclass(frozen=True)
class _Line:
    slope: float
    change: float
    scatter: float


def _line(x: Float[np.ndarray, " K"], logs: Float[np.ndarray, " K"]) -> _Line:
    slope, intercept = np.polyfit(x, logs, 1)
    scatter = math.sqrt(((logs - intercept - slope * x) ** 2).sum() / (len(x) - 2))
    # A relative error of eps in g is an error of eps in ln g, and ln g is itself rounded.
    resolution = np.finfo(float).eps * max(1.0, float(np.abs(logs).max()))
    return _Line(float(slope), float(slope * (x[-1] - x[0])), max(scatter, resolution))


def _unusable(lags: Lags, profiles: Float[np.ndarray, "M L"], num_fitted: int) -> str:
    num_seeds = len(profiles)
    if num_seeds < MIN_SEEDS:
        return f"not estimable ({num_seeds} {'seed' if num_seeds == 1 else 'seeds'})"
    rates = np.array([growth_rate(lags, profile) for profile in profiles])
    counts = {
        "cut off by exact zeros": np.isneginf(rates).sum(),
        "infinite": np.isposinf(rates).sum(),
        f"fewer than {MIN_LAGS} usable lags": num_seeds - num_fitted,
    }
    for words, count in counts.items():
        if count:
            return f"{words} in {count} of {num_seeds} seeds"
    return ""


def _unclear(fits: list[LawFit], evidence: Interval | None) -> str:
    def median(of: Callable[[LawFit], float]) -> float:
        return _median(np.array([of(fitted) for fitted in fits]))

    if min(fitted.span_ratio for fitted in fits) < MIN_SPAN_RATIO:
        return f"lags span less than a factor of {MIN_SPAN_RATIO:g}"
    if abs(median(lambda fitted: fitted.change)) < MIN_CHANGE_NATS:
        return "changes by less than a factor of 10"
    if evidence is None or (evidence.low < MIN_EVIDENCE and evidence.high > -MIN_EVIDENCE):
        return "neither law is clearly better"
    if median(lambda fitted: fitted.scatter / abs(fitted.change)) > MAX_SCATTER:
        return "neither law explains it"
    return ""
