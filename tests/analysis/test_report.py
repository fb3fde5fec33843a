"""The report: self-contained, escaped, and drawn by a browser without an error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from gradhorizon.analysis.drawing.contrast import NIGHT, WHITE
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.analysis.report import report
from gradhorizon.analysis.report.sparkline import HEIGHT, WIDTH, sparkline
from tests.analysis.conftest import HOSTILE, ODD
from tests.programs import draw_report
from tests.synthetic_runs import SyntheticRun

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=20000", "--enable-logging=stderr",
)  # fmt: skip
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def page(cohort: Cohort) -> str:
    return report.html(cohort)


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Elements()
    parser.feed(page)
    return parser.tags


def test_page_loads_nothing_from_elsewhere(page: str) -> None:
    loaded = [attributes for _, attributes in _elements(page) if {"src", "href"} & set(attributes)]
    assert loaded == []
    assert "default-src 'none'" in page


def test_hostile_label_is_text_everywhere(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert [tag for tag, _ in _elements(page)].count("script") == 3


def test_hostile_label_reaches_the_charts_unchanged(page: str) -> None:
    found = re.search(r'<script type="application/json" id="panels">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert HOSTILE in json.dumps(json.loads(found[1]))


def test_every_chart_element_has_a_specification(page: str) -> None:
    numbers = [int(str(attributes["data-panel"])) for _, attributes in _elements(page) if "data-panel" in attributes]
    found = re.search(r'id="panels">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    assert numbers == list(range(len(json.loads(found[1]))))


def test_page_lists_diverged_members_and_provenance(page: str) -> None:
    assert "diverged at step 300" in page
    assert "torch 2.13.0" in page
    assert "ea5761f" in page


def test_page_is_the_same_when_written_again(cohort: Cohort, page: str) -> None:
    assert report.html(cohort) == page


@pytest.mark.parametrize("case", ODD)
def test_odd_runs_are_reported(case: str, tmp_path: Path) -> None:
    ODD[case]().write(tmp_path)
    found = re.search(r'id="panels">(.*?)</script>', report.html(read_cohort([tmp_path])), re.DOTALL)
    assert found is not None
    assert len(json.loads(found[1])) > 0


def test_report_of_unfinished_runs_lists_what_is_absent(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(300, "failed")).write(tmp_path)
    SyntheticRun(model="gru", outcomes=(300,), tables=("metrics", "input_gradients")).write(tmp_path)
    draw_report([str(tmp_path), "--out", str(tmp_path)])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<td>failed: for reasons that nobody wrote down</td>" in page
    assert "2 runs started so far: 1 failed, 1 finished. 2 of 3 members done" in page
    assert "no parameter_gradients recorded" in page


def test_profile_of_neither_law_is_sketched_beside_the_word(tmp_path: Path) -> None:
    floor, straight = (lambda lags: np.exp(-0.5 * lags) + 1e-4), (lambda lags: np.exp(-0.5 * lags))
    SyntheticRun(model="bent", init=floor, trained=straight, outcomes=(None,) * 5).write(tmp_path)
    page = report.html(read_cohort([tmp_path]))
    assert page.count('<svg class="spark"') == 1
    assert re.search(r"see its profile<svg .*?lag 0 to 69, 4.0 decades from top to bottom", page)


def test_sketch_runs_from_the_largest_gradient_to_the_smallest_and_breaks_at_zeros() -> None:
    norms = np.array([1.0, 0.1, 0.0, np.nan, 1e-2, 1e-3])
    path = re.search(r'd="([^"]+)"', sparkline(np.arange(6.0), norms))
    assert path is not None
    marks = [(mark[0], *map(float, mark[1:].split())) for mark in re.findall(r"[ML][^ML]+", path[1])]
    top, bottom, width = 1.0, HEIGHT - 1.0, WIDTH - 2.0
    assert [mark[0] for mark in marks] == ["M", "L", "M", "L"]
    assert [mark[1] for mark in marks] == pytest.approx([1 + width * lag / 5 for lag in (0, 1, 4, 5)], abs=0.06)
    assert [mark[2] for mark in marks] == pytest.approx(
        [top + (bottom - top) * decades / 3 for decades in (0, 1, 2, 3)], abs=0.06
    )
    assert sparkline(np.arange(3.0), np.zeros(3)) == ""


def test_not_estimable_is_said_once(page: str) -> None:
    assert page.count("not estimable") == 1


def _browse(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The page in `folder` after its program has run, as the browser's document."""
    command = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    address = (folder / "report.html").as_uri()
    return subprocess.run([*command, address], check=True, capture_output=True, text=True, timeout=120)


