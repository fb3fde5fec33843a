"""The heat map shows what it was given, and marks what has no colour."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from gradhorizon.mirrors.heat_map import UNKNOWN_COLOR, ZERO_COLOR, heat_map_figure, heat_map_pixels
from gradhorizon.mirrors.profiles import HeatMap

VALUES = np.array([[0.0, -1.0, -2.0], [0.0, -4.0, -8.0]])


def heat(values: np.ndarray = VALUES) -> HeatMap:
    return HeatMap(list(range(0, 10 * len(values), 10)), list(range(values.shape[1])), values, 3)


def legend_labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_colours_show_the_values_row_by_row() -> None:
    mesh = heat_map_figure(heat(), "run").axes[0].collections[0]
    shown = mesh.get_array()
    assert shown is not None
    np.testing.assert_array_equal(np.ma.getdata(shown).reshape(2, 3), VALUES)


def test_colour_scale_is_symmetric_about_no_change() -> None:
    mesh = heat_map_figure(heat(), "run").axes[0].collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-8.0, 8.0)


def test_axes_carry_symbols_units_and_the_statistic() -> None:
    figure = heat_map_figure(heat(), "lstm on adding, T = 3")
    axes, color_bar = figure.axes
    assert axes.get_xlabel() == r"lag $\tau = t^* - t$ (steps)"
    assert axes.get_ylabel() == "optimizer steps completed"
    assert "dimensionless" in color_bar.get_ylabel()
    assert axes.get_title() == (
        "lstm on adding, T = 3\nrelative input gradient: median over samples, then over 3 members"
    )


def test_rows_are_labelled_by_optimizer_step() -> None:
    axes = heat_map_figure(heat(), "run").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "10"]
    assert axes.get_yticks().tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("value", "color", "label"),
    [
        (-np.inf, ZERO_COLOR, "exactly 0"),
        (np.nan, UNKNOWN_COLOR, "infinite or undefined"),
        (np.inf, UNKNOWN_COLOR, "infinite or undefined"),
    ],
)
def test_value_without_a_logarithm_is_marked_in_a_colour_of_its_own(value: float, color: str, label: str) -> None:
    values = np.full((1, 1), value)
    figure = heat_map_figure(heat(values), "run")
    pixels = heat_map_pixels(heat(values), "run")
    figure.draw_without_rendering()
    x, y = figure.axes[0].transData.transform((0.0, 0.5))
    shown = pixels[pixels.shape[0] - round(y), round(x)]
    np.testing.assert_allclose(shown / 255, to_rgba(color), atol=0.01)
    assert legend_labels(figure) == [label]


def test_legend_is_absent_where_all_values_are_finite() -> None:
    assert legend_labels(heat_map_figure(heat(), "run")) == []


def test_image_is_drawn_without_a_display_or_pyplot() -> None:
    before = mpl.get_backend(auto_select=False)
    pixels = heat_map_pixels(heat(), "run")
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 4
    assert mpl.get_backend(auto_select=False) == before


def test_many_rows_keep_few_labels() -> None:
    axes = heat_map_figure(heat(np.zeros((100, 2))), "run").axes[0]
    assert len(axes.get_yticks()) <= 14
