"""What training did: loss, accuracy, gradient norm before clipping and clip fraction against optimizer steps.

One figure per task and length.
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
from matplotlib.ticker import NullFormatter

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.figures.gradient_profile import left_out
from gradhorizon.analysis.quantities.declared import Section
from gradhorizon.analysis.reading.cohort import CELL, MEMBER, Cohort, member_names, records
from gradhorizon.analysis.reading.provenance import solved_levels
from gradhorizon.analysis.statistics.growth import MIN_SEEDS

TABLES = ("metrics", "parameter_gradients")
SECTIONS = (
    Section(
        3,
        "Training",
        "Dotted: chance; dashed: solved level; dash-dotted: clipping threshold. A solved member keeps its last values.",
    ),
)
PANELS = {
    "loss": "validation loss",
    "accuracy": "validation accuracy [–]",
    "norm_unclipped": "gradient norm before clipping",
    "clip_fraction": "fraction of steps clipped [–]",
}
"""Quantity -> axis label."""


@lru_cache(maxsize=1)
def summarise(cohort: Cohort) -> pd.DataFrame:
    """Curves per model, task and length: median of the members and their band at each step.

    Columns: series, task, seq_len, input_len, quantity (a key of `PANELS`), step, median, low, high, num_seeds,
    chance, solved_level, clip_norm, color, marker. Band as for profiles. A solved member keeps its last validation
    values to the end of the budget, since it is frozen; its gradient norms end with its training.
    """
    curves = _recorded(cohort)
    keys = [*CELL, "quantity", "step"]
    grouped = curves.groupby(keys, sort=True)["value"]
    num_seeds = curves.groupby([*CELL, "quantity"])["member"].nunique().rename("most_seeds")
    few = curves.groupby(keys)["member"].size().reset_index(name="num_seeds").merge(num_seeds, on=[*CELL, "quantity"])
    tails = (few["most_seeds"] >= MIN_SEEDS).to_numpy()
    low = np.where(tails, grouped.quantile(0.25), grouped.min())
    high = np.where(tails, grouped.quantile(0.75), grouped.max())
    table = grouped.median().reset_index(name="median").assign(low=low, high=high, num_seeds=few["num_seeds"])
    return _with_references(table, cohort).merge(cohort.look, on="series")


def _recorded(cohort: Cohort) -> pd.DataFrame:
    parts = []
    if cohort.is_recorded("metrics"):
        parts.append(_carry_forward(_validation(cohort), cohort))
    if cohort.is_recorded("parameter_gradients") or not parts:
        parts.append(_gradients(cohort))
    return pd.concat(parts, ignore_index=True)


def _validation(cohort: Cohort) -> pd.DataFrame:
    rows = cohort.table("metrics")
    rows = rows[(rows["split"] == "validation") & rows["metric"].isin(list(PANELS))]
    return _long(rows.rename(columns={"metric": "quantity"}))


def _gradients(cohort: Cohort) -> pd.DataFrame:
    rows = cohort.table("parameter_gradients")
    names = ["norm_unclipped", "clip_fraction"]
    return _long(rows[rows["parameter"] == "total"].melt([*CELL, *MEMBER, "step"], names, "quantity"))


def _long(rows: pd.DataFrame) -> pd.DataFrame:
    table = rows.assign(member=member_names(rows))[[*CELL, "quantity", "member", "step", "value"]]
    return table.drop_duplicates(["quantity", "member", "step"], keep="last")


def _carry_forward(rows: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    members = cohort.members[cohort.members["outcome"] == "solved"]
    solved = dict(zip(member_names(members), members["num_steps"].astype(int), strict=True))
    parts = [_filled(group, solved) for _, group in rows.groupby([*CELL, "quantity"], sort=True)]
    return pd.concat(parts, ignore_index=True) if parts else rows


def _filled(group: pd.DataFrame, solved: dict[str, int]) -> pd.DataFrame:
    wide = group.pivot(index="step", columns="member", values="value")  # noqa: PD010, pivot_table multiplies experiments by seeds
    kept = [member for member in wide.columns if member in solved]
    budgets = {solved[member] for member in kept}
    wide = wide.reindex(sorted({*wide.index, *budgets})).rename_axis("step")
    wide[kept] = wide[kept].ffill()
    first = group.iloc[0]
    table = wide.melt(ignore_index=False, var_name="member", value_name="value").dropna().reset_index()
    return table.assign(**{name: first[name] for name in (*CELL, "quantity")})


def _with_references(table: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    members = cohort.members.drop_duplicates(CELL)
    chance = members.merge(cohort.runs.chance.drop_duplicates(["run", "metric"]), on="run")
    chance = chance.rename(columns={"metric": "quantity"})[[*CELL, "quantity", "chance"]]
    table = table.merge(chance, on=[*CELL, "quantity"], how="left")
    table = table.merge(members[[*CELL, "clip_norm"]], on=CELL, how="left")
    solved = solved_levels(cohort)
    return table.merge(solved, on=["task", "seq_len", "quantity"], how="left")


def solving_steps(cohort: Cohort) -> pd.DataFrame:
    """Step at which each solved member was found solved: series, task, seq_len, solved_step, color, marker."""
    solved = cohort.members[cohort.members["outcome"] == "solved"].rename(columns={"outcome_step": "solved_step"})
    return solved[["series", "task", "seq_len", "solved_step"]].merge(cohort.look, on="series")


def plot(table: pd.DataFrame, ax: Axes) -> None:
    """One quantity of one task and length.

    Args:
        table: rows of `summarise` of one panel.
        ax: the panel.
    """
    is_crowded = appearance.is_crowded(table)
    for number, (_, curve) in enumerate(table.groupby("series", sort=True)):
        _plot_curve(curve, ax, number, is_crowded)
    for name, line in _REFERENCES.items():
        for level in table[name].dropna().unique():
            ax.axhline(level, color=appearance.INK, linewidth=0.8, linestyle=line, zorder=1.5)


def _plot_curve(curve: pd.DataFrame, ax: Axes, number: int, is_crowded: bool) -> None:
    look = appearance.mark(curve)
    if is_crowded:
        ax.plot(curve["step"], curve["median"], color=look["color"], **appearance.CROWDED)
        return
    ax.fill_between(curve["step"], curve["low"], curve["high"], color=look["color"], alpha=0.1, linewidth=0)
    ax.plot(curve["step"], curve["median"], **look, markersize=3.8, linewidth=1.2,
            markevery=appearance.sparse(len(curve), number))  # fmt: skip


_REFERENCES = {"chance": (0, (1, 1.5)), "solved_level": (0, (5, 2)), "threshold": (0, (3, 1, 1, 1))}


def plot_solving(solved: pd.DataFrame, ax: Axes) -> None:
    """A mark on the upper edge for each member that solved the task.

    Args:
        solved: rows of `solving_steps` of one panel.
        ax: the panel.
    """
    edge = ax.get_xaxis_transform()
    for row in records(solved):
        ax.plot(row["solved_step"], 1.0, color=row["color"], marker="v", markersize=4.5, markeredgewidth=0.0,
                clip_on=False, transform=edge, zorder=5)  # fmt: skip


def draw(table: pd.DataFrame, solved: pd.DataFrame, footnote: str) -> Figure:
    """One task's and length's figure.

    Args:
        table: rows of `summarise` of one task and length.
        solved: rows of `solving_steps` of the same.
        footnote: what was left out, appended to what the marks mean.
    """
    table = table.assign(threshold=table["clip_norm"].where(table["quantity"] == "norm_unclipped").astype(float))
    quantities = [quantity for quantity in PANELS if quantity in set(table["quantity"])]
    figure, axes = appearance.panels(-(-len(quantities) // 2), 2, height_in=1.9)
    for ax, quantity in zip(axes.flat, quantities, strict=False):
        rows = table[table["quantity"] == quantity]
        plot(rows, ax)
        if quantity in {"loss", "accuracy"}:
            plot_solving(solved, ax)
        ax.set_title(PANELS[quantity])
        _scale(ax, quantity, rows)
    for ax in axes.flat[len(quantities) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("optimizer step")
    title = f"Training · {table['task'].iloc[0]}, T = {table['seq_len'].iloc[0]}"
    legends = [appearance.series_handles(table), _handles(table, len(solved) > 0)]
    appearance.finish(figure, title, legends, f"{_legend(table)}{appearance.unnamed(table)} {footnote}")
    return figure


def _scale(ax: Axes, quantity: str, rows: pd.DataFrame) -> None:
    ax.set_xlim(-0.02 * max(rows["step"].max(), 1), 1.02 * max(rows["step"].max(), 1))
    if quantity in {"accuracy", "clip_fraction"}:
        ax.set_ylim(-0.03, 1.03)
    elif (rows["median"] > 0).any():
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        if high < 20 * low:
            ax.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _handles(table: pd.DataFrame, has_solved: bool) -> list[Line2D]:
    names = {"chance": "chance", "solved_level": "solved level", "threshold": "clipping threshold"}
    lines = [
        Line2D([], [], color=appearance.INK, linewidth=0.8, linestyle=_REFERENCES[name], label=label)
        for name, label in names.items()
        if table[name].notna().any()
    ]
    mark = Line2D([], [], color=appearance.INK, linestyle="none", marker="v", markersize=4.5, label="a seed solved it")
    return [*lines, *([mark] if has_solved else [])]


def _legend(table: pd.DataFrame) -> str:
    counts = table.groupby(["series", "quantity"])["num_seeds"].max()
    seeds = f"n = {counts.min()}" if counts.min() == counts.max() else f"n = {counts.min()} to {counts.max()}"
    band = "range" if counts.max() < MIN_SEEDS else "quartiles (range below 5 seeds)"
    return (
        f"Line: median over seeds ({seeds}); band: {band} of the seeds. A solved member is frozen and keeps its last "
        f"validation values; gradient norms are of the members still training. Chance: the best predictor that "
        "knows the clock and is blind to the symbols."
    )


def figures(cohort: Cohort) -> dict[str, Callable[[], Figure]]:
    """File stem -> draws the figure; one per task and length."""
    solved = solving_steps(cohort)
    return {
        appearance.stem("training_curves", task, f"T{seq_len}"): partial(
            draw,
            rows,
            solved[(solved["task"] == task) & (solved["seq_len"] == seq_len)],
            left_out(cohort, str(task), int(str(seq_len))),
        )
        for (task, seq_len), rows in summarise(cohort).groupby(["task", "seq_len"], sort=True)
    }


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return appearance.save(figures(cohort), out)
