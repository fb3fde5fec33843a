"""Axes of figure and report: the same limits and ticks, and labels that never touch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gradhorizon.analysis.drawing.scales import MIN_GAP, RateScale, horizon_ticks, label, length_ticks, rate_scale
from gradhorizon.analysis.figures import sequence_length_scaling
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.analysis.report.charts.sequence_length_scaling import panels as scaling_panels
from tests.synthetic_runs import SyntheticRun, exponential


@pytest.mark.parametrize("linear", [1e-6, 1e-4, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize(("low", "high"), [(-1, 0.2), (-0.02, 0.02), (-700, 1e-3), (-1e-3, 700), (-1e6, 1e6), (-2, 4)])
def test_ticks_of_a_rate_never_touch_and_hold_zero(linear: float, low: float, high: float) -> None:
    scale = RateScale(linear, min(low, -2 * linear), max(high, 2 * linear))
    ends = scale.forward(np.array([scale.low, scale.high]))
    places = scale.forward(np.array(scale.ticks)) / (ends[1] - ends[0])
    assert 0.0 in scale.ticks
    assert len(scale.ticks) >= 3 or scale.ticks[0] == 0.0 or scale.ticks[-1] == 0.0
    assert np.diff(places).min() >= MIN_GAP
    assert len({label(tick) for tick in scale.ticks}) == len(scale.ticks)


def test_place_on_the_axis_is_that_of_a_symmetric_logarithm() -> None:
    scale = RateScale(0.01, -1, 1)
    rates = np.array([-0.5, -0.001, 0.0, 0.002, 3.0])
    assert scale.forward(rates) == pytest.approx(np.sign(rates) * np.log1p(np.abs(rates) / 0.01), rel=1e-15)
    assert scale.inverse(scale.forward(rates)) == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("limits", [(0.7, 40), (0.7, 3e6), (30, 60), (7, 700)])
def test_ticks_of_a_horizon_never_touch(limits: tuple[float, float]) -> None:
    ticks = horizon_ticks(*limits)
    assert len(ticks) >= 1
    assert (np.diff(np.log(ticks)) >= MIN_GAP * np.log(limits[1] / limits[0])).all()


@pytest.mark.parametrize("lengths", [[10], [90, 95, 100], [25, 50, 100, 200, 400, 800], list(range(10, 200))])
def test_lengths_that_touch_have_one_label(lengths: list[int]) -> None:
    found = length_ticks(lengths)
    assert found[-1] == max(lengths)
    assert set(found) <= set(lengths)
    assert (np.diff(np.log(found)) >= 0.1 * np.log(max(lengths) / min(lengths))).all()


@pytest.fixture
def wide(tmp_path: Path) -> Cohort:
    for model, rate in (("lstm", -3.0), ("gru", 0.9), ("irnn", 1e-4)):
        for seq_len in (20, 400):
            SyntheticRun(model=model, seq_len=seq_len, input_len=seq_len + 20, init=exponential(rate)).write(tmp_path)
    return read_cohort([tmp_path])


def test_figure_and_report_show_one_axis(wide: Cohort) -> None:
    table = sequence_length_scaling.summarise(wide)
    figure = sequence_length_scaling.draw(table, "")
    figure.canvas.draw()
    panels = [panel for panel in scaling_panels(table) if "growth rate" in panel.title]
    scale = rate_scale(table)
    assert len(panels) == 2
    for ax, panel in zip(figure.axes[:2], panels, strict=True):
        y = next(layer["encoding"]["y"] for layer in panel.spec["layer"] if "scale" in layer["encoding"].get("y", {}))
        assert (y["scale"]["type"], y["scale"]["constant"]) == ("symlog", scale.linear)
        assert tuple(y["scale"]["domain"]) == ax.get_ylim() == (scale.low, scale.high)
        assert y["axis"]["values"] == ax.get_yticks().tolist() == scale.ticks
        words = [text.get_text() for text in ax.get_yticklabels()]
        assert all(f'"{word}"' in y["axis"]["labelExpr"].encode().decode("unicode_escape") for word in words)
        boxes = [text.get_window_extent() for text in ax.get_yticklabels()]
        assert all(lower.y1 < upper.y0 for lower, upper in pairwise(boxes))
    assert figure.axes[0].get_ylabel() == "growth rate λ [nats/step]" == y["title"]


def test_axis_holds_what_was_measured(wide: Cohort) -> None:
    table = sequence_length_scaling.summarise(wide)
    scale = rate_scale(table)
    finite = pd.concat([table["rate_low"], table["rate_high"]])
    assert scale.low < finite[np.isfinite(finite)].min()
    assert scale.high > finite[np.isfinite(finite)].max()
