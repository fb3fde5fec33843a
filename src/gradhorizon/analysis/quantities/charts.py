"""A declared quantity as charts of the report: one per task, length, axis, facet and moment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.appearance import INK
from gradhorizon.analysis.drawing.scales import label
from gradhorizon.analysis.quantities.declared import Axis, Quantity
from gradhorizon.analysis.quantities.limits import Limits, limits, steps_of_decades
from gradhorizon.analysis.quantities.words import marks, without_numbers
from gradhorizon.analysis.reading.stages import STAGES
from gradhorizon.analysis.report.groups import MOST_MARKS, groups, thinned_points
from gradhorizon.analysis.report.panels import (
    MAX_POINTS,
    Panel,
    color,
    counts,
    finished,
    number,
    rounded,
    shape,
    thinned,
)

_FEW_POINTS = 16
_COLUMNS = ["series", "x", "median", "low", "high"]


def panels(quantity: Quantity, table: pd.DataFrame) -> Iterator[Panel]:
    """Charts of a quantity.

    Args:
        quantity: what is drawn.
        table: of `gradhorizon.analysis.quantities.over_seeds.summarise`.
    """
    for (task, seq_len), whole in table.groupby(["task", "seq_len"], sort=True):
        own, _ = without_numbers(quantity, whole)
        split = list(groups(own, MAX_POINTS + MOST_MARKS)) if len(own) else []
        for y in quantity.ys:
            of_axis = own[own["quantity"] == y.column]
            for facet, shared in of_axis.groupby("facet", sort=True, observed=True):
                shown = limits(y, shared if quantity.is_staged else of_axis)
                for stage in STAGES if quantity.is_staged else ("",):
                    for words, names in split:
                        rows = shared[(shared["stage"] == stage) & shared["series"].isin(names)]
                        if rows["median"].notna().any():
                            said = " · ".join(filter(None, (y.words, str(facet), stage)))
                            yield _panel(quantity, y, rows, shown, f"{task} · T = {seq_len}", f"{said}{words}")


def _panel(quantity: Quantity, y: Axis, rows: pd.DataFrame, shown: Limits, heading: str, said: str) -> Panel:
    drawn, note = thinned_points(rows)
    layers = [*_references(y, rows), *_layers(quantity.x, y, drawn, shown)]
    notes = " ".join(filter(None, (f"{note}." if note else "", *marks(quantity, rows))))
    return Panel(heading, f"{said} · n\u00a0=\u00a0{counts(rows['num_members'])}", finished(layers, rows, "x"), notes)


def _references(y: Axis, rows: pd.DataFrame) -> list[alt.Chart]:
    facet = str(rows["facet"].iloc[0])
    known = [(one.label, one.value) for one in y.references if one.facet in {"", facet}]
    chart = alt.Chart(pd.DataFrame(known, columns=pd.Index(["line", "level"])))
    rule = chart.mark_rule(strokeDash=[2, 3], color=INK)
    return [rule.encode(y="level:Q", tooltip=["line:N", number("level")])] if known else []


def _layers(axis: Axis, y: Axis, rows: pd.DataFrame, shown: Limits) -> list[alt.Chart]:
    look = {"x": _x(axis, rows), "y": _y(y, shown), "color": color(rows)}
    is_there = np.isfinite(rows["median"]) & ~y.is_beyond(rows["median"])
    ends = {name: rows[name].clip(shown.low, shown.high) for name in ("low", "high")}
    line = rows.assign(**ends, median=rows["median"].where(is_there))[~rows["is_partial"].astype(bool)]
    points = rows[is_there & (rows["is_partial"] | rows["x"].isin(_marked(rows)))]
    tooltip = ["series:N", alt.Tooltip("x:Q", title=axis.words), *map(number, _COLUMNS[2:])]
    base, expected = alt.Chart(rounded(line, _COLUMNS)), rows[rows["expected"].notna()]
    theory = alt.Chart(rounded(expected, ["series", "x", "expected", "assumption"]))
    beyond = points[points["median_is_censored"].astype(bool)]
    filled = points[~points["median_is_censored"].astype(bool)]
    dots = (
        alt.Chart(rounded(own, _COLUMNS)).mark_point(size=30, filled=is_filled, clip=True, opacity=1)
        for own, is_filled in ((filled, True), (beyond, False))
    )
    arrows = alt.Chart(rounded(beyond, _COLUMNS)).mark_text(text="↑", dy=-10, fontSize=13, fontWeight="bold")
    return [
        base.mark_area(opacity=0.13, clip=True).encode(**look | {"y": alt.Y("low:Q").scale()}, y2="high:Q"),
        theory.mark_line(strokeDash=[5, 3], strokeWidth=1.1, clip=True).encode(
            **look | {"y": "expected:Q"}, tooltip=["series:N", "assumption:N", "x:Q", number("expected")]
        ),
        base.mark_line(strokeWidth=1.6, clip=True).encode(**look),
        *(one.encode(**look, shape=shape(rows)) for one in dots),
        arrows.encode(**look),
        *_edges(y, rows, shown, look),
        base.mark_point(size=40, opacity=0, clip=True).encode(**look, tooltip=tooltip),
    ]  # fmt: skip


def _marked(rows: pd.DataFrame) -> np.ndarray:
    return thinned(rows["x"], _FEW_POINTS if rows["x"].nunique() <= _FEW_POINTS else _FEW_POINTS // 2)


def _edges(y: Axis, rows: pd.DataFrame, shown: Limits, look: Mapping[str, Any]) -> Iterator[alt.Chart]:
    """Marks of what has no place on the axis: exact zeros and −∞ below, infinities above."""
    median = rows["median"]
    for is_beyond, at, words in (
        (y.is_beyond(median), shown.strip, y.lowest),
        (median == np.inf, shown.high, "infinite"),
    ):
        own = rows[is_beyond].assign(at=at, value=words)
        chart = alt.Chart(rounded(own, ["series", "x", "at", "value"])).mark_point(size=22, filled=True, opacity=1)
        yield chart.encode(
            x=look["x"], y="at:Q", color=look["color"], shape=shape(rows), tooltip=["series:N", "x:Q", "value:N"]
        )


def _x(axis: Axis, rows: pd.DataFrame) -> alt.X:
    low, high = float(rows["x"].min()), float(rows["x"].max())
    margin = 0.02 * (high - low) or 1.0
    kinds: dict[str, tuple[dict[str, Any], list[float], alt.Axis]] = {
        "linear": ({"type": "linear", "zero": False}, [low - margin, high + margin], alt.Axis(tickCount=6)),
        "log": ({"type": "log"}, [low / 1.2, high * 1.2], alt.Axis()),
        "symlog": (
            {"type": "symlog", "constant": 1},
            [min(low, 0) - 0.1, max(high, 1) * 1.15],
            alt.Axis(values=[0, *steps_of_decades(1, max(high, 1))], format="d"),
        ),
    }
    scale, domain, ticks = kinds[axis.scale]
    return alt.X("x:Q", title=axis.label, scale=alt.Scale(nice=False, domain=domain, **scale), axis=ticks)


def _y(y: Axis, shown: Limits) -> alt.Y:
    ticks, words = shown.ticks, [label(tick).replace("e−0", "e−") for tick in shown.ticks]
    if shown.strip is not None:
        ticks, words = [shown.strip, *ticks], ["0" if shown.is_log else "−∞", *words]
    found = f"{json.dumps(words)}[indexof({json.dumps(ticks)}, datum.value)]"
    kind = {"type": "log"} if shown.is_log else {"type": "linear", "zero": False}
    scale = alt.Scale(nice=False, domain=[shown.low, shown.high], **kind)
    return alt.Y("median:Q", title=y.label, scale=scale, axis=alt.Axis(values=ticks, labelExpr=found))
