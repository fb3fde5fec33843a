"""Over how many directions the states spread: participation ratio against lag, at init and after training.

One figure per task: a column per length, a row per moment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.figures.gradient_profile import left_out
from gradhorizon.analysis.quantities.declared import LAG, Axis, Quantity
from gradhorizon.analysis.reading.cohort import CELL, Cohort
from gradhorizon.analysis.reading.stages import STAGES, staged

TABLES = ("state_dimension",)
SECTIONS = (
    Quantity(
        number=90,
        title="Dimension of the states",
        note="The state dimension: participation ratio of the covariance of a layer's full state over samples.",
        stem="state_dimension",
        table="state_dimension",
        x=LAG,
        ys=(Axis("participation_ratio", "participation ratio D [–]"),),
    ),
)


@lru_cache(maxsize=1)
def summarise(cohort: Cohort) -> pd.DataFrame:
    """Dimension of the topmost layer's forward states per model, task, length and stage.

    Columns: series, task, seq_len, input_len, stage, lag (steps), median, low, high (D, dimensionless; the band is the
    range of the seeds), num_seeds, color, marker. Cuts without any variance, as before the first input, are left out.
    """
    rows = staged(cohort, cohort.table(TABLES[0]))
    is_topmost = rows["layer"] == rows.groupby("series")["layer"].transform("max")
    rows = rows[is_topmost & (rows["direction"] == "forward") & rows["participation_ratio"].notna()]
    grouped = rows.groupby([*CELL, "stage", "lag"], sort=True)["participation_ratio"]
    table = grouped.agg(["median", "min", "max", "size"]).reset_index()
    return table.rename(columns={"min": "low", "max": "high", "size": "num_seeds"}).merge(cohort.look, on="series")


def plot(table: pd.DataFrame, ax: Axes) -> None:
    """Curves of one task, length and stage.

    Args:
        table: rows of `summarise` of one panel.
        ax: the panel.
    """
    is_crowded = appearance.is_crowded(table)
    for number, (_, curve) in enumerate(table.groupby("series", sort=True)):
        look = appearance.mark(curve)
        if is_crowded:
            ax.plot(curve["lag"], curve["median"], color=look["color"], **appearance.CROWDED)
            continue
        ax.fill_between(curve["lag"], curve["low"], curve["high"], color=look["color"], alpha=0.16, linewidth=0)
        ax.plot(curve["lag"], curve["median"], **look, markersize=4.2, markevery=appearance.sparse(len(curve), number))


def draw(table: pd.DataFrame, footnote: str) -> Figure:
    """One task's figure.

    Args:
        table: rows of `summarise` of one task.
        footnote: what was left out, appended to what the marks mean.
    """
    lengths = sorted(table["seq_len"].unique())
    stages = [stage for stage in STAGES if stage in set(table["stage"])]
    figure, axes = appearance.panels(len(stages), len(lengths))
    for row, stage in enumerate(stages):
        for column, length in enumerate(lengths):
            ax = axes[row, column]
            plot(table[(table["stage"] == stage) & (table["seq_len"] == length)], ax)
            ax.set_title(f"{stage},  T = {length}")
            ax.set_ylim(0, 1.05 * table["high"].max())
        axes[row, 0].set_ylabel("participation ratio D [–]")
    for ax in axes[-1]:
        ax.set_xlabel(r"lag $\tau$ [steps]")
    title = f"Dimension of the states · {table['task'].iloc[0]}"
    said = f"{_legend(table)}{appearance.unnamed(table)} {footnote}"
    appearance.finish(figure, title, [appearance.series_handles(table)], said)
    return figure


def _legend(table: pd.DataFrame) -> str:
    least, most = table["num_seeds"].min(), table["num_seeds"].max()
    seeds = f"n = {most}" if least == most else f"n = {least} to {most}"
    return (
        "D = (tr C)² / tr C² of the covariance C of the topmost layer's full state over probe samples, read forward. "
        f"Line: median over seeds ({seeds}); band: their range."
    )


def figures(cohort: Cohort) -> dict[str, Callable[[], Figure]]:
    """File stem -> draws the figure; one per task."""
    return {
        appearance.stem("state_dimension", task): partial(draw, rows, left_out(cohort, str(task)))
        for task, rows in summarise(cohort).groupby("task", sort=True)
    }


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return appearance.save(figures(cohort), out)
