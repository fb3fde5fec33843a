"""Declared quantities as they are drawn: marks, legends, footnotes, files, and their sections of the page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradhorizon.analysis import command, figures
from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.figures import gates, recurrent_weights, state_jacobians
from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.charts import panels
from gradhorizon.analysis.quantities.declared import Axis, Quantity, Reference
from gradhorizon.analysis.quantities.limits import limits
from gradhorizon.analysis.quantities.over_seeds import summarise
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.analysis.report import charts, report
from tests.analysis.conftest import HOSTILE
from tests.analysis.recorded import record
from tests.analysis.test_quantities import HORIZON, QUANTITIES, STATE, _profiles, _weights, norms, rows_of
from tests.analysis.test_report import _browse, needs_browser
from tests.synthetic_runs import SyntheticRun

LABEL = f"{HOSTILE}$x$"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one model, with a hostile label, that recorded every table."""
    root = tmp_path_factory.mktemp("everything")
    run = SyntheticRun(model=LABEL, outcomes=(None, None), color=None)
    for stem, quantity in QUANTITIES.items():
        if quantity.rows is None and stem not in {"recurrent_weights", "effective_horizon", "underflow_lag"}:
            members = [rows_of(quantity, np.random.default_rng(seed)) for seed in range(2)]
            record(run, root, quantity.table, members)
    rates = {0: -1.0, 7: -0.5, 1000: -0.1}
    record(run, root, "input_gradients", [_profiles(rates, num_lags=run.input_len)] * 2)
    return root


@pytest.fixture(scope="module")
def cohort(everything: Path) -> Cohort:
    return read_cohort([everything])


@pytest.fixture(scope="module")
def page(cohort: Cohort) -> str:
    return report.html(cohort)


