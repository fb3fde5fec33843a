r"""From which lag on the number format has lost the gradient, against the growth rate of the gradient in float64.

One figure per task and length: a row per loss scale, a column per format, with theory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.reading.cohort import CELL, MEMBER, Cohort, records
from gradhorizon.analysis.statistics import growth
from gradhorizon.theory import underflow_lag

TABLES = ("precision",)
SMALLEST_NORMAL = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}
DRAWN = ("float16", "bfloat16", "float32")
BEYOND_COLOR = "#f3f4f6"
_FORMAT = ["dtype", "loss_scale"]
_THEORY = (
    Line2D([], [], color=appearance.INK, linestyle="--", linewidth=0.9, label="theory: ln(s·g(0)/m) / |λ|"),
    Patch(color=appearance.GRID, label="theory: from the smallest to the largest g(0)"),
)


def seed_lags(cohort: Cohort) -> pd.DataFrame:
    """Underflow of every member, format and loss scale at initialisation, with what theory expects of its rate.

    Columns: series, task, seq_len, input_len, experiment, run, seed, dtype, loss_scale; rate (nats per step, of the
    largest entry in float64), start (g(0), the same entry at lag 0, loss per input unit), span (longest lag, steps);
    underflow_lag and zero_lag (steps, infinite where censored), expected (steps, of underflow_lag).
    """
    rows = cohort.table(TABLES[0])
    rows = rows[rows["phase"] == "init"].sort_values("lag")
    found = rows.drop_duplicates([*MEMBER, *_FORMAT])[
        [*CELL, *MEMBER, *_FORMAT, "underflow_lag_steps", "is_underflow_censored", "zero_lag_steps", "is_zero_censored"]
    ].assign(
        underflow_lag=lambda frame: frame["underflow_lag_steps"].mask(frame["is_underflow_censored"], np.inf),
        zero_lag=lambda frame: frame["zero_lag_steps"].mask(frame["is_zero_censored"], np.inf),
    )
    profiles = rows[(rows["dtype"] == "float64") & (rows["loss_scale"] == rows["loss_scale"].min())]
    rates = pd.DataFrame([_rate(key, profile) for key, profile in profiles.groupby(MEMBER)])
    table = found.merge(rates, on=MEMBER).sort_values([*CELL, *_FORMAT, *MEMBER], ignore_index=True)
    return table.assign(expected=table.apply(_expected, axis=1))[
        [*CELL, *MEMBER, *_FORMAT, "rate", "start", "span", "underflow_lag", "zero_lag", "expected"]
    ]


def _rate(key: tuple[Any, ...], profile: pd.DataFrame) -> dict[str, Any]:
    lags, entries = profile["lag"].to_numpy(), profile["largest_entry_median"].to_numpy()
    start = float(entries[0] / profile["loss_scale"].iloc[0])
    rate = growth.growth_rate(lags, entries / entries[0]) if entries[0] > 0 else np.nan
    return {**dict(zip(MEMBER, key, strict=True)), "rate": rate, "start": start, "span": float(lags[-1])}


def _expected(row: Any) -> float:
    smallest, start = SMALLEST_NORMAL[row["dtype"]], row["start"] * row["loss_scale"]
    return underflow_lag(row["rate"], smallest, start) if start > 0 else np.nan


def summarise(cohort: Cohort) -> pd.DataFrame:
    """Underflow lag and growth rate per model, task, length, format and loss scale.

    Columns: series, task, seq_len, input_len, dtype, loss_scale, num_seeds, span (longest lag, steps); rate, rate_low,
    rate_high (nats per step), underflow_lag, underflow_lag_low, underflow_lag_high, zero_lag, expected (steps, infinite
    beyond the span): medians over seeds and their intervals, ranges below `growth.MIN_SEEDS`; start
    (median over seeds, loss per input unit); color, marker.
    """
    groups = seed_lags(cohort).groupby([*CELL, *_FORMAT], sort=True)
    rows = [dict(zip([*CELL, *_FORMAT], key, strict=True)) | _quantities(group) for key, group in groups]
    return pd.DataFrame(rows).merge(cohort.look, on="series")


def _quantities(group: pd.DataFrame) -> dict[str, float]:
    rates, lags = group["rate"].to_numpy(), group["underflow_lag"].to_numpy()
    rate_low, rate_high = interval_of_median(rates)
    low, high = interval_of_median(lags)
    return {
        "num_seeds": len(group),
        "span": group["span"].iloc[0],
        "rate": middle(rates),
        "rate_low": rate_low,
        "rate_high": rate_high,
        "underflow_lag": middle(lags),
        "underflow_lag_low": low,
        "underflow_lag_high": high,
        "zero_lag": middle(group["zero_lag"].to_numpy()),
        "expected": middle(group["expected"].to_numpy()),
        "start": middle(group["start"].to_numpy()),
    }


def middle(values: Float[np.ndarray, "... M"]) -> Any:
    """Median that is one of the values, the lower of two: a censored lag, which is infinite, is never averaged.

    Example:
        >>> float(middle(np.array([300.0, 100.0, np.inf])))
        300.0
    """
    return np.quantile(values, 0.5, axis=-1, method="inverted_cdf")


def interval_of_median(values: Float[np.ndarray, " M"]) -> tuple[float, float]:
    """`growth.median_interval`, the range with fewer than `growth.MIN_SEEDS` seeds.

    Args:
        values: one per seed, shape (M,); infinite where censored.
    """
    interval = growth.median_interval(values)
    return (interval.low, interval.high) if interval else (float(values.min()), float(values.max()))


def plot(table: pd.DataFrame, ax: Axes) -> None:
    """Underflow lag against growth rate of one format and loss scale, with theory.

    Args:
        table: rows of `summarise` of one panel.
        ax: the panel.
    """
    span = float(table["span"].max())
    ax.set(yscale="log", ylim=(min(5.0, _drawable(table["underflow_lag_low"].min())), 3 * span))
    _plot_theory(table, ax)
    ax.axhspan(span, 100 * span, color=BEYOND_COLOR, linewidth=0, zorder=0)
    ax.text(0.015, 1.35 * span, "beyond the sequence", transform=ax.get_yaxis_transform(), fontsize=5.5,
            color=appearance.QUIET)  # fmt: skip
    num_beyond = 0
    for row in records(table):
        num_beyond += np.isinf(row["underflow_lag"])
        # Censored points have no height of their own: they stand one above the other.
        beyond = span * 1.45**num_beyond
        y = min(_drawable(row["underflow_lag"]), beyond)
        low, high = (min(_drawable(row[f"underflow_lag_{end}"]), 1.45 * span) for end in ("low", "high"))
        ax.plot([row["rate_low"], row["rate_high"]], [y, y], color=row["color"], linewidth=0.9)
        ax.plot([row["rate"]] * 2, [low, high], color=row["color"], linewidth=0.9)
        ax.plot(row["rate"], y, **appearance.mark(pd.DataFrame([row])), markersize=4.6, linestyle="none", zorder=3)


def _drawable(lag: float) -> float:
    # A gradient that is lost at lag 0 has no place on a logarithmic axis.
    return max(lag, 1.0)


def _plot_theory(table: pd.DataFrame, ax: Axes) -> None:
    smallest, scale = SMALLEST_NORMAL[table["dtype"].iloc[0]], float(table["loss_scale"].iloc[0])
    lowest = float(table["rate_low"].min())
    rates = -np.geomspace(-1.15 * lowest, -lowest / 2000, 300) if lowest < 0 else np.empty(0)

    def lags(start: float) -> list[float]:
        return [underflow_lag(rate, smallest, scale * start) for rate in rates]

    starts = table["start"][table["start"] > 0]
    if not len(starts):
        return
    ax.fill_between(rates, lags(starts.min()), lags(starts.max()), color=appearance.GRID, linewidth=0, zorder=0)
    ax.plot(rates, lags(float(starts.median())), "--", color=appearance.INK, linewidth=0.9, zorder=1.5)


def draw(table: pd.DataFrame) -> Figure:
    """Figure of the underflow lags of one task and length, from rows of `summarise`."""
    scales = sorted(table["loss_scale"].unique())
    figure, axes = appearance.panels(len(scales), len(DRAWN))
    for row, scale in enumerate(scales):
        for column, dtype in enumerate(DRAWN):
            ax = axes[row, column]
            plot(table[(table["dtype"] == dtype) & (table["loss_scale"] == scale)], ax)
            ax.set(xlim=_rate_limits(table))
            ax.set_title(f"{dtype},  loss scale s = {scale:g}", fontsize=8)
            ax.minorticks_off()
        axes[row, 0].set_ylabel("underflow lag [steps]")
    for ax in axes[-1]:
        ax.set_xlabel(r"growth rate $\lambda$ in float64 [nats/step]")
    title = f"From which lag on the number format has lost the gradient · {named(table)}"
    appearance.finish(figure, title, [appearance.series_handles(table), _THEORY], _lag_legend(table))
    return figure


def _rate_limits(table: pd.DataFrame) -> tuple[float, float]:
    rates = table[["rate_low", "rate_high"]].to_numpy()
    rates = rates[np.isfinite(rates)]
    lowest, highest = rates.min(initial=-0.01), rates.max(initial=0.0)
    return 1.12 * lowest, highest - 0.06 * lowest


def named(table: pd.DataFrame) -> str:
    """Task and length of `table`, as titles say them."""
    return f"{table['task'].iloc[0]}, T = {table['seq_len'].iloc[0]}"


def seeds(table: pd.DataFrame) -> str:
    """Number of seeds of `table` (column num_seeds), as footnotes say it."""
    counts = sorted(table["num_seeds"].unique())
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _lag_legend(table: pd.DataFrame) -> str:
    counts = table["num_seeds"]
    bars = f"{growth.spoken_coverage(counts)} interval" if counts.max() >= growth.MIN_SEEDS else "range"
    return (
        "Underflow lag: first lag from which on at least half of the probe samples have nothing but zero or subnormal "
        f"entries in ∂L(t*)/∂x(t*−τ). Point: median over seeds ({seeds(table)}) of lag and of growth "
        f"rate λ, the latter of the largest entry in float64; bars: {bars} over seeds. "
        "Theory: an exponential from g(0), the largest entry at lag 0 (dashed: median of the models), meets "
        "the smallest normal number m of the format; s is the loss scale. At initialisation."
    )


def figures(cohort: Cohort) -> dict[str, Callable[[], Figure]]:
    """File stem -> draws the figure; one per task and length."""
    return {
        appearance.stem("precision_horizon", f"{task}-T{seq_len}"): partial(draw, rows)
        for (task, seq_len), rows in summarise(cohort).groupby(["task", "seq_len"], sort=True)
    }


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return appearance.save(figures(cohort), out)
