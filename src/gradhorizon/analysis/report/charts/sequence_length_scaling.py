"""Growth rate and horizon against the length of the sequence as charts of the report."""

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
from gradhorizon.analysis.reading.stages import in_order
from gradhorizon.analysis.report.groups import groups
from gradhorizon.analysis.report.panels import Panel, color, finished, rounded, shape

_TITLES = {"horizon": "gradient horizon [steps]", "rate": "growth rate λ [nats/step]"}


def panels(table: pd.DataFrame) -> Iterator[Panel]:
    """Growth rate and horizon against T: two panels per task and stage.

    Args:
        table: of `gradhorizon.analysis.figures.sequence_length_scaling.summarise`.
    """
    for task, of_task in in_order(table).groupby("task", sort=True):
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