def _specs(page: str) -> list[dict[str, Any]]:
    found = re.search(r'id="panels">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    specs: list[dict[str, Any]] = json.loads(found[1])
    return specs


@pytest.mark.parametrize("name", figures.found())
def test_every_figure_that_is_found_is_drawn(name: str, cohort: Cohort, tmp_path: Path) -> None:
    written = figures.found()[name].write(cohort, tmp_path)
    pictures = [path for path in written if path.suffix == ".png"]
    stems = [section.stem for section in figures.found()[name].SECTIONS if isinstance(section, Quantity)]
    assert pictures
    assert all(path.stat().st_size > 5000 for path in pictures)
    assert all(any(path.name.startswith(f"{stem}-") for path in pictures) for stem in stems)


def test_every_figure_that_is_found_has_a_section_with_charts(page: str) -> None:
    blocks = re.split(r"<h2>(.*?)</h2>", page)
    charts_of = {title: block.count('class="chart"') for title, block in zip(blocks[1::2], blocks[2::2], strict=True)}
    for module in figures.found().values():
        for section in module.SECTIONS:
            assert charts_of[section.title] > 0, section.title
    assert sum(charts_of.values()) == len(_specs(page))


def test_sections_stand_in_order_of_their_numbers(page: str) -> None:
    sections = sorted(
        (section for module in figures.found().values() for section in module.SECTIONS), key=lambda one: one.number
    )
    titles = [title for title in re.findall(r"<h2>(.*?)</h2>", page) if title in {one.title for one in sections}]
    assert titles == [section.title for section in sections]


def test_charts_drawn_by_hand_are_those_of_sections_that_declare_nothing() -> None:
    plain = {
        name
        for name, module in figures.found().items()
        for section in module.SECTIONS
        if not isinstance(section, Quantity)
    }
    assert set(charts.found()) == plain


@needs_browser
def test_browser_draws_the_charts_of_every_section_without_an_error(page: str, tmp_path: Path) -> None:
    # A page of many charts draws one when it comes near the window; here all of them are near.
    near = (
        "<head><script>window.IntersectionObserver = class { constructor(tell) { this.tell = tell; } "
        "observe(target) { queueMicrotask(() => this.tell([{ target, isIntersecting: true }])); } };</script>"
    )
    (tmp_path / "report.html").write_text(page.replace("<head>", near, 1), encoding="utf-8")
    done = _browse(tmp_path)
    assert "data-error" not in done.stdout
    assert done.stdout.count('class="marks"') == page.count('class="chart"')
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


def test_hostile_label_is_text_in_every_section(page: str, cohort: Cohort) -> None:
    assert HOSTILE not in page
    with appearance.styled():
        drawn = next(iter(drawing.figures(gates.SECTIONS[0], cohort).values()))()
        drawn.canvas.draw()
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [LABEL.replace("$", r"\$")]


def test_redrawn_figures_are_the_same_bytes(cohort: Cohort, tmp_path: Path) -> None:
    first, second = (gates.write(cohort, tmp_path / name) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def _drawn(quantity: Quantity, root: Path, members: Sequence[pd.DataFrame], **settings: Any) -> Figure:
    settings = {"outcomes": (None,) * len(members), "tables": (), **settings}
    record(SyntheticRun(**settings), root, quantity.table, members)
    with appearance.styled():
        (draw, *_) = drawing.figures(quantity, read_cohort([root])).values()
        figure = draw()
        figure.canvas.draw()
    return figure


def _footnote(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def _on_edge(ax: Axes) -> list[float]:
    edge = [line for line in ax.lines if line.get_transform() == ax.get_xaxis_transform()]
    return sorted(float(x) for line in edge for x in np.asarray(line.get_xdata()))


def test_exact_zeros_are_marked_on_the_floor_and_in_no_line(tmp_path: Path) -> None:
    figure = _drawn(STATE, tmp_path, [norms([1.0, 0.0, 1e-2])])
    ax = figure.axes[0]
    assert _on_edge(ax) == [1.0]
    assert np.isnan(np.asarray(ax.lines[0].get_ydata())).tolist() == [False, True, False]
    assert "Marks on the lower edge: exactly 0." in _footnote(figure)
    assert ax.get_ylim()[0] < 1e-2 * 0.9


def test_infinities_are_marked_on_the_ceiling(tmp_path: Path) -> None:
    rows = pd.DataFrame({"lag": [0, 1], "log10_condition_median": [1.0, np.inf], "step": 0, "phase": "init"})
    figure = _drawn(state_jacobians.SECTIONS[0], tmp_path, [rows])
    assert _on_edge(figure.axes[-1]) == [1.0]
    assert "upper edge: infinite" in _footnote(figure)


def test_nan_is_said_and_what_has_no_number_has_no_panel(tmp_path: Path) -> None:
    rows = pd.DataFrame({"gate": ["forget_gate"] * 2 + ["input_gate"] * 2, "lag": [0, 1] * 2, "step": 0,
                         "phase": "init", "mean": [0.5, np.nan, 0.5, 0.5],
                         "time_scale_median_steps": [2.0, 2.0, np.nan, np.nan]})  # fmt: skip
    figure = _drawn(gates.SECTIONS[0], tmp_path, [rows])
    assert len(figure.axes) == 3
    assert "NaN, so left out: 1 of 6 values." in _footnote(figure)
    assert "Without a number, so without a panel: time scale of input gate." in _footnote(figure)


def test_all_nan_draws_nothing_and_raises_nothing(tmp_path: Path) -> None:
    record(SyntheticRun(outcomes=(None,), tables=()), tmp_path, "state_gradients", [norms([np.nan])])
    cohort = read_cohort([tmp_path])
    assert drawing.figures(STATE, cohort) == {}
    assert list(panels(STATE, summarise(STATE, cohort))) == []


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0], [np.inf, 1.0], [1e-300, 1e300], [5e-324, 1.0]])
def test_odd_values_are_drawn(values: list[float], tmp_path: Path) -> None:
    _drawn(STATE, tmp_path, [norms(values)])
    cohort = read_cohort([tmp_path])
    for panel in panels(STATE, summarise(STATE, cohort)):
        json.dumps(panel.spec, allow_nan=False)


def test_horizon_beyond_the_longest_lag_is_hollow_with_an_arrow(tmp_path: Path) -> None:
    figure = _drawn(HORIZON, tmp_path, [_profiles({0: -1.0, 5: -1.0, 90: -0.1})], input_len=30, outcomes=(90,))
    ax = figure.axes[0]
    hollow = [np.asarray(line.get_xydata()) for line in ax.lines if line.get_markerfacecolor() == "white"]
    arrows = [np.asarray(line.get_xydata()) for line in ax.lines if line.get_marker() == r"$\uparrow$"]
    assert [place.tolist() for place in hollow] == [place.tolist() for place in arrows] == [[[90, 29]]]
    assert "beyond the longest lag" in _footnote(figure)
    assert ax.get_xscale() == "symlog"
    assert "a seed solved it" in [text.get_text() for text in figure.legends[-1].get_texts()]


