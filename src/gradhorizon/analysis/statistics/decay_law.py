r"""Exponential decay, a power law or neither: which of two straight lines a relative gradient profile follows, if any.

.. math:: \ln g(\tau) = a + \lambda \tau \qquad \text{or} \qquad \ln g(\tau) = a - \alpha \ln \tau, \qquad \tau \ge 1

Both have two parameters and are fitted, seed by seed, to the same lags. Neighbouring lags share their error, so that a
likelihood which multiplies over lags is too sure of itself: the evidence is a mean per lag, whose sign seeds share.

The better line need not be good. What it leaves over is structured if neighbouring lags are left over alike: a bend, a
floor, a second slope. White noise, however strong, is not. The structured part is the root of the residuals' lag-one
autocovariance :math:`c_1`, to which white noise adds nothing on average,

.. math:: m = \sqrt{c_1} \,/\, \lvert \text{change of the line} \rvert, \qquad
    c_1 = \frac{1}{L-1} \sum_i r_i r_{i+1}, \qquad \rho_1 = c_1 / \overline{r^2}

An exponential down to a floor, two slopes and a stretched exponential have m from 2.6 to 17 % and ρ₁ from 0.45 up.
Notation: τ lag in steps, g relative gradient norm (1 at lag 0), λ growth rate, α exponent, M seeds, L lags, r residual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from gradhorizon.analysis.statistics.growth import MIN_SEEDS, Interval, Lags, Norms, growth_rate, rate_interval
from gradhorizon.analysis.statistics.straight_line import covariance_of_neighbours, fit_line, signed_root

EXPONENTIAL = "exponential"
POWER_LAW = "power law"
NEITHER = "neither"
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
"""Scatter about the better line as a share of that line's change, above which it is too much to tell a law through."""
MAX_MISFIT = 0.025
"""Structured misfit m above which the profile follows neither law: 3 % of scatter at ρ₁ = 0.7. Closed forms have up to
0.014 (a power law of 1 + τ), an LSTM at initialisation 0.01 at T = 100, a stretched exponential 0.026 or more."""
MAX_COMMON_SHARE = 0.8
"""Share of that misfit that the mean over seeds of what is left over must keep; five independent ones keep 0.45."""
MIN_AUTOCORRELATION = 0.3
"""ρ₁ above which residuals have structure: four standard errors of white noise at five seeds and 25 lags each."""


@dataclass(frozen=True)
class LawFit:
    """Both lines through the profile of one seed.

    Attributes:
        rate: λ, nats per step.
        exponent: α, dimensionless.
        evidence: nats per lag, positive for exponential: ln(scatter about the power law / about the exponential).
        change: of the better line over the span, nats.
        drop: change of the profile itself, from its first fitted lag to the last, nats.
        scatter: residual standard deviation about the better line, nats.
        structure: of the residuals about the better line, √c₁ with the sign of c₁, nats.
        residuals: about the better line, by lag, nats.
        autocorrelation: ρ₁ of these residuals, dimensionless.
        span_ratio: longest lag fitted over the shortest.
    """

    rate: float
    exponent: float
    evidence: float
    change: float
    drop: float
    scatter: float
    structure: float
    residuals: pd.Series
    autocorrelation: float
    span_ratio: float


@dataclass(frozen=True)
class DecayLaw:
    """What the seeds say together: medians, and intervals where they are estimable.

    Attributes:
        law: ``exponential``, ``power law``, ``neither`` or ``undecided``.
        reason: why it is undecided or neither; empty otherwise.
        misfit: m, of the better line; negative where neighbours disagree, NaN where nothing could be fitted.
        rate, rate_interval: λ, nats per step.
        exponent, exponent_interval: α, dimensionless.
        evidence, evidence_interval: nats per lag, positive for exponential.
        num_excluded: zeros, infinities and NaN at lags ≥ 1, over all seeds: they have no place on a logarithm.
    """

    law: str
    reason: str
    misfit: float
    rate: float
    rate_interval: Interval | None
    exponent: float
    exponent_interval: Interval | None
    evidence: float
    evidence_interval: Interval | None
    num_excluded: int


