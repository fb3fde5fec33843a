"""The report's charts as Vega-Lite specifications: one small, zoomable chart per panel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.appearance import INK
from gradhorizon.analysis.drawing.contrast import DAY_BAND
from gradhorizon.analysis.drawing.scales import horizon_limits, horizon_ticks, label, length_ticks, rate_scale
from gradhorizon.analysis.figures.gradient_profile import LOWEST_DRAWN, lag_label
from gradhorizon.analysis.figures.training_curves import PANELS
from gradhorizon.analysis.reading.stages import STAGES
from gradhorizon.analysis.report.groups import MOST_MARKS, groups, thinned_curves, thinned_profiles
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

_TITLES = {"horizon": "gradient horizon [steps]", "rate": "growth rate λ [nats/step]"}


def profile_panels(table: pd.DataFrame) -> Iterator[Panel]:
    """Relative gradient against lag: one panel per task, stage and length.

    Args:
        table: of `gradhorizon.analysis.figures.gradient_profile.summarise`.
    """
    for task, of_task in _in_order(table).groupby("task", sort=True):
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


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(stage=pd.Categorical(table["stage"], STAGES, ordered=True))


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


def scaling_panels(table: pd.DataFrame) -> Iterator[Panel]:
    """Growth rate and horizon against T: two panels per task and stage.

    Args:
        table: of `gradhorizon.analysis.figures.sequence_length_scaling.summarise`.
    """
    for task, of_task in _in_order(table).groupby("task", sort=True):
        split = list(groups(of_task, of_task["seq_len"].nunique()))
        stages = of_task.groupby("stage", sort=True, observed=True)
        for (quantity, title), (stage, whole), (words, names) in product(_TITLES.items(), stages, split):
            rows = whole[whole["series"].isin(names)]
            if len(rows):
                layers = _scaling_layers(rows, of_task, quantity, title)
                yield Panel(str(task), f"{title.split(' [')[0]} · {stage}{words}", finished(layers, rows, "seq_len"))


def _scaling_layers(rows: pd.DataFrame, shared: pd.DataFrame, quantity: str, title: str) -> list[alt.Chart]:
    drawn = rows[np.isfinite(rows[quantity].astype(float))]
    is_horizon = quantity == "horizon"
    bounds = drawn[[f"{quantity}_low", f"{quantity}_high"]].replace([np.inf, -np.inf], np.nan)
    at = drawn["seq_len"] * _set_apart(drawn["series"], rows)
    verdict = drawn["verdict"].where(~drawn["verdict"].str.startswith("not estimable"), "–")
    drawn = drawn.assign(**bounds, said=_said(drawn, quantity), at=at, verdict=verdict)
    names = ["series", "seq_len", "at", quantity, f"{quantity}_low", f"{quantity}_high", "said", "tendency", "verdict"]
    base = alt.Chart(rounded(drawn, names))
    lengths = sorted(shared["seq_len"].unique().tolist())
    x = alt.X("at:Q", title="sequence length T [steps]", axis=alt.Axis(values=length_ticks(lengths), format="d"),
              scale=alt.Scale(type="log", nice=False, domain=[lengths[0] / 1.25, lengths[-1] * 1.25]))  # fmt: skip
    y = _quantity_axis(shared, quantity, title)
    tooltip = [
        "series:N",
        alt.Tooltip("seq_len:Q", title="T"),
        alt.Tooltip("said:N", title=title),
        "tendency:N",
        "verdict:N",
    ]
    look = {"x": x, "y": y, "color": color(rows)}
    marks = [
        base.mark_rule(opacity=0.6).encode(x=x, y=f"{quantity}_low:Q", y2=f"{quantity}_high:Q", color=color(rows)),
        base.mark_line(strokeWidth=1.4).encode(**look),
        *_points(drawn, names, is_horizon, {**look, "shape": shape(rows), "tooltip": tooltip}),
    ]
    return [_identity(rows, x), *marks, *_censored(drawn, x, rows)] if is_horizon else [_stable(rows, x), *marks]


def _set_apart(series: pd.Series, rows: pd.DataFrame) -> pd.Series:
    order = sorted(rows["series"].unique())
    return series.map({name: 1 + 0.16 * ((number + 0.5) / len(order) - 0.5) for number, name in enumerate(order)})


def _per_length(rows: pd.DataFrame) -> pd.DataFrame:
    whole = rows.sort_values(["seq_len", "stable_rate"]).drop_duplicates("seq_len")
    ends = [whole.assign(at=whole["seq_len"] * factor) for factor in (0.8, 1.0, 1.25)]
    return pd.concat([ends[0].head(1), ends[1], ends[2].tail(1)])


def _identity(rows: pd.DataFrame, x: alt.X) -> alt.Chart:
    whole = _per_length(rows)
    whole = whole.assign(input_len=whole["at"] + whole["input_len"] - whole["seq_len"])
    line = alt.Chart(rounded(whole, ["at", "input_len"])).mark_line(
        strokeDash=[5, 3], color=INK, strokeWidth=1, clip=True
    )
    return line.encode(x=x, y="input_len:Q")


def _stable(rows: pd.DataFrame, x: alt.X) -> alt.Chart:
    band = _per_length(rows).assign(lowest=lambda table: -table["stable_rate"])
    chart = alt.Chart(rounded(band, ["at", "lowest", "stable_rate"])).mark_area(color=DAY_BAND, clip=True)
    return chart.encode(x=x, y="lowest:Q", y2="stable_rate:Q")


def _points(drawn: pd.DataFrame, names: list[str], is_horizon: bool, look: dict[str, Any]) -> list[alt.Chart]:
    is_hollow = drawn["horizon_is_censored"].astype(bool) & is_horizon
    return [
        alt.Chart(rounded(drawn[chosen], names)).mark_point(size=55, filled=is_filled, opacity=1).encode(**look)
        for chosen, is_filled in ((~is_hollow, True), (is_hollow, False))
    ]


def _censored(drawn: pd.DataFrame, x: alt.X, rows: pd.DataFrame) -> list[alt.Chart]:
    layers = []
    for name in ("horizon", "horizon_high"):
        beyond = alt.Chart(rounded(drawn[drawn[f"{name}_is_censored"].astype(bool)], ["series", "at", name]))
        arrows = beyond.mark_text(text="↑", dy=-11, fontSize=14, fontWeight="bold")
        layers.append(arrows.encode(x=x, y=f"{name}:Q", color=color(rows)))
    return layers


def _said(rows: pd.DataFrame, quantity: str) -> list[str]:
    if quantity == "rate":
        return [f"{value:+.4f}" for value in rows["rate"]]
    return [f"{'> ' if beyond else ''}{value:.0f}" for value, beyond in
            zip(rows["horizon"], rows["horizon_is_censored"], strict=True)]  # fmt: skip


def _quantity_axis(shared: pd.DataFrame, quantity: str, title: str) -> alt.Y:
    if quantity == "horizon":
        low, high = horizon_limits(shared)
        scale, ticks = alt.Scale(type="log", nice=False, domain=[low, high]), horizon_ticks(low, high)
    else:
        rate = rate_scale(shared)
        scale = alt.Scale(type="symlog", constant=rate.linear, nice=False, domain=[rate.low, rate.high])
        ticks = rate.ticks
    words = f"{json.dumps([label(tick) for tick in ticks])}[indexof({json.dumps(ticks)}, datum.value)]"
    axis = alt.Axis(values=ticks, labelExpr=words, labelOverlap=False)
    return alt.Y(f"{quantity}:Q", title=title, scale=scale, axis=axis)


def curve_panels(table: pd.DataFrame) -> Iterator[Panel]:
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