@needs_browser
def test_browser_draws_every_chart_from_a_file_without_an_error(page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    done = _browse(tmp_path)
    num_charts = page.count('class="chart"')
    assert f'data-drawn="{num_charts}"' in done.stdout
    assert "data-error" not in done.stdout
    assert done.stdout.count('class="marks"') == num_charts
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


@needs_browser
def test_browser_hides_a_model_whose_label_is_clicked(page: str, tmp_path: Path) -> None:
    click = (
        "<script>const wait = setInterval(() => { if (document.documentElement.dataset.drawn) { clearInterval(wait); "
        "document.querySelector('.chips button').click(); document.documentElement.dataset.hiddenRows = "
        "document.querySelectorAll('tr[hidden]').length; } }, 50);</script>"
    )
    (tmp_path / "report.html").write_text(page + click, encoding="utf-8")
    done = _browse(tmp_path)
    assert 'data-hidden-rows="1"' in done.stdout
    assert "data-error" not in done.stdout


def _screenshot(folder: Path, scheme: int) -> np.ndarray:
    """The page's first screen, shape (height, width, 3), for readers who prefer the dark (0) or the light (1)."""
    picture = folder / f"{scheme}.png"
    preference = f"--blink-settings=preferredColorScheme={scheme}"
    flags = [*FLAGS, f"--user-data-dir={folder / str(scheme)}", "--window-size=1280,3000", f"--screenshot={picture}"]
    address = (folder / "report.html").as_uri()
    subprocess.run([str(CHROMIUM), *flags, preference, address], check=True, capture_output=True, timeout=120)
    return image.imread(picture)[:, :, :3]


@needs_browser
def test_page_and_charts_follow_the_preference_for_dark(page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    dark, light = (_screenshot(tmp_path, scheme) for scheme in (0, 1))
    for picture, background in ((dark, NIGHT), (light, WHITE)):
        paper = np.array([int(background[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        assert (np.abs(picture - paper).max(axis=2) < 0.01).mean() > 0.6
    assert (dark.min(axis=2) > 0.97).mean() < 0.001  # no chart keeps a white ground
    assert (light.max(axis=2) < 0.12).mean() < 0.03


NARROW = """<!doctype html><body><script>
const frame = document.createElement("iframe");
frame.style.cssText = "width:420px;height:900px;border:0";
frame.srcdoc = PAGE;
document.body.append(frame);
const wait = setInterval(() => {
  const root = frame.contentDocument.documentElement;
  if (!root.dataset.drawn) return;
  clearInterval(wait);
  const charts = [...frame.contentDocument.querySelectorAll(".chart svg.marks")];
  document.documentElement.dataset.page = String(root.scrollWidth - root.clientWidth);
  document.documentElement.dataset.chart = String(Math.max(...charts.map((one) => one.getBoundingClientRect().right)));
  document.documentElement.dataset.least = String(Math.min(...charts.map((one) => one.getBoundingClientRect().width)));
}, 50);
</script></body>"""


@needs_browser
def test_page_reads_at_420_pixels(page: str, tmp_path: Path) -> None:
    text = json.dumps(page).replace("</", "<\\/")
    (tmp_path / "report.html").write_text(NARROW.replace("PAGE", text), encoding="utf-8")
    found = dict(re.findall(r'data-(page|chart|least)="([\d.]+)"', _browse(tmp_path).stdout))
    assert float(found["page"]) == 0  # nothing to scroll to
    assert float(found["chart"]) <= 420
    assert float(found["least"]) > 300
