"""Training curves as charts of the report."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import altair as alt
import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.appearance import INK
from gradhorizon.analysis.figures.training_curves import PANELS
from gradhorizon.analysis.report.groups import MOST_MARKS, groups, thinned_curves
from gradhorizon.analysis.report.panels import MAX_POINTS, Panel, color, decades, finished, number, rounded


def panels(table: pd.DataFrame) -> Iterator[Panel]:
    """Training curves: one panel per task, length and quantity.

    Args:
        table: of `gradhorizon.analysis.figures.training_curves.summarise`.
    """
    for (task, seq_len), rows in table.groupby(["task", "seq_len"], sort=True):
        split = list(groups(rows, MAX_POINTS + MOST_MARKS))
        quantities = [name for name in PANELS if name in set(rows["quantity"])]
        for quantity, (words, names) in product(quantities, split):
            whole = rows[rows["quantity"] == quantity]
            panel = whole[whole["series"].isin(names)]
            if len(panel):
                drawn, note = thinned_curves(panel)
                spec = finished(_curve_layers(drawn, whole, quantity), panel, "step")
                yield Panel(f"{task} · T = {seq_len}", f"{PANELS[quantity]}{words}", spec, note)


def _curve_layers(drawn: pd.DataFrame, whole: pd.DataFrame, quantity: str) -> list[alt.Chart]:
    columns = ["series", "step", "median", "low", "high"]
    base = alt.Chart(rounded(drawn, columns))
    x = alt.X("step:Q", title="optimizer step", axis=alt.Axis(tickCount=6), scale=alt.Scale(nice=False))
    y = _curve_axis(whole, quantity)
    return [
        *_reference_layers(drawn, quantity),
        base.mark_area(opacity=0.1, clip=True).encode(x=x, y="low:Q", y2="high:Q", color=color(drawn)),
        base.mark_line(strokeWidth=1.6, clip=True).encode(x=x, y=y, color=color(drawn)),
        base.mark_point(size=40, opacity=0).encode(x=x, y=y, tooltip=["series:N", "step:Q", *map(number, columns[2:])]),
    ]


def _curve_axis(rows: pd.DataFrame, quantity: str) -> alt.Y:
    values = rows[["low", "high"]].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if quantity in {"accuracy", "clip_fraction"}:
        return alt.Y("median:Q", title=PANELS[quantity], scale=alt.Scale(domain=[0, 1.02]), axis=alt.Axis(tickCount=5))
    if not len(values) or values.min() <= 0:
        return alt.Y("median:Q", title=PANELS[quantity], axis=alt.Axis(tickCount=5))
    domain = [10 ** np.floor(np.log10(values.min())), 10 ** np.ceil(np.log10(values.max() * 1.05))]
    return alt.Y("median:Q", title=PANELS[quantity], scale=alt.Scale(type="log", domain=domain), axis=decades(*domain))


def _reference_layers(rows: pd.DataFrame, quantity: str) -> list[alt.Chart]:
    names = {"chance": "chance", "solved_level": "solved"}
    names |= {"clip_norm": "clipping threshold"} if quantity == "norm_unclipped" else {}
    found = [(label, float(level)) for name, label in names.items() for level in rows[name].dropna().unique()]
    if not found:
        return []
    chart = alt.Chart(pd.DataFrame({"line": [name for name, _ in found], "level": [level for _, level in found]}))
    dash = alt.StrokeDash(
        "line:N", legend=None, scale=alt.Scale(domain=list(names.values()), range=[[2, 3], [6, 3], [6, 2, 2, 2]])
    )
    return [chart.mark_rule(color=INK).encode(y="level:Q", strokeDash=dash, tooltip=["line:N", number("level")])]
