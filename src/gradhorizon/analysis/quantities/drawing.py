"""A declared quantity as figures: one per task and length, and more where the panels are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatterMathtext, MaxNLocator, NullLocator
from matplotlib.transforms import offset_copy

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.figures.gradient_profile import left_out
from gradhorizon.analysis.figures.training_curves import plot_solving, solving_steps
from gradhorizon.analysis.quantities.declared import Axis, Quantity
from gradhorizon.analysis.quantities.limits import Limits, limits, steps_of_decades
from gradhorizon.analysis.quantities.over_seeds import summarise
from gradhorizon.analysis.quantities.words import footnote, without_numbers
from gradhorizon.analysis.reading.cohort import Cohort
from gradhorizon.analysis.reading.stages import STAGES

MOST_ROWS = 5
"""Rows of panels of one file."""
MOST_COLUMNS = 3
PANEL_HEIGHT_IN = 1.95
_FEW_POINTS = 12
_MOST_CHARACTERS = 38
"""Of a panel's title in full size."""
_DOTTED = (0, (1, 1.5))


class Cell(NamedTuple):
    """What one panel shows."""

    y: Axis
    facet: str
    stage: str


def panel_rows(quantity: Quantity, table: pd.DataFrame) -> list[list[Cell]]:
    """Panels from top to bottom: moments side by side, or facets.

    Args:
        quantity: what is drawn.
        table: rows of `summarise` of one task and length.
    """
    own = {y: table.loc[table["quantity"] == y.column, "facet"] for y in quantity.ys}
    facets = {y: [str(one) for one in found.cat.categories if (found == one).any()] for y, found in own.items()}
    if quantity.is_staged:
        stages = [stage for stage in STAGES if stage in set(table["stage"])]
        return [[Cell(y, facet, stage) for stage in stages] for y, of_y in facets.items() for facet in of_y]
    if max(map(len, facets.values())) == 1:
        return [[Cell(y, facet, "") for y, of_y in facets.items() for facet in of_y]]
    columns = min(MOST_COLUMNS, max(map(len, facets.values())))
    return [[Cell(y, facet, "") for facet in row] for y, of_y in facets.items() for row in _parts(of_y, columns)]


def _parts(items: Sequence[Any], most: int) -> list[Sequence[Any]]:
    return [items[start : start + most] for start in range(0, len(items), max(most, 1))]


def plot(table: pd.DataFrame, ax: Axes, y: Axis, shown: Limits) -> None:
    """Curves of one panel.

    Args:
        table: rows of `summarise` of the panel.
        ax: the panel.
        y: its vertical axis.
        shown: what of it is shown.
    """
    is_crowded = appearance.is_crowded(table)
    for number, (_, curve) in enumerate(table.sort_values("x").groupby("series", sort=True)):
        _plot_line(curve, ax, y, shown, number, is_crowded)
        _plot_marks(curve, ax, y, number)
        expected = curve[curve["expected"].notna()]
        ax.plot(expected["x"], expected["expected"], "--", color=curve["color"].iloc[0], linewidth=0.9, zorder=1.5)
    facet = str(table["facet"].iloc[0])
    for one in y.references:
        if one.facet in {"", facet}:
            ax.axhline(one.value, color=appearance.INK, linewidth=0.7, linestyle=_DOTTED, zorder=1.2)


def _plot_line(curve: pd.DataFrame, ax: Axes, y: Axis, shown: Limits, number: int, is_crowded: bool) -> None:
    look, whole = appearance.mark(curve), curve[~curve["is_partial"].astype(bool)]
    drawn = whole["median"].where(np.isfinite(whole["median"]) & ~y.is_beyond(whole["median"]))
    if is_crowded:
        single: dict[str, Any] = {"marker": ".", "markersize": 2.0} if len(whole) == 1 else {}
        ax.plot(whole["x"], drawn, color=look["color"], **appearance.CROWDED, **single)
        return
    reach = (shown.low / 10, shown.high * 10) if shown.is_log else (shown.low - 1, shown.high + 1)
    low, high = (whole[name].clip(*reach) for name in ("low", "high"))
    ax.fill_between(whole["x"], low, high, color=look["color"], alpha=0.16, linewidth=0)
    every = (0, 1) if len(whole) <= _FEW_POINTS else appearance.sparse(len(whole), number)
    ax.plot(whole["x"], drawn, **look, markersize=3.8, linewidth=1.2, markevery=every)


