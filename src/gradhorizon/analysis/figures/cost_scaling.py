"""How seconds and bytes of a training step grow with the number of steps fed.

A table of fitted exponents, and one figure per task, with lines of slope 1 and 2 beside the measured ones. Reads what
each member measured first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.drawing.markdown import noted_table
from gradhorizon.analysis.drawing.saving import origin, save_table, save_text
from gradhorizon.analysis.figures.gradient_profile import left_out
from gradhorizon.analysis.quantities.declared import Axis, Quantity
from gradhorizon.analysis.reading.cohort import CELL, MEMBER, Cohort, records
from gradhorizon.analysis.statistics import growth
from gradhorizon.analysis.statistics.growth import MIN_SEEDS

TABLES = ("cost",)
SETTING = ["device", "precision", "num_threads", "batch_size"]
"""Columns in which one program's cost differs from another's."""
CURVE = [*CELL, *SETTING, "quantity"]
_MIB = 2**20


QUANTITIES = {
    # Other programs on the machine only ever add to a time: the least of the rounds has the least of them in it.
    "time": Axis("step_time_low_s", "time of a training step [s]", "log"),
    "saved": Axis("saved_for_backward_bytes", "saved for the backward pass [MiB]", "log", _MIB),
    "peak": Axis("peak_allocated_bytes", "peak allocation of a step [MiB]", "log", _MIB),
}
SECTIONS = (
    Quantity(
        number=90,
        title="Cost of a training step",
        note="Forward, loss, backward, clipping and optimizer against the steps fed, up to the task's own input "
        "length; of the time, each seed's least of its rounds.",
        stem="cost_scaling",
        table="cost",
        x=Axis("input_len_fed", "steps fed n [steps]", "log"),
        ys=tuple(QUANTITIES.values()),
        facets=(("program", str),),
        keep=lambda rows: rows.assign(program=[program(row) for row in records(rows)]),
    ),
)
HEADER = ("model", "task", "T", "program", "quantity", "exponent", "interval", "range of the seeds", "at N",
          "steps fed", "seeds")  # fmt: skip
_SLOPES = {1: (0, (6, 2)), 2: (0, (2, 2))}
_REFERENCES = [
    Line2D([], [], color=appearance.INK, linestyle=dashes, linewidth=0.8, label=f"∝ n{'²' if slope == 2 else ''}")  # noqa: PLR2004
    for slope, dashes in _SLOPES.items()
]


@lru_cache(maxsize=1)
def measured(cohort: Cohort) -> pd.DataFrame:
    """What every member measured first: one row per member, quantity and length.

    Columns: `CURVE`, `MEMBER`, n (steps fed), value (seconds or MiB). What a device does not tell is absent.
    """
    rows = cohort.table("cost")
    rows = rows[rows["step"] == rows.groupby(MEMBER)["step"].transform("min")]
    keys = [*dict.fromkeys([*CELL, *SETTING, *MEMBER])]
    parts = [
        rows[keys].assign(quantity=name, n=rows["input_len_fed"], value=rows[own.column].astype(float) / own.per_unit)
        for name, own in QUANTITIES.items()
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset="value")


def exponent(fed: Float[np.ndarray, " L"], values: Float[np.ndarray, " L"]) -> float:
    """Slope of ln(value) against ln(steps fed), by least squares; NaN with fewer than two lengths.

    What a step costs whatever its length (the optimizer, a kernel's launch) flattens it at short lengths.

    Args:
        fed: steps fed, distinct.
        values: positive.

    Example:
        >>> round(exponent(np.array([10.0, 20.0, 40.0]), np.array([300.0, 1200.0, 4800.0])), 12)
        2.0
    """
    usable = np.isfinite(values) & (values > 0)
    if usable.sum() < 2:  # noqa: PLR2004
        return math.nan
    return float(np.polyfit(np.log(fed[usable]), np.log(values[usable]), 1)[0])


def summarise(cohort: Cohort) -> pd.DataFrame:
    """Exponents per model, task, length, program and quantity.

    Columns: `CURVE`; num_seeds; exponent (median over seeds), exponent_low, exponent_high (`growth.median_interval`,
    NaN where it is not estimable), exponent_least, exponent_greatest (of the seeds); at_full_length (seconds or MiB at
    the longest length, median over seeds); fed_from, fed_to (steps).
    """
    groups = measured(cohort).groupby(CURVE)
    return pd.DataFrame([dict(zip(CURVE, key, strict=True)) | _fit(group) for key, group in groups])


def _fit(group: pd.DataFrame) -> dict[str, Any]:
    of_seeds = group.groupby(MEMBER)
    exponents = np.array([exponent(own["n"].to_numpy(float), own["value"].to_numpy()) for _, own in of_seeds])
    interval = growth.rate_interval(exponents) or growth.Interval(math.nan, math.nan)
    known = exponents[~np.isnan(exponents)]
    return {
        "num_seeds": len(exponents),
        "exponent": float(np.median(known)) if len(known) else math.nan,
        "exponent_low": interval.low,
        "exponent_high": interval.high,
        "exponent_least": known.min(initial=math.inf) if len(known) else math.nan,
        "exponent_greatest": known.max(initial=-math.inf) if len(known) else math.nan,
        "at_full_length": float(group.loc[group["n"] == group["n"].max(), "value"].median()),
        "fed_from": int(group["n"].min()),
        "fed_to": int(group["n"].max()),
    }


def spoken(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: every cell a string, columns as `HEADER`.

    Args:
        table: of `summarise`.
    """
    return pd.DataFrame([_spoken_row(row) for row in records(table)], columns=pd.Index(HEADER))


def _spoken_row(row: dict[str, Any]) -> list[str]:
    unit = "s" if row["quantity"] == "time" else "MiB"
    return [
        str(row["series"]),
        str(row["task"]),
        str(row["seq_len"]),
        program(row),
        str(row["quantity"]),
        "–" if pd.isna(row["exponent"]) else f"{row['exponent']:.2f}",
        _interval(row),
        _span(row["exponent_least"], row["exponent_greatest"]),
        f"{row['at_full_length']:.3g} {unit}",
        f"{row['fed_from']} … {row['fed_to']}",
        str(row["num_seeds"]),
    ]


def _interval(row: dict[str, Any]) -> str:
    interval = _span(row["exponent_low"], row["exponent_high"])
    return interval if interval == "–" else f"{interval} ({growth.spoken_coverage([row['num_seeds']])})"


def _span(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{low:.2f} … {high:.2f}"


def program(row: dict[str, Any]) -> str:
    """What ran, in words: device, precision, threads and batch size of a row with the columns `SETTING`."""
    threads = f"{row['num_threads']} thread{'s' * (row['num_threads'] != 1)}"
    return f"{row['device']}, {row['precision']}, {threads}, batch {row['batch_size']}"


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown.

    Args:
        table: of `summarise`.
    """
    return noted_table(HEADER, spoken(table).to_numpy().tolist(), growth.too_few(table["num_seeds"].tolist()))


def show(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print the table, one block per task and program.

    Args:
        table: of `summarise`.
        console: where to; the terminal if None.
    """
    console = console or Console(width=100)
    for (task, own), rows in spoken(table).groupby(["task", "program"], sort=True):
        title = escape(f"{task}   {own}")
        shown = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for name in (named := [name for name in HEADER if name not in {"task", "program", "seeds"}]):
            shown.add_column(name, justify="left" if name in {"model", "quantity"} else "right")
        for row in rows[named].to_numpy():
            shown.add_row(*map(escape, row))
        console.print(shown)
        console.print()
    console.print(growth.too_few(table["num_seeds"].tolist()), markup=False, highlight=False)


def curves(cohort: Cohort) -> pd.DataFrame:
    """Median over seeds and band (range, or quartiles from `MIN_SEEDS` seeds on) at every length.

    Columns: `CURVE`, n, median, low, high, num_seeds, color, marker.
    """
    grouped = measured(cohort).groupby([*CURVE, "n"], sort=True)["value"]
    table = grouped.agg(median="median", num_seeds="size", least="min", greatest="max").reset_index()
    is_many = (table["num_seeds"] >= MIN_SEEDS).to_numpy()
    low = np.where(is_many, grouped.quantile(0.25), table["least"])
    high = np.where(is_many, grouped.quantile(0.75), table["greatest"])
    return table.drop(columns=["least", "greatest"]).assign(low=low, high=high).merge(cohort.look, on="series")


def plot(table: pd.DataFrame, ax: Axes) -> None:
    """One quantity of one task against the steps fed, with reference slopes from the lower left corner.

    Args:
        table: rows of `curves` of one quantity.
        ax: the panel.
    """
    for _, curve in table.groupby(["series", "seq_len"], sort=True):
        look = appearance.mark(curve)
        ax.fill_between(curve["n"], curve["low"], curve["high"], color=look["color"], alpha=0.18, linewidth=0)
        ax.plot(curve["n"], curve["median"], **look, linewidth=1.1)
    n = np.array([table["n"].min(), table["n"].max()], dtype=float)
    start = table["low"].min() / 1.5
    for slope, dashes in _SLOPES.items():
        ax.plot(n, start * (n / n[0]) ** slope, color=appearance.INK, linewidth=0.8, linestyle=dashes, zorder=1)
    ax.set_xlim(n[0] / 1.2, n[1] * 1.2)
    ax.set_ylim(start / 1.3, table["high"].max() * 1.5)
    for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        scale("log")
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_major_locator(FixedLocator([base * 10**power for power in range(7) for base in (1, 2, 5)]))


def draw(table: pd.DataFrame, footnote: str) -> Figure:
    """One task's figure, a panel per quantity.

    Args:
        table: rows of `curves` of one task and program.
        footnote: what was left out, appended to what the marks mean.
    """
    found = [name for name in QUANTITIES if name in set(table["quantity"])]
    figure, axes = appearance.panels(1, len(found), height_in=2.6)
    for ax, name in zip(axes[0], found, strict=True):
        plot(table[table["quantity"] == name], ax)
        ax.set_title(QUANTITIES[name].label)
        ax.set_xlabel("steps fed n")
    title = f"Cost of a training step · {table['task'].iloc[0]}"
    appearance.finish(figure, title, [appearance.series_handles(table), _REFERENCES], f"{_legend(table)} {footnote}")
    return figure


def _legend(table: pd.DataFrame) -> str:
    counts = sorted(table["num_seeds"].unique())
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    band = (
        "quartiles of the seeds" if counts[0] >= MIN_SEEDS else f"range of the seeds (from {MIN_SEEDS} on: quartiles)"
    )
    lengths = ", ".join(str(length) for length in sorted(table["seq_len"].unique()))
    return (
        f"Point: median over {seeds} seeds; of the time, each seed's least of its rounds. Band: {band}. One line per "
        f"model and T ({lengths}), up to the task's own input length N. {program(records(table)[0])}."
    )


def figures(cohort: Cohort) -> dict[str, Callable[[], Figure]]:
    """File stem -> draws the figure; one per task, and per program where several ran it."""
    table = curves(cohort)
    found: dict[str, Callable[[], Figure]] = {}
    for task, of_task in table.groupby("task", sort=True):
        programs = list(of_task.groupby(SETTING, sort=True))
        for setting, rows in programs:
            parts = ["cost_scaling", task, *(setting if len(programs) > 1 else ())]
            found[appearance.stem(*parts)] = partial(draw, rows, left_out(cohort, str(task)))
    return found


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Show the table, write it as cost_scaling.csv and cost_scaling.md, and draw the figures; returns the paths."""
    table = summarise(cohort)
    show(table)
    text = f"{markdown(table)}\n{origin(cohort.digest)}\n"
    tables = [save_table(table, out / "cost_scaling.csv", cohort.digest), save_text(text, out / "cost_scaling.md")]
    return [*tables, *appearance.save(figures(cohort), out)]
