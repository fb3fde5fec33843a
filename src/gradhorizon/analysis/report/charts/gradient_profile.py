"""Relative gradient against lag as charts of the report."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.appearance import INK
from gradhorizon.analysis.drawing.scales import LOWEST_DRAWN
from gradhorizon.analysis.figures.gradient_profile import lag_label
from gradhorizon.analysis.reading.stages import in_order
from gradhorizon.analysis.report.groups import MOST_MARKS, groups, thinned_profiles
from gradhorizon.analysis.report.panels import (
    MAX_POINTS,
    Panel,
    color,
    counts,
    decades,
    finished,
    number,
    rounded,
    shape,
    thinned,
)
from gradhorizon.analysis.statistics.growth import HORIZON_LEVEL


def panels(table: pd.DataFrame) -> Iterator[Panel]:
    """Relative gradient against lag: one panel per task, stage and length.

    Args:
        table: of `gradhorizon.analysis.figures.gradient_profile.summarise`.
    """
    for task, of_task in in_order(table).groupby("task", sort=True):
        split = list(groups(of_task, MAX_POINTS + MOST_MARKS))
        for (stage, seq_len), whole in of_task.groupby(["stage", "seq_len"], sort=True, observed=True):
            for words, names in split:
                rows = whole[whole["series"].isin(names)]
                if len(rows):
                    yield _profile_panel(str(task), f"{stage} · T = {seq_len}", words, rows, whole)


def _profile_panel(task: str, title: str, words: str, rows: pd.DataFrame, whole: pd.DataFrame) -> Panel:
    drawn, note = thinned_profiles(rows)
    level = alt.Chart(pd.DataFrame({"level": [HORIZON_LEVEL]})).mark_rule(strokeDash=[2, 3], color=INK)
    marked = thinned(pd.Series(thinned(rows["lag"])), 9)
    layers = [level.encode(y="level:Q"), *_profile_layers(drawn, _profile_scale(whole), marked)]
    said = f"{title} (N = {rows['input_len'].iloc[0]} steps) · n = {counts(rows['num_seeds'])}{words}"
    return Panel(task, said, finished(layers, rows, "lag"), note)


def _profile_layers(rows: pd.DataFrame, scale: alt.Scale, lags: np.ndarray) -> list[alt.Chart]:
    y = alt.Y("median:Q", scale=scale, axis=decades(*scale.domain), title="relative gradient g(τ)")
    x = alt.X("lag:Q", title=lag_label(rows, "lag τ"), scale=alt.Scale(nice=False))
    columns = ["series", "lag", "median", "low", "high"]
    positive = rows[rows["median"] > 0]
    curves = alt.Chart(rounded(positive.assign(low=positive["low"].clip(lower=LOWEST_DRAWN / 10)), columns))
    zeros = alt.Chart(
        rounded(
            rows[rows["median"] == 0].assign(floor=LOWEST_DRAWN, norm="exactly 0"), ["series", "lag", "floor", "norm"]
        )
    )
    marked = alt.Chart(rounded(positive[positive["lag"].isin(lags)], columns))
    expected = rows[rows["expected"].notna()]
    theory = alt.Chart(rounded(expected, ["series", "lag", "expected", "assumption"]))
    return [
        curves.mark_area(opacity=0.15, clip=True).encode(x=x, y=alt.Y("low:Q").scale(), y2="high:Q", color=color(rows)),
        theory.mark_line(strokeDash=[5, 3], strokeWidth=1.1, clip=True).encode(
            x=x, y="expected:Q", color=color(rows), tooltip=["series:N", "assumption:N", "lag:Q", number("expected")]
        ),
        curves.mark_line(strokeWidth=1.8, clip=True).encode(x=x, y=y, color=color(rows)),
        marked.mark_point(size=34, filled=True, clip=True, opacity=1).encode(
            x=x, y=y, color=color(rows), shape=shape(rows)
        ),
        zeros.mark_point(size=24, filled=True, clip=True, opacity=1).encode(
            x=x, y="floor:Q", color=color(rows), shape=shape(rows), tooltip=["series:N", "lag:Q", "norm:N"]
        ),
        curves.mark_point(size=40, opacity=0, clip=True).encode(
            x=x, y=y, tooltip=["series:N", "lag:Q", *map(number, columns[2:])]
        ),
    ]


def _profile_scale(rows: pd.DataFrame) -> alt.Scale:
    values = rows[["median", "low", "high"]].to_numpy(dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    low = LOWEST_DRAWN / 3 if (rows["median"] == 0).any() else max(min(values.min(initial=1), 1e-4) / 2, LOWEST_DRAWN)
    return alt.Scale(type="log", domain=[low, min(max(values.max(initial=1) * 2, 3), 1e12)], nice=False)
