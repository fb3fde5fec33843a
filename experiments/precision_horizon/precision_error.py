r"""How wrong the gradient of each number format is, lag by lag, on its way to being lost.

One figure per task and length: a column per format.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.precision_horizon.precision_horizon import named, seeds
from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.reading.cohort import CELL, Cohort
from gradhorizon.analysis.statistics import growth

TABLES = ("precision",)
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}
"""Unit roundoff, half the distance from 1 to the next number; the formats that are drawn."""
LARGEST_DRAWN = 1e4
_UNIT: dict[str, Any] = {"color": appearance.INK, "linewidth": 0.9, "linestyle": "--"}
_ALL: dict[str, Any] = {"color": appearance.INK, "linewidth": 0.7, "linestyle": (0, (1, 1.5))}


def summarise(cohort: Cohort) -> pd.DataFrame:
    """Relative error of the unscaled gradient per model, task, length, format and lag at initialisation.

    Columns: series, task, seq_len, input_len, dtype, lag (steps), num_seeds; median, low, high (dimensionless; over
    seeds, of each seed's median over samples; low and high are quartiles, or the range below `growth.MIN_SEEDS` seeds;
    NaN where float64 itself has lost the gradient); color, marker.
    """
    rows = cohort.table(TABLES[0])
    rows = rows[(rows["phase"] == "init") & (rows["loss_scale"] == 1) & rows["dtype"].isin(list(ROUNDOFF))]
    groups = rows.groupby([*CELL, "dtype", "lag"], sort=True)["relative_error_median"]
    tail = 0.25 if groups.size().min() >= growth.MIN_SEEDS else 0.0
    table = pd.DataFrame({
        "num_seeds": groups.size(), "median": groups.median(),
        "low": groups.quantile(tail, interpolation="nearest"),
        "high": groups.quantile(1 - tail, interpolation="nearest"),
    })  # fmt: skip
    return table.reset_index().merge(cohort.look, on="series")


def plot(table: pd.DataFrame, ax: Axes) -> None:
    """Relative error of one format against the lag.

    Args:
        table: rows of `summarise` of one panel.
        ax: the panel.
    """
    for number, (_, curve) in enumerate(table[table["lag"] >= 1].groupby("series", sort=True)):
        look = appearance.mark(curve)
        ax.fill_between(curve["lag"], curve["low"], curve["high"], color=look["color"], alpha=0.16, linewidth=0)
        ax.plot(curve["lag"], curve["median"], **look, markersize=4.2, markevery=appearance.sparse(len(curve), number))
    ax.axhline(ROUNDOFF[table["dtype"].iloc[0]], **_UNIT, zorder=1.5)
    ax.axhline(1, **_ALL, zorder=1.5)


def draw(table: pd.DataFrame) -> Figure:
    """Figure of the relative errors of one task and length, from rows of `summarise`."""
    figure, axes = appearance.panels(1, len(ROUNDOFF), height_in=2.5)
    for ax, dtype in zip(axes[0], ROUNDOFF, strict=True):
        plot(table[table["dtype"] == dtype], ax)
        ax.set(xscale="log", yscale="log", ylim=(ROUNDOFF["float32"] / 4, LARGEST_DRAWN), title=dtype)
        ax.set_xlabel(r"lag $\tau$ [steps]")
        ax.minorticks_off()
    axes[0, 0].set_ylabel("relative error of the gradient [–]")
    handles = [
        Line2D([], [], **_UNIT, label="unit roundoff"),
        Line2D([], [], **_ALL, label="1: as wrong as a zero"),
    ]
    title = f"How wrong the gradient is on the way · {named(table)}"
    appearance.finish(figure, title, [appearance.series_handles(table), handles], _legend(table))
    return figure


def _legend(table: pd.DataFrame) -> str:
    largest = table["high"].max()
    cut = f" Curves above {LARGEST_DRAWN:.0e} leave the panel (largest: {largest:.0e})."
    return (
        f"Line: median over seeds ({seeds(table)}) of each seed's median over probe samples of ‖g − g₆₄‖ / ‖g₆₄‖, g "
        "the gradient ∂L(t*)/∂x(t*−τ) in the format, g₆₄ in float64; band: quartiles of the seeds (range below "
        f"{growth.MIN_SEEDS}). A curve ends where float64 itself is zero. At initialisation, loss scale 1."
        f"{cut if largest > LARGEST_DRAWN else ''}"
    )


def figures(cohort: Cohort) -> dict[str, Callable[[], Figure]]:
    """File stem -> draws the figure; one per task and length."""
    return {
        appearance.stem("precision_error", f"{task}-T{seq_len}"): partial(draw, rows)
        for (task, seq_len), rows in summarise(cohort).groupby(["task", "seq_len"], sort=True)
    }


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return appearance.save(figures(cohort), out)