def decay_law(lags: Lags, profiles: Float[np.ndarray, "M L"]) -> DecayLaw:
    """The law that the profiles of several seeds follow, with its evidence.

    A law is named if, and only if, there are at least `MIN_SEEDS` seeds, all of which can be fitted and none of
    which is cut off by zeros or overflows; the lags span a decade; the profile changes by a factor of 10 at least; what
    the better line leaves over is unstructured or small; the interval of the evidence lies beyond ±`MIN_EVIDENCE`; and
    the scatter is at most `MAX_SCATTER` of the change. The profile follows neither law if all holds up to a structured
    misfit above `MAX_MISFIT`, with an autocorrelation above `MIN_AUTOCORRELATION`, in the median over seeds, which
    the seeds share. Everything else is undecided, with the first reason that applies. All of this is said of the lags
    that were measured: a power law that ends beyond them looks whole.

    Args:
        lags: ascending, shape (L,).
        profiles: relative gradient norms, shape (M, L).

    Example:
        >>> lags = np.arange(200)
        >>> noise = np.exp(0.05 * np.random.default_rng(0).standard_normal((5, 200)))
        >>> decay_law(lags, noise / (1 + lags)).law, decay_law(lags, noise * np.exp(-0.1 * lags)).law
        ('power law', 'exponential')
        >>> decay_law(lags, noise * (np.exp(-0.3 * lags) + 1e-3)).law
        'neither'
    """
    fits = [fitted for fitted in (fit_laws(lags, profile) for profile in profiles) if fitted is not None]
    rates, exponents, evidence = (
        np.array([getattr(fitted, name) for fitted in fits]) for name in ("rate", "exponent", "evidence")
    )
    interval = rate_interval(evidence)
    misfit = _over_seeds(fits, lambda fitted: _share(fitted.structure, fitted))
    reason = _unusable(lags, profiles, len(fits)) or _flat(fits)
    neither = "" if reason else _misfitting(fits, misfit)
    reason = reason or neither or _unclear(fits, interval)
    law = EXPONENTIAL if _median(evidence) > 0 else POWER_LAW
    return DecayLaw(
        NEITHER if neither else UNDECIDED if reason else law,
        reason,
        misfit,
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
        "decay_misfit": found.misfit,
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
    exponential, power = fit_line(tau, logs), fit_line(np.log(tau), logs)
    better = exponential if exponential.scatter <= power.scatter else power
    covariance = covariance_of_neighbours(better.residuals)
    return LawFit(
        rate=exponential.slope,
        exponent=-power.slope,
        evidence=math.log(power.scatter / exponential.scatter),
        change=better.change,
        drop=float(logs[-1] - logs[0]),
        scatter=better.scatter,
        structure=signed_root(covariance),
        residuals=pd.Series(better.residuals, lags[usable][chosen]),
        autocorrelation=covariance / better.scatter**2,
        span_ratio=float(tau[-1] / tau[0]),
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


def _over_seeds(fits: list[LawFit], of: Callable[[LawFit], float]) -> float:
    return _median(np.array([*map(of, fits)]))


def _share(nats: float, fitted: LawFit) -> float:
    return nats / abs(fitted.change) if fitted.change else math.copysign(math.inf, nats)


def _flat(fits: list[LawFit]) -> str:
    if min(fitted.span_ratio for fitted in fits) < MIN_SPAN_RATIO:
        return f"lags span less than a factor of {MIN_SPAN_RATIO:g}"
    if _over_seeds(fits, lambda fitted: max(abs(fitted.change), abs(fitted.drop))) < MIN_CHANGE_NATS:
        return "changes by less than a factor of 10"
    return ""


def _misfitting(fits: list[LawFit], misfit: float) -> str:
    if not misfit > MAX_MISFIT or _over_seeds(fits, lambda fitted: fitted.autocorrelation) < MIN_AUTOCORRELATION:
        return ""
    # Noise of neighbours that share it has structure in every seed, but another one in each.
    common = pd.DataFrame([fitted.residuals for fitted in fits]).mean().sort_index().to_numpy()
    structure = signed_root(covariance_of_neighbours(common))
    if not _over_seeds(fits, lambda fitted: _share(structure, fitted)) > MAX_COMMON_SHARE * MAX_MISFIT:
        return ""
    return f"structured misfit of {100 * misfit:.0f} %"


def _unclear(fits: list[LawFit], evidence: Interval | None) -> str:
    if evidence is None or (evidence.low < MIN_EVIDENCE and evidence.high > -MIN_EVIDENCE):
        return "neither law is clearly better"
    if _over_seeds(fits, lambda fitted: _share(fitted.scatter, fitted)) > MAX_SCATTER:
        return "scatters too much about the better law"
    return ""
