"""Many series: split into panels, thinned, and both said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.drawing.appearance import MOST_NAMED
from gradhorizon.analysis.figures import gradient_profile, training_curves
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.analysis.report import report
from gradhorizon.analysis.report.findings import FIRST_LISTED
from gradhorizon.analysis.report.groups import MOST_MARKS, MOST_ROWS, groups, packed, thinned_curves, thinned_profiles
from gradhorizon.analysis.report.panels import MAX_POINTS
from tests.analysis.test_report import _browse, needs_browser
from tests.synthetic_runs import SyntheticRun

NUM_MODELS = 85


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("crowd")
    for number in range(NUM_MODELS):
        SyntheticRun(model=f"m{number:02d}", seq_len=70, input_len=90, outcomes=(40 + number,), num_steps=200).write(
            root
        )
    return read_cohort([root])


@pytest.fixture(scope="module")
def page(crowd: Cohort) -> str:
    return report.html(crowd)


def _series(count: int) -> pd.DataFrame:
    return pd.DataFrame({"series": [f"m{number:04d}" for number in range(count)]})


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (40, [40]), (41, [21, 20]), (80, [40, 40]), (200, [40] * 5),
                                              (600, [40] * 15)])  # fmt: skip
def test_series_are_split_evenly_and_each_is_drawn_once(count: int, sizes: list[int]) -> None:
    split = list(groups(_series(count)))
    assert [len(names) for _, names in split] == sizes
    assert [name for _, names in split for name in names] == sorted(_series(count)["series"])


def test_titles_of_split_panels_say_which_series_they_show() -> None:
    words = [said for said, _ in groups(_series(80))]
    assert words == [" · series 1 to 40 of 80: m0000 … m0039", " · series 41 to 80 of 80: m0040 … m0079"]
    assert [said for said, _ in groups(_series(MOST_NAMED))] == [""]


@pytest.mark.parametrize("points", [1, MAX_POINTS + MOST_MARKS, 500, 6000])
def test_a_panel_holds_no_more_rows_than_altair_takes(points: int) -> None:
    for _, names in groups(_series(90), points):
        assert len(names) == 1 or len(names) * points <= MOST_ROWS


def _profile(norms: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"series": "m", "lag": np.arange(len(norms)), "median": norms, "low": norms, "high": norms})


def test_thinning_keeps_ends_extremes_horizon_and_zeros_of_a_profile() -> None:
    norms = np.exp(-0.004 * np.arange(2000.0))
    norms[[777, 1003]] = [5.0, 1e-2]
    norms[1801:1850] = 0.0
    norms[1850:] = 1e-6
    drawn, said = thinned_profiles(_profile(norms))
    horizon = int(np.flatnonzero(norms >= 1e-3)[-1]) + 1
    assert {0, 777, horizon - 1, horizon, 1801, 1849, 1999} <= set(drawn["lag"])
    assert len(drawn) <= MAX_POINTS + MOST_MARKS
    assert said.startswith("64 of 2000 lags are drawn")


def test_thinning_keeps_the_step_at_which_a_curve_is_solved() -> None:
    values = np.linspace(0, 1, 1000)
    values[313] = 0.995
    curve = _profile(values).rename(columns={"lag": "step"}).assign(solved_level=0.99)
    drawn, said = thinned_curves(curve)
    assert {0, 312, 313, 999} <= set(drawn["step"])
    assert "64 of 1000 steps" in said


def test_few_points_are_all_drawn_and_nothing_is_said() -> None:
    rows = _profile(np.linspace(1, 0, MAX_POINTS))
    drawn, said = thinned_profiles(rows)
    pd.testing.assert_frame_equal(drawn, rows)
    assert said == ""


def _unpacked(columns: dict[str, Any]) -> list[dict[str, Any]]:
    whole = {name: one if isinstance(one, list) else [one["words"][at] for at in one["at"]]
             for name, one in columns.items()}  # fmt: skip
    return [dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)]


def test_packed_data_hold_the_same_rows() -> None:
    rows = [{"series": "b", "lag": 0, "low": None}, {"series": "a", "lag": 1, "low": 0.5},
            {"series": "b", "lag": 2, "low": 1.0}]  # fmt: skip
    assert _unpacked(packed({"datasets": {"d": rows}})["datasets"]["d"]) == rows


def _specs(page: str) -> list[dict[str, Any]]:
    found = re.search(r'id="panels">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    specs: list[dict[str, Any]] = json.loads(found[1])
    return specs


def test_every_model_of_a_crowd_is_drawn_in_panels_of_at_most_forty(page: str, crowd: Cohort) -> None:
    shown = [next(one["value"] for one in spec["params"] if one["name"] == "shown") for spec in _specs(page)]
    assert max(map(len, shown)) <= MOST_NAMED
    assert {name for names in shown for name in names} == set(crowd.look["series"])
    assert "series 1 to 29 of 85: m00 … m28" in page
    assert "64 of 90 lags are drawn" in page
    assert f"<summary>{NUM_MODELS} models</summary>" in page


def test_findings_of_a_crowd_name_some_and_count_the_others(page: str) -> None:
    sentences = re.findall(r"<li>(.*?)</li>", page)
    assert any(f"and {NUM_MODELS - FIRST_LISTED} others" in sentence for sentence in sentences)
    assert max(map(len, sentences)) < 700


def test_figures_of_a_crowd_say_that_they_name_nobody(crowd: Cohort) -> None:
    for module in (gradient_profile, training_curves):
        with appearance.styled():
            (draw,) = module.figures(crowd).values()
            figure = draw()
        words = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
        assert "85 series, too many to tell apart here" in words
        assert figure.get_figheight() < 8
        assert sum(len(legend.get_texts()) for legend in figure.legends) < 8


@needs_browser
def test_browser_draws_a_crowd_as_it_comes_into_view_and_searches_it(page: str, tmp_path: Path) -> None:
    search = (
        "<script>const wait = setInterval(() => { if (!document.documentElement.dataset.drawn) return; "
        "clearInterval(wait); const box = document.querySelector('.chips input'); box.value = 'M07'; "
        "box.dispatchEvent(new Event('input')); const root = document.documentElement.dataset; "
        "root.hiddenRows = document.querySelectorAll('tr[hidden]').length; "
        "root.leftCharts = document.querySelectorAll('figure:not([hidden]) .chart').length; }, 50);</script>"
    )
    (tmp_path / "report.html").write_text(page + search, encoding="utf-8")
    done = _browse(tmp_path, "--window-size=1280,2400")  # charts are below a table of all models
    assert "data-error" not in done.stdout
    assert f'data-hidden-rows="{NUM_MODELS - 1}"' in done.stdout
    num_charts = page.count('class="chart"')
    assert f'data-left-charts="{num_charts // 3}"' in done.stdout
    assert 'class="marks"' in done.stdout