def _plot_marks(curve: pd.DataFrame, ax: Axes, y: Axis, number: int) -> None:
    look = appearance.mark(curve)
    edge: dict[str, Any] = {"linestyle": "none", "transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 4}
    for is_there, place in ((y.is_beyond(curve["median"]), 0.025 + 0.022 * (number % 4)),
                            (np.isposinf(curve["median"]), 0.985 - 0.022 * (number % 4))):  # fmt: skip
        at = curve.loc[is_there, "x"]
        at = at.iloc[:: max(len(at) // 12, 1)]
        ax.plot(at, np.full(len(at), place), **look, markersize=3.2, **edge)
    partly = curve[curve["is_partial"].astype(bool)]
    ax.plot(partly["x"], partly["median"], ".", color=look["color"], markersize=2.5, alpha=0.6)
    beyond = curve[curve["median_is_censored"].astype(bool)]
    ax.plot(beyond["x"], beyond["median"], **look | {"markeredgewidth": 0.9}, markersize=3.8, markerfacecolor="white",
            linestyle="none", zorder=3)  # fmt: skip
    above = offset_copy(ax.transData, ax.get_figure(root=True), y=5, units="points")
    ax.plot(beyond["x"], beyond["median"], color=look["color"], linestyle="none", marker=r"$\uparrow$", markersize=5,
            markeredgewidth=0.2, transform=above, clip_on=False)  # fmt: skip


def scale_x(ax: Axes, x: Axis, table: pd.DataFrame) -> None:
    """Limits, scale and ticks of the horizontal axis.

    Args:
        ax: the panel.
        x: the axis.
        table: rows that share it.
    """
    low, high = float(table["x"].min()), float(table["x"].max())
    margin = 0.03 * (high - low) or 1.0
    if x.scale == "linear":
        ax.set_xlim(low - margin, high + margin)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return
    if x.scale == "symlog":
        ax.set_xscale("symlog", linthresh=1, linscale=0.6)
        ax.set_xlim(min(low, 0) - 0.25, max(high, 1) * 1.25)
        ticks = [0.0, *steps_of_decades(1, max(high, 1))]
        ticks = [*(-tick for tick in steps_of_decades(1, -low)[::-1]), *ticks] if low <= -1 else ticks
    else:
        ax.set_xscale("log")
        ax.set_xlim(low / 1.2, high * 1.2)
        ticks = steps_of_decades(low, high, (1, 2, 5))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def scale_y(ax: Axes, shown: Limits) -> None:
    """Limits, scale and ticks of the vertical axis, with a strip for exact zeros if it has any.

    Args:
        ax: the panel.
        shown: what of the axis is shown.
    """
    if shown.is_log:
        ax.set_yscale("log")
    ax.set_ylim(shown.low, shown.high)
    ticks = shown.ticks
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    if shown.is_log and all(1e-3 <= tick <= 1e4 for tick in ticks):  # noqa: PLR2004, what is read without an exponent
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif shown.is_log:
        ax.yaxis.set_major_formatter(LogFormatterMathtext())
    if shown.strip is not None:
        ax.axhspan(shown.low, shown.lowest, color="#f3f4f6", zorder=0.5, linewidth=0)
        ax.annotate("0" if shown.is_log else "−∞", (0, shown.strip), (-5.5, 0), xycoords=ax.get_yaxis_transform(),
                    textcoords="offset points", fontsize=7, ha="right", va="center", annotation_clip=False)  # fmt: skip


def draw(
    quantity: Quantity, table: pd.DataFrame, page: Sequence[Sequence[Cell]], solved: pd.DataFrame, said: str
) -> Figure:
    """One file's figure.

    Args:
        quantity: what is drawn.
        table: rows of `summarise` of one task and length.
        page: panels from top to bottom, of `panel_rows`.
        solved: rows of `gradhorizon.analysis.figures.training_curves.solving_steps` of the same.
        said: what was left out.
    """
    shape = len(page), max(map(len, page))
    figure, axes = appearance.panels(*shape, height_in=PANEL_HEIGHT_IN)
    has_labels = quantity.is_staged or shape[1] == 1 or len({cell.y for cells in page for cell in cells}) < shape[1]
    longest = max(1, *(len(_title(cell, has_labels)) for cells in page for cell in cells))
    for row, column in product(*map(range, shape)):
        ax = axes[row, column]
        ax.set_visible(column < len(page[row]))
        if not ax.get_visible():
            continue
        cell = page[row][column]
        _draw_panel(quantity, table, cell, ax)
        plot_solving(solved, ax)
        ax.set_title(_title(cell, has_labels), fontsize=min(8, max(8 * _MOST_CHARACTERS / longest, 5)))
        if column == 0 and has_labels:
            ax.set_ylabel(cell.y.label)
        if row + 1 == shape[0] or column >= len(page[row + 1]):
            ax.set_xlabel(quantity.x.label)
    title = f"{quantity.title} · {table['task'].iloc[0]}, T = {table['seq_len'].iloc[0]}"
    drawn = table[_is_on(table, page)]
    words = f"{footnote(quantity, drawn)}{appearance.unnamed(drawn)} {said}"
    legends = [appearance.series_handles(drawn), list(_handles(drawn, page, len(solved) > 0))]
    appearance.finish(figure, title, legends, words)
    return figure


def _title(cell: Cell, has_labels: bool) -> str:
    parts = [appearance.escape(cell.facet), cell.stage, "" if has_labels else cell.y.label]
    return ",  ".join(part for part in parts if part)


def _draw_panel(quantity: Quantity, table: pd.DataFrame, cell: Cell, ax: Axes) -> None:
    of_axis = table[table["quantity"] == cell.y.column]
    shared = of_axis[of_axis["facet"] == cell.facet]
    shown = limits(cell.y, shared if quantity.is_staged else of_axis)
    panel = shared[shared["stage"] == cell.stage]
    scale_x(ax, quantity.x, table)
    scale_y(ax, shown)
    ax.set_autoscale_on(False)
    if panel["median"].notna().any():
        plot(panel, ax, cell.y, shown)
    else:
        words = "no value is a number" if len(panel) else "no member has ended"
        ax.text(0.5, 0.5, words, ha="center", color=appearance.QUIET, transform=ax.transAxes)


def _is_on(table: pd.DataFrame, page: Sequence[Sequence[Cell]]) -> pd.Series:
    panels = {(cell.y.column, cell.facet) for cells in page for cell in cells}
    keys = zip(table["quantity"], table["facet"].astype(str), strict=True)
    return pd.Series([key in panels for key in keys], table.index)


def _handles(table: pd.DataFrame, page: Sequence[Sequence[Cell]], has_solved: bool) -> Iterator[Line2D]:
    facets = set(table["facet"])
    for one in dict.fromkeys(one for cells in page for cell in cells for one in cell.y.references):
        if not one.facet or one.facet in facets:
            yield Line2D([], [], color=appearance.INK, linewidth=0.7, linestyle=_DOTTED, label=one.label)
    known = table[table["assumption"].notna()].drop_duplicates(["series", "assumption"]).sort_values("series")
    for row in known.itertuples() if len(known) <= appearance.MOST_NAMED else ():
        yield Line2D([], [], color=row.color, linewidth=0.9, linestyle="--",  # type: ignore[arg-type]
                     label=f"theory {appearance.short(row.series)}: {row.assumption}")  # fmt: skip
    if has_solved:
        yield Line2D(
            [], [], color=appearance.INK, linestyle="none", marker="v", markersize=4.5, label="a seed solved it"
        )


def figures(quantity: Quantity, cohort: Cohort) -> dict[str, Callable[[], Figure]]:
    """File stem -> draws the figure; one per task and length, or several, numbered.

    Args:
        quantity: what is drawn.
        cohort: of whose members.

    Raises:
        AbsentTableError: no member recorded its table.
    """
    found: dict[str, Callable[[], Figure]] = {}
    solved = solving_steps(cohort)
    for (task, seq_len), whole in summarise(quantity, cohort).groupby(["task", "seq_len"], sort=True):
        table, empty = without_numbers(quantity, whole)
        diverged = "Diverged, so without an end" if quantity.is_staged else "Diverged, drawn until then"
        said = " ".join(filter(None, (empty, left_out(cohort, str(task), int(str(seq_len)), diverged))))
        own = solved[(solved["task"] == task) & (solved["seq_len"] == seq_len)]
        rows = panel_rows(quantity, table) if len(table) else []
        pages = _parts(rows, -(-len(rows) // max(1, -(-len(rows) // MOST_ROWS))))
        for number, page in enumerate(pages, start=1):
            stem = appearance.stem(quantity.stem, task, f"T{seq_len}", *([number] if len(pages) > 1 else []))
            found[stem] = partial(draw, quantity, table, page, own.iloc[:0] if quantity.is_staged else own, said)
    return found


def write(sections: Sequence[Any], cohort: Cohort, out: Path) -> list[Path]:
    """Write the figures of all that was recorded; returns their paths.

    Args:
        sections: quantities; whatever else is in it is passed over.
        cohort: of whose members.
        out: folder to write to.

    Raises:
        AbsentTableError: no member recorded the table of any.
    """
    quantities = [one for one in sections if isinstance(one, Quantity)]
    recorded = [one for one in quantities if cohort.is_recorded(one.table)]
    drawn = [figures(one, cohort) for one in recorded or quantities[:1]]
    return appearance.save({stem: draw for found in drawn for stem, draw in found.items()}, out)
