"""The report: self-contained, escaped, and drawn by a browser without an error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import report
from analysis.cohort import Cohort, read_cohort
from tests.analysis.conftest import HOSTILE, ODD
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
    report.main([str(tmp_path), "--out", str(tmp_path)])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<td>failed: for reasons that nobody wrote down</td>" in page
    assert "2 runs started so far: 1 failed, 1 finished. 2 of 3 members done" in page
    assert "no parameter_gradients recorded" in page


def _browse(folder: Path) -> subprocess.CompletedProcess[str]:
    """The page in `folder` after its program has run, as the browser's document."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
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
