"""The picture of how far gradients reach while a network trains: optimizer step against lag."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import CenteredNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gradhorizon.mirrors.profiles import Array, HeatMap
from gradhorizon.records.read_ends import NAME

COLOR_MAP = "RdBu_r"  # white is 1: blue has vanished, red has exploded; colour-blind safe
ZERO_COLOR = "#e6ab02"
UNKNOWN_COLOR = "0.75"
MAX_TICKS = 14
VALUE_LABEL = r"$\log_{10}\ \|\partial L_{t^*}/\partial x_{t^*-\tau}\|\ /\ \|\partial L_{t^*}/\partial x_{t^*}\|$"


def heat_map_figure(heat: HeatMap, title: str) -> Figure:
    """The heat map of a run's input-gradient profiles, drawn without any display.

    Args:
        heat: what to draw.
        title: first line of the title, the run.
    """
    figure = Figure(figsize=(7.2, 4.4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    figure.colorbar(_draw(axes, heat), ax=axes, label=f"{VALUE_LABEL} (dimensionless)")
    marks = _marks(heat)
    if marks:
        figure.legend(handles=marks, loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    members = "1 member" if heat.num_members == 1 else f"{heat.num_members} members"
    axes.set_title(f"{title}\nrelative input gradient: median over samples, then over {members}", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{NAME} (steps)" if heat.is_by_read_end else r"lag $\tau = t^* - t$ (steps)")
    axes.set_ylabel("optimizer steps completed")
    _label_rows(axes, heat.steps)
    return figure


def heat_map_pixels(heat: HeatMap, title: str) -> NDArray[np.uint8]:
    """The figure as an RGBA image, shape (height, width, 4); wandb's own conversion would import pyplot.

    Args:
        heat: what to draw.
        title: first line of the title, the run.
    """
    canvas: Any = FigureCanvasAgg(heat_map_figure(heat, title))
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def _draw(axes: Axes, heat: HeatMap) -> QuadMesh:
    finite = np.isfinite(heat.values)
    largest = max(float(np.abs(heat.values[finite]).max(initial=0.0)), 1.0)
    rows = np.arange(len(heat.steps) + 1)
    edges = _edges(np.asarray(heat.lags, dtype=np.float64))
    axes.set_facecolor(UNKNOWN_COLOR)
    mesh = axes.pcolormesh(
        edges, rows, np.ma.masked_array(heat.values, ~finite), cmap=COLOR_MAP, norm=CenteredNorm(0.0, largest)
    )
    is_not_zero = ~np.isneginf(heat.values)
    axes.pcolormesh(
        edges, rows, np.ma.masked_array(np.zeros_like(heat.values), is_not_zero), cmap=ListedColormap([ZERO_COLOR])
    )
    return mesh


def _marks(heat: HeatMap) -> list[Patch]:
    zero = np.isneginf(heat.values)
    marks = []
    if zero.any():
        marks.append(Patch(facecolor=ZERO_COLOR, edgecolor="0.4", label="exactly 0"))
    if not (np.isfinite(heat.values) | zero).all():
        marks.append(Patch(facecolor=UNKNOWN_COLOR, edgecolor="0.4", label="infinite or undefined"))
    return marks


def _edges(centers: Array) -> Array:
    if len(centers) == 1:
        return np.array([centers[0] - 0.5, centers[0] + 0.5])
    inner = (centers[1:] + centers[:-1]) / 2
    return np.concatenate([[2 * centers[0] - inner[0]], inner, [2 * centers[-1] - inner[-1]]])


def _label_rows(axes: Axes, steps: list[int]) -> None:
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_TICKS)).round().astype(int))
    axes.set_yticks(shown + 0.5, [f"{steps[row]}" for row in shown])
