"""What all charts of the report share: their look, their filter by model, their zoom, their size.

Every chart has the parameter ``shown``, the labels that are drawn; the page sets it in all charts at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.appearance import INK, QUIET
from gradhorizon.analysis.drawing.contrast import DAY_BAND, WHITE, readable
from gradhorizon.analysis.drawing.scales import powers_of_ten

GRID = "#eceff3"
MAX_POINTS = 64
"""Points per curve: what a panel of a few hundred pixels can show."""
_SHAPES = {"o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
           ">": "triangle-right", "D": "diamond", "P": "cross"}  # fmt: skip


def polygon(num_corners: int, every_other: float = 1.0) -> list[tuple[float, float]]:
    """Corners of a regular polygon that stands on a side, or of a star, in the square from −1 to 1.

    Args:
        num_corners: all of them.
        every_other: distance of every other corner from the centre.
    """
    angles = [2 * math.pi * corner / num_corners for corner in range(num_corners)]
    radii = [1.0 if corner % 2 == 0 else every_other for corner in range(num_corners)]
    return [
        (round(radius * math.sin(angle), 3), round(-radius * math.cos(angle), 3))
        for angle, radius in zip(angles, radii, strict=True)
    ]


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "d": [(0, -1), (0.55, 0), (0, 1), (-0.55, 0)],
    "X": [(-1, -0.5), (-0.5, -1), (0, -0.5), (0.5, -1), (1, -0.5), (0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5), (-0.5, 1),
          (-1, 0.5), (-0.5, 0)],
    "x": [(-1, -0.75), (-0.75, -1), (0, -0.25), (0.75, -1), (1, -0.75), (0.25, 0), (1, 0.75), (0.75, 1), (0, 0.25),
          (-0.75, 1), (-1, 0.75), (-0.25, 0)],
    "+": [(-0.17, -1), (0.17, -1), (0.17, -0.17), (1, -0.17), (1, 0.17), (0.17, 0.17), (0.17, 1), (-0.17, 1),
          (-0.17, 0.17), (-1, 0.17), (-1, -0.17), (-0.17, -0.17)],
    "p": polygon(5), "h": polygon(6), "8": polygon(8), "*": polygon(10, every_other=0.4),
}  # fmt: skip
"""Markers that Vega has no word for: corners, in the square from −1 to 1."""


@dataclass(frozen=True)
class Panel:
    """One chart of the page.

    Attributes:
        heading: the block it belongs to, such as the task.
        title: plain text above it.
        spec: Vega-Lite specification.
        note: what is not drawn; empty if all is.
    """

    heading: str
    title: str
    spec: dict[str, Any]
    note: str = ""


def decades(low: float, high: float) -> alt.Axis:
    """Axis with at most seven powers of ten between `low` and `high`."""
    return alt.Axis(values=powers_of_ten(low, high), format=".0e")


def finished(layers: list[alt.Chart], rows: pd.DataFrame, x: str) -> dict[str, Any]:
    """Specification of layers drawn over each other, with the parameter ``shown`` and zooming.

    Args:
        layers: bottom first; empty ones are left out.
        rows: the panel's rows, which name the series.
        x: name of the horizontal quantity.
    """
    shown = alt.param(name="shown", value=sorted(rows["series"].unique().tolist()))
    is_shown = "!isValid(datum.series) || indexof(shown, datum.series) >= 0"
    zoom = alt.selection_interval(bind="scales", name=f"zoom_{x}")
    kept = [layer.transform_filter(is_shown) for layer in layers if len(layer.data)]
    kept[-1] = kept[-1].add_params(zoom)
    chart = alt.layer(*kept).add_params(shown).properties(width="container", height=230)
    axis = {"gridColor": GRID, "domainColor": QUIET, "tickColor": QUIET, "labelColor": INK, "titleColor": INK,
            "labelFontSize": 10, "titleFontSize": 11, "titleFontWeight": "normal"}  # fmt: skip
    configured = (
        chart.configure(font="system-ui, sans-serif", background=WHITE)
        .configure_axis(**axis)
        .configure_view(stroke=None)
    )
    spec: dict[str, Any] = configured.to_dict(validate=False)
    return spec


def color(rows: pd.DataFrame) -> alt.Color:
    """Colour per series, as the records carry it; no legend, since the page has one for all."""
    look = rows.drop_duplicates("series").sort_values("series")
    scale = alt.Scale(domain=look["series"].tolist(), range=[readable(one, DAY_BAND) for one in look["color"]])
    return alt.Color("series:N", scale=scale, legend=None)


def shape(rows: pd.DataFrame) -> alt.Shape:
    """Marker per series, the nearest that Vega has."""
    look = rows.drop_duplicates("series").sort_values("series")
    shapes = [_SHAPES.get(marker) or _path(marker) for marker in look["marker"]]
    return alt.Shape("series:N", scale=alt.Scale(domain=look["series"].tolist(), range=shapes), legend=None)


def _path(marker: str) -> str:
    corners: Any = _OUTLINES.get(marker)
    return f"M{'L'.join(f'{x:g},{y:g}' for x, y in corners)}Z" if corners else "circle"


def number(name: str) -> alt.Tooltip:
    """Tooltip of a number in three digits."""
    return alt.Tooltip(f"{name}:Q", format=".3g")


def counts(counts: pd.Series) -> str:
    """``3``, or ``2 to 3`` where counts differ."""
    return f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def thinned(values: pd.Series, most: int = MAX_POINTS) -> np.ndarray:
    """At most `most` of the distinct values, evenly spaced in rank, both ends included."""
    distinct = np.unique(values)
    chosen = np.linspace(0, len(distinct) - 1, min(len(distinct), most)).round().astype(int)
    return distinct[chosen]


def rounded(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Some columns, numbers to four digits: a page is read by eye, and digits are most of its size."""
    table = rows[columns].copy()
    for name in table.select_dtypes("float"):
        table[name] = [float(f"{value:.4g}") for value in table[name]]
    return table.astype(dict.fromkeys(table.select_dtypes(["string", "str"]), object))
