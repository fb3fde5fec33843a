"""How far back the gradient reaches: relative input-gradient norm against lag, at init and after training.

One figure per task: a column per length, a row per moment; logarithmic, so that exponential decay is a straight line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.drawing.scales import LOWEST_DRAWN, powers_of_ten
from gradhorizon.analysis.drawing.theory_lines import theory_profiles
from gradhorizon.analysis.quantities.declared import Section
from gradhorizon.analysis.reading.cohort import CELL, MEMBER, Cohort
from gradhorizon.analysis.reading.profiles import over_lag
from gradhorizon.analysis.reading.stages import STAGES, staged
from gradhorizon.analysis.statistics.growth import HORIZON_LEVEL, MIN_SEEDS, median_profile
from gradhorizon.records.read_ends import NAME

TABLES = ("input_gradients",)
SECTIONS = (
    Section(
        1,
        "How far back the gradient reaches",
        "Relative input gradient against lag; dotted: the horizon level 1/1000.",
    ),
)
MOST_LISTED = 40
SMALLEST_DRAWABLE = 1e-320


@lru_cache(maxsize=1)
def seed_profiles(cohort: Cohort) -> pd.DataFrame:
    """Relative profile of every member at init and after training; the median over samples of each.

    Columns: series, model, task, seq_len, input_len, has_two_ends (whether the lag is the distance to the nearest end
    that is read, as for bidirectional networks), stage, experiment, run, seed, lag (steps, ≥ 0), relative_norm.
    """
    rows = over_lag(cohort, staged(cohort, cohort.table(TABLES[0])))
    columns = [*CELL, "model", "has_two_ends", "stage", *MEMBER, "lag"]
    return (
        rows[rows["lag"] >= 0]
        .assign(relative_norm=lambda frame: frame["relative_gradient_norm_median"])[[*columns, "relative_norm"]]
        .sort_values([*columns[:-1], "lag"], ignore_index=True)
    )


@lru_cache(maxsize=1)
def summarise(cohort: Cohort) -> pd.DataFrame:
    """Profile per model, task, length and stage.

    Columns: series, task, seq_len, input_len, model, has_two_ends, stage, lag (steps), median, low, high (relative
    norm, dimensionless), num_seeds, expected (theory at init, NaN elsewhere), assumption, color, marker. The band is
    the range of the seeds if there are fewer than `MIN_SEEDS`, their quartiles otherwise.
    """
    profiles = seed_profiles(cohort)
    keys = [*CELL, "model", "has_two_ends", "stage"]
    parts = [_over_seeds(group, keys) for _, group in profiles.groupby(keys, sort=True)]
    table = pd.concat(parts, ignore_index=True)
    expected = theory_profiles(table, cohort).assign(stage=STAGES[0])
    return table.merge(expected, on=["series", "task", "seq_len", "lag", "stage"], how="left").merge(
        cohort.look, on="series"
    )


def _over_seeds(group: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    wide = group.pivot(index="lag", columns=MEMBER, values="relative_norm").sort_index()  # noqa: PD010, pivot_table multiplies experiments by seeds
    values = wide.to_numpy().T
    tails = (0.25, 0.75) if len(values) >= MIN_SEEDS else (0.0, 1.0)
    low, high = (wide.quantile(tail, axis=1, interpolation="nearest").to_numpy() for tail in tails)
    columns = {"lag": wide.index, "median": median_profile(values), "low": low, "high": high}
    first = group.iloc[0]
    return pd.DataFrame({**columns, "num_seeds": len(values), **{key: first[key] for key in keys}})


def plot(table: pd.DataFrame, ax: Axes) -> None:
    """Profiles of one task, length and stage.

    Args:
        table: rows of `summarise` of one panel.
        ax: the panel.
    """
    ax.set(yscale="log", ylim=(HORIZON_LEVEL, 1))
    _plot_horizon_line(ax, float(table["lag"].max()))
    is_crowded = appearance.is_crowded(table)
    for number, (_, curve) in enumerate(table.groupby("series", sort=True)):
        _plot_curve(curve, ax, number, is_crowded)
    for _, curve in table[table["expected"].notna()].groupby("series", sort=True):
        ax.plot(curve["lag"], curve["expected"], "--", color=curve["color"].iloc[0], linewidth=0.9, zorder=1.5)


def _plot_horizon_line(ax: Axes, last_lag: float) -> None:
    ax.axhline(HORIZON_LEVEL, color=appearance.INK, linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=1)
    ax.set_xlim(-0.02 * max(last_lag, 1), 1.02 * max(last_lag, 1))


def _plot_curve(curve: pd.DataFrame, ax: Axes, number: int, is_crowded: bool) -> None:
    look, lags = appearance.mark(curve), curve["lag"]
    drawn = curve["median"].where(curve["median"] > 0)
    if is_crowded:
        ax.plot(lags, drawn, color=look["color"], **appearance.CROWDED)
    else:
        low, high = curve["low"].clip(lower=SMALLEST_DRAWABLE), curve["high"]
        ax.fill_between(lags, low, high, color=look["color"], alpha=0.16, linewidth=0)
        ax.plot(lags, drawn, **look, markersize=4.2, markevery=appearance.sparse(len(curve), number))
    zeros = lags[curve["median"] == 0]
    floor = zeros.iloc[:: max(len(zeros) // 12, 1)]
    ax.plot(floor, np.full(len(floor), 0.025 + 0.022 * (number % 4)), **look, markersize=3.2, linestyle="none",
            transform=ax.get_xaxis_transform(), clip_on=False, zorder=4)  # fmt: skip


def limit(table: pd.DataFrame, ax: Axes) -> None:
    """Limits of the y axis that suit all rows of `table`, with a strip for exact zeros if it has any.

    Args:
        table: rows of `summarise` that share the axis.
        ax: the panel.
    """
    values = table[["median", "low", "high"]].to_numpy(dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    low = max(min(values.min(initial=1.0) / 2, HORIZON_LEVEL / 10), LOWEST_DRAWN)
    high = min(max(values.max(initial=1.0) * 3, 3.0), 1 / LOWEST_DRAWN)
    lowest = low
    if (table["median"] == 0).any():
        low = lowest * (lowest / high) ** 0.14
        ax.axhspan(low, lowest, color="#f3f4f6", zorder=3, linewidth=0)
        ax.text(0.008, 0.015, "exactly 0", transform=ax.transAxes, fontsize=5.5, color=appearance.QUIET, zorder=5)
    ax.set_ylim(low, high)
    ax.yaxis.set_major_locator(FixedLocator(powers_of_ten(lowest, high)))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.minorticks_off()


def draw(table: pd.DataFrame, footnote: str) -> Figure:
    """One task's figure.

    Args:
        table: rows of `summarise` of one task.
        footnote: what was left out, appended to what the marks mean.
    """
    lengths = table[["seq_len", "input_len"]].drop_duplicates().sort_values("seq_len")
    stages = [stage for stage in STAGES if stage in set(table["stage"])]
    figure, axes = appearance.panels(len(stages), len(lengths))
    for row, stage in enumerate(stages):
        in_row = table[table["stage"] == stage]
        for column, length in enumerate(lengths.itertuples()):
            panel = in_row[in_row["seq_len"] == length.seq_len]
            _draw_panel(panel, axes[row, column], f"{stage},  T = {length.seq_len}  (N = {length.input_len} steps)")
            limit(in_row, axes[row, column])
        axes[row, 0].set_ylabel(r"relative gradient $g(\tau)$ [–]")
    for ax in axes[-1]:
        ax.set_xlabel(lag_label(table, r"lag $\tau$"), fontsize=7 if table["has_two_ends"].any() else 8)
    title = f"How far back the gradient reaches · {table['task'].iloc[0]}"
    appearance.finish(
        figure,
        title,
        [appearance.series_handles(table), _handles(table)],
        f"{_legend(table)}{appearance.unnamed(table)} {footnote}",
    )
    return figure


def lag_label(table: pd.DataFrame, lag: str) -> str:
    """Label of the horizontal axis: the lag, or what stands for it in networks that are read at both ends.

    Args:
        table: rows of `summarise` that share the axis.
        lag: how the axis writes the lag.
    """
    if not table["has_two_ends"].any():
        return f"{lag} [steps]"
    return f"{NAME} [steps]" if table["has_two_ends"].all() else f"{lag} or {NAME} [steps]"


def _draw_panel(panel: pd.DataFrame, ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=8)
    if len(panel):
        plot(panel, ax)
    else:
        ax.text(0.5, 0.5, "no member has ended", ha="center", color=appearance.QUIET, transform=ax.transAxes)


def _handles(table: pd.DataFrame) -> list[Line2D]:
    known = table[table["assumption"].notna()].drop_duplicates("series").sort_values("series")
    if len(known) > appearance.MOST_NAMED:
        known = known.iloc[:0]
    dotted = Line2D([], [], color=appearance.INK, linewidth=0.7, linestyle=(0, (1, 1.5)), label="horizon level, 1/1000")
    return [dotted] + [
        Line2D([], [], color=row.color, linewidth=0.9, linestyle="--",  # type: ignore[arg-type]
               label=f"theory {appearance.short(row.series)}: {row.assumption}")
        for row in known.itertuples()
    ]  # fmt: skip


def _legend(table: pd.DataFrame) -> str:
    counts = sorted(table["num_seeds"].unique())
    seeds = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    band = "range" if counts[-1] < MIN_SEEDS else "quartiles (range below 5 seeds)"
    text = (
        f"g(τ) = ‖∂L(t*)/∂x(t*−τ)‖ / ‖∂L(t*)/∂x(t*)‖: gradient of the loss at the last loss step t* with respect to "
        f"the input τ steps earlier, relative to lag 0. Line: median over "
        f"seeds ({seeds}) of each seed's median over probe samples; band: {band} of the seeds."
    )
    lowest = table["median"][table["median"] > 0].min()
    cut = f" Curves below {LOWEST_DRAWN:.0e} leave the panel (smallest: {lowest:.0e})." if lowest < LOWEST_DRAWN else ""
    dashed = " Theory (dashed) holds at init under the assumption named." if table["assumption"].notna().any() else ""
    two_ends = (
        " Bidirectional networks: distance to the nearest end that is read, of both ends the larger gradient."
        if table["has_two_ends"].any()
        else ""
    )
    return text + cut + dashed + two_ends


def left_out(
    cohort: Cohort, task: str, seq_len: int | None = None, diverged: str = "Diverged, so without an end"
) -> str:
    """Sentences that list the members of `task` (at one length, if given) that have no end, empty if all have one.

    Of more than `MOST_LISTED`, the others are counted. What becomes of those that diverged is said in `diverged`.
    """
    parts = []
    for words, everywhere in ((diverged, cohort.diverged), ("Unfinished", cohort.unfinished)):
        members = everywhere[everywhere["task"] == task]
        members = members if seq_len is None else members[members["seq_len"] == seq_len]
        if len(members):
            named = [f"{row.series} T{row.seq_len} seed {row.seed}" for row in members.head(MOST_LISTED).itertuples()]
            more = len(members) - len(named)
            parts.append(f"{words}: {', '.join(named)}{f', and {more} more' if more else ''}.")
    return " ".join(parts)


def figures(cohort: Cohort) -> dict[str, Callable[[], Figure]]:
    """File stem -> draws the figure; one per task."""
    return {
        appearance.stem("gradient_profile", task): partial(draw, rows, left_out(cohort, str(task)))
        for task, rows in summarise(cohort).groupby("task", sort=True)
    }


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return appearance.save(figures(cohort), out)