def test_diverged_members_are_said(tmp_path: Path) -> None:
    members = [_weights({0: 1.0, 50: 9.0}, "diverged"), _weights({0: 2.0, 50: 2.0, 100: 3.0})]
    figure = _drawn(recurrent_weights.SECTIONS[0], tmp_path, members, outcomes=("diverged", None))
    assert "Diverged, drawn until then: lstm T50 seed 0." in _footnote(figure)
    staged = _drawn(STATE, tmp_path / "staged", [norms([1.0])] * 2, outcomes=("diverged", None))
    assert "Diverged, so without an end: lstm T50 seed 0." in _footnote(staged)


@pytest.mark.parametrize(("num_seeds", "words"), [(1, "n = 1); band: range"), (5, "n = 5); band: quartiles")])
def test_footnote_names_seeds_and_band(num_seeds: int, words: str, tmp_path: Path) -> None:
    assert words in _footnote(_drawn(STATE, tmp_path, [norms([1.0, 0.1])] * num_seeds))


def test_many_panels_are_spread_over_files(tmp_path: Path) -> None:
    rows = pd.DataFrame({"gate": [f"gate_{number}" for number in range(7)], "lag": 0, "step": 0, "phase": "init",
                         "mean": 0.5, "time_scale_median_steps": np.nan})  # fmt: skip
    record(SyntheticRun(outcomes=(None,), tables=()), tmp_path, "gates", [rows])
    drawn = drawing.figures(gates.SECTIONS[0], read_cohort([tmp_path]))
    assert list(drawn) == [f"gates-copy_arjovsky2016-T50-{number}" for number in (1, 2)]
    with appearance.styled():
        assert [len(draw().axes) for draw in drawn.values()] == [4, 3]


def test_a_crowd_is_drawn_without_names_and_says_so(tmp_path: Path) -> None:
    for number in range(appearance.MOST_NAMED + 1):
        run = SyntheticRun(model=f"m{number}", outcomes=(None,), tables=())
        record(run, tmp_path, "state_gradients", [norms([1.0, 0.5])])
    cohort = read_cohort([tmp_path])
    with appearance.styled():
        (draw,) = drawing.figures(STATE, cohort).values()
        figure = draw()
    assert "41 series, too many to tell apart here" in _footnote(figure)
    found = list(panels(STATE, summarise(STATE, cohort)))
    assert len(found) == 2
    assert "series 1 to 21 of 41" in found[0].title


def test_report_thins_long_curves_and_keeps_zeros(tmp_path: Path) -> None:
    values = np.exp(-0.01 * np.arange(500.0))
    values[321] = 0.0
    record(SyntheticRun(outcomes=(None,), tables=()), tmp_path, "state_gradients", [norms(values.tolist())])
    (panel,) = panels(STATE, summarise(STATE, read_cohort([tmp_path])))
    rows = [row for one in panel.spec["datasets"].values() for row in one]
    assert 321 in [row["x"] for row in rows if row.get("value") == "exactly 0"]
    assert max(len(one) for one in panel.spec["datasets"].values()) < 90
    assert panel.note.startswith("64 of 500 places are drawn")


def test_limits_hold_values_and_what_they_are_compared_with() -> None:
    table = pd.DataFrame({"median": [1.0, 2.0], "low": [0.5, 2.0], "high": [1.0, 4.0], "facet": "a",
                          "median_is_censored": False})  # fmt: skip
    shown = limits(Axis("y", "y [–]", references=(Reference(9.0, "r"), Reference(99.0, "other", "b"))), table)
    assert -0.1 < shown.low < 0.5
    assert 9.0 < shown.high < 12
    assert shown.strip is None
    logs = limits(Axis("y", "y [–]", "log"), table.assign(median=[0.0, 2.0]))
    assert logs.strip is not None
    assert logs.low < logs.strip < logs.lowest < 0.5
    assert all(logs.lowest <= tick <= logs.high for tick in logs.ticks)
    assert len(logs.ticks) >= 2


def test_logarithmic_axis_shows_no_more_than_twelve_decades() -> None:
    table = pd.DataFrame({"median": [1.0, 1e-40], "low": 1e-40, "high": 1.0, "facet": "", "median_is_censored": False})
    assert limits(Axis("y", "y [–]", "log"), table).low == pytest.approx(1e-12 / 2.5, rel=0.01)


def test_one_that_is_asked_for_and_has_nothing_to_draw_is_said(tmp_path: Path) -> None:
    SyntheticRun().write(tmp_path / "runs")
    with pytest.raises(SystemExit, match="`gradient_horizon` has nothing to draw"):
        command.main([str(tmp_path / "runs"), "--out", str(tmp_path), "--only", "gradient_horizon"])
