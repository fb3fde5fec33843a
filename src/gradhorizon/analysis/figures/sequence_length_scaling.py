"""How growth rate and gradient horizon change with the length of the sequence.

One figure per task: the growth rate above, the gradient horizon below; at init on the left, after training on the
right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.drawing.contrast import DAY_BAND
from gradhorizon.analysis.drawing.scales import horizon_limits, horizon_ticks, label, length_ticks, rate_scale
from gradhorizon.analysis.figures.gradient_profile import left_out, seed_profiles
from gradhorizon.analysis.quantities.declared import Section
from gradhorizon.analysis.reading.cohort import CELL, MEMBER, Cohort
from gradhorizon.analysis.reading.stages import STAGES
from gradhorizon.analysis.statistics import growth
from gradhorizon.analysis.statistics.decay_law import columns, decay_law
from gradhorizon.analysis.statistics.growth import MIN_SEEDS

TABLES = ("input_gradients",)
SECTIONS = (
    Section(
        2,
        "Reach against sequence length",
        "Dashed: horizon = N; arrow: beyond the longest lag (hollow: the point too). Shaded: stable. −∞: table alone.",
    ),
)
QUANTITIES = ("rate", "horizon")
_FOLDED = (
    " Bidirectional networks: distance to the nearest read end, at most half as long, so that their stable rates are "
    "twice the shaded ones."
)
_MARKS = (
    Patch(color=DAY_BAND, label="stable: factor below 10"),
    Line2D([], [], color=appearance.INK, linestyle="--", linewidth=0.8, label="horizon = N"),
    Line2D(
        [],
        [],
        color=appearance.INK,
        linestyle="none",
        marker=r"$\uparrow$",
        markersize=6,
        label="beyond the longest lag (censored)",
    ),
)


@lru_cache(maxsize=1)
def summarise(cohort: Cohort) -> pd.DataFrame:
    """Growth rate, gradient horizon and verdict per model, task, length and stage.

    Columns: series, task, seq_len, input_len, has_two_ends (lags are distances to the nearest read end), stage,
    num_seeds, span (longest lag, steps); rate, rate_low, rate_high (nats per step; median of the seeds and its
    interval, or their range); horizon, horizon_low, horizon_high (steps; of the median profile, and the interval of
    the seeds' median or their range), each with ``…_is_censored``; has_interval (`growth.median_interval`, otherwise
    range), coverage (of the interval, dimensionless; NaN for a range); stable_rate (nats per step); verdict; tendency;
    num_zero_lags; color, marker; and those of `gradhorizon.analysis.statistics.decay_law.columns`.
    """
    keys = [*CELL, "has_two_ends", "stage"]
    groups = seed_profiles(cohort).groupby(keys, sort=True)
    rows = [dict(zip(keys, key, strict=True)) | _quantities(group) for key, group in groups]
    return pd.DataFrame(rows).merge(cohort.look, on="series")


def _quantities(group: pd.DataFrame) -> dict[str, Any]:
    wide = group.pivot(index="lag", columns=MEMBER, values="relative_norm").sort_index()  # noqa: PD010, pivot_table multiplies experiments by seeds
    lags, profiles = wide.index.to_numpy(), wide.to_numpy().T
    rates = np.array([growth.growth_rate(lags, profile) for profile in profiles])
    span, has_interval = float(lags[-1]), growth.rate_interval(rates) is not None
    return {
        "num_seeds": len(profiles),
        "span": span,
        "stable_rate": growth.stable_rate(span),
        "has_interval": has_interval,
        "coverage": growth.coverage(len(rates)) if has_interval else np.nan,
        "verdict": growth.verdict(rates, span),
        "tendency": growth.tendency(rates, span),
        "num_zero_lags": int((growth.median_profile(profiles) == 0).sum()),
        **_rate(rates),
        **_horizon(lags, profiles),
        **columns(decay_law(lags, profiles)),
    }


def _rate(rates: np.ndarray) -> dict[str, float]:
    interval = growth.rate_interval(rates)
    known = rates[~np.isnan(rates)]
    if not len(known):
        return {"rate": np.nan, "rate_low": np.nan, "rate_high": np.nan}
    low, high = (interval.low, interval.high) if interval else (float(known.min()), float(known.max()))
    return {"rate": float(np.median(known)), "rate_low": low, "rate_high": high}


def _horizon(lags: np.ndarray, profiles: np.ndarray) -> dict[str, float | bool]:
    central = growth.gradient_horizon(lags, growth.median_profile(profiles))
    ends = growth.horizon_interval(lags, profiles) or _range([growth.gradient_horizon(lags, row) for row in profiles])
    named = zip(("horizon", "horizon_low", "horizon_high"), (central, *ends), strict=True)
    return {key: value for name, horizon in named for key, value in (
        (name, horizon.lag), (f"{name}_is_censored", horizon.is_censored))}  # fmt: skip


def _range(horizons: list[growth.Horizon]) -> tuple[growth.Horizon, growth.Horizon]:
    ordered = sorted(horizons, key=lambda horizon: (horizon.is_censored, horizon.lag))
    return ordered[0], ordered[-1]


def plot(table: pd.DataFrame, ax: Axes, quantity: str) -> None:
    """One quantity of one task and stage against T.

    Args:
        table: rows of `summarise` of one panel.
        ax: the panel.
        quantity: ``rate`` or ``horizon``.
    """
    curves = list(table.groupby("series", sort=True))
    for number, (_, curve) in enumerate(curves):
        shift = 1 + 0.16 * ((number + 0.5) / len(curves) - 0.5)
        _plot_curve(curve.sort_values("seq_len"), ax, quantity, shift)
    if quantity == "horizon":
        ax.plot(*_whole_sequence(table), "--", color=appearance.INK, linewidth=0.8, zorder=3)


def _whole_sequence(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    whole = table.drop_duplicates("seq_len").sort_values("seq_len")
    seq_len = np.array([whole["seq_len"].iloc[0] / 2, *whole["seq_len"], whole["seq_len"].iloc[-1] * 2], dtype=float)
    extra = (whole["input_len"] - whole["seq_len"]).to_numpy()
    return seq_len, seq_len + extra[[0, *range(len(extra)), -1]]


def _plot_curve(curve: pd.DataFrame, ax: Axes, quantity: str, shift: float) -> None:
    look = appearance.mark(curve)
    drawn = curve[np.isfinite(curve[quantity])]
    x, y = drawn["seq_len"] * shift, drawn[quantity]
    low, high = (drawn[f"{quantity}_{end}"].clip(-1e3, 1e6) for end in ("low", "high"))
    ax.vlines(x, low, high, color=look["color"], linewidth=1.0, alpha=0.75)
    ax.plot(x, y, **look, markersize=4.6, linewidth=1.0)
    if quantity == "horizon":
        _mark_censored(drawn, ax, x, look)
    else:
        cut = curve[np.isneginf(curve["rate"])]
        ax.plot(cut["seq_len"] * shift, np.full(len(cut), 0.03), **look, linestyle="none", markersize=4.6,
                transform=ax.get_xaxis_transform(), clip_on=False)  # fmt: skip


def _mark_censored(drawn: pd.DataFrame, ax: Axes, x: pd.Series, look: dict[str, Any]) -> None:
    is_beyond = drawn["horizon_is_censored"].to_numpy(dtype=bool)
    ax.plot(x[is_beyond], drawn.loc[is_beyond, "horizon"], **look | {"markeredgewidth": 1.0}, markersize=4.6,
            markerfacecolor="white", linestyle="none")  # fmt: skip
    for name in ("horizon", "horizon_high"):
        censored = drawn[f"{name}_is_censored"].to_numpy(dtype=bool)
        ax.plot(x[censored], drawn.loc[censored, name] * 1.16, color=look["color"], linestyle="none",
                marker=r"$\uparrow$", markersize=6, markeredgewidth=0.2)  # fmt: skip


def draw(table: pd.DataFrame, footnote: str) -> Figure:
    """One task's figure.

    Args:
        table: rows of `summarise` of one task.
        footnote: what was left out, appended to what the marks mean.
    """
    stages = [stage for stage in STAGES if stage in set(table["stage"])]
    figure, axes = appearance.panels(len(QUANTITIES), len(stages))
    for row, quantity in enumerate(QUANTITIES):
        for column, stage in enumerate(stages):
            ax = axes[row, column]
            ax.set_title(stage)
            plot(table[table["stage"] == stage], ax, quantity)
            _scale_x(ax, table)
            _SCALES[quantity](ax, table)
    axes[0, 0].set_ylabel("growth rate λ [nats/step]")
    axes[1, 0].set_ylabel("gradient horizon [steps]")
    for ax in axes[-1]:
        ax.set_xlabel("sequence length T [steps]")
    title = f"Reach against sequence length · {table['task'].iloc[0]}"
    said = f"{_legend(table)}{appearance.unnamed(table, 'names')} {footnote}"
    appearance.finish(figure, title, [appearance.series_handles(table), _MARKS], said)
    return figure


def _scale_x(ax: Axes, table: pd.DataFrame) -> None:
    lengths = sorted(table["seq_len"].unique().tolist())
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(length_ticks(lengths)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)


def _scale_rate(ax: Axes, table: pd.DataFrame) -> None:
    scale = rate_scale(table)
    ax.set_yscale("function", functions=(scale.forward, scale.inverse))
    stable = table.sort_values(["seq_len", "stable_rate"]).drop_duplicates("seq_len")
    edges = np.array([stable["seq_len"].iloc[0] / 2, *stable["seq_len"], stable["seq_len"].iloc[-1] * 2], dtype=float)
    half = stable["stable_rate"].to_numpy()[[0, *range(len(stable)), -1]]
    ax.fill_between(edges, -half, half, color=DAY_BAND, linewidth=0, zorder=0)
    ax.axhline(0, color=appearance.QUIET, linewidth=0.6, zorder=1)
    ax.set_ylim(scale.low, scale.high)
    _set_ticks(ax, scale.ticks)


def _scale_horizon(ax: Axes, table: pd.DataFrame) -> None:
    low, high = horizon_limits(table)
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    _set_ticks(ax, horizon_ticks(low, high))


def _set_ticks(ax: Axes, ticks: list[float]) -> None:
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    ax.yaxis.set_minor_locator(NullLocator())


_SCALES: dict[str, Callable[[Axes, pd.DataFrame], None]] = {"rate": _scale_rate, "horizon": _scale_horizon}


def _legend(table: pd.DataFrame) -> str:
    counts = sorted(table["num_seeds"].unique())
    seeds = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    covered = growth.spoken_coverage(table.loc[table["has_interval"], "num_seeds"])
    bars = f"{covered} interval of the median over seeds" if table["has_interval"].any() else "range of the seeds"
    doubt = (
        f" Intervals are not estimable with fewer than {MIN_SEEDS} seeds: ranges there."
        if counts[0] < MIN_SEEDS
        else ""
    )
    beyond = " Hollow: the point itself is censored." if table["horizon_is_censored"].any() else ""
    folded = _FOLDED if table["has_two_ends"].any() else ""
    cut = " Marks on the lower edge: rate −∞, cut off by exact zeros." if np.isneginf(table["rate"]).any() else ""
    return (
        f"Point: median over seeds ({seeds}) of the growth rate of the relative input gradient, and horizon of the "
        f"median profile: first lag from which it stays under 1/1000. Bar: {bars}.{doubt}{beyond}{folded}{cut} Shaded: "
        "rates that change the gradient by less than a factor of 10 over the sequence. Points stand apart sideways."
    )


def figures(cohort: Cohort) -> dict[str, Callable[[], Figure]]:
    """File stem -> draws the figure; one per task."""
    return {
        appearance.stem("sequence_length_scaling", task): partial(draw, rows, left_out(cohort, str(task)))
        for task, rows in summarise(cohort).groupby("task", sort=True)
    }


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return appearance.save(figures(cohort), out)
