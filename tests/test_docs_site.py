"""The site has a page for everything that is there, and its pages open without a network, equations and figures too."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.website import docstrings, pages
from tests.shipped import TEMPLATE

ROOT = Path(__file__).parents[1]
KINDS = {"cells": "model", "tasks": "task", "measurements": "measurement"}
TARGETS = {
    re.search(r"_target_: (gradhorizon\.(?:cells|tasks|measurements)\.(\w+))\.[A-Z]", text)
    for group in KINDS.values()
    for path in (ROOT / "conf" / group).glob("*.yaml")
    if path.stem != TEMPLATE  # which names no class of ours, but its schedule's
    for text in [path.read_text(encoding="utf-8")]
}
NAMED = sorted({found[1].removeprefix("gradhorizon.").replace(".", "/") for found in TARGETS if found})
STUDIES = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/README.md"))
DECISIONS = sorted(path.stem for path in (ROOT / "docs/decisions").glob("0*.md"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what pages are made of, to be added to."""
    for name in ("src/gradhorizon", "conf", "docs", "experiments", "examples"):
        skipped = shutil.ignore_patterns("*.parquet", "*.pt", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=skipped)
    for path in [*ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / "CITATION.cff"]:
        shutil.copy(path, tmp_path / "copy")
    return tmp_path / "copy"


def _laid_out(root: Path) -> Path:
    into = root.parent / "pages"
    into.mkdir()
    pages.lay_out(root, into)
    return into


def test_docstrings_become_the_markup_that_examples_say() -> None:
    tried = doctest.testmod(docstrings)
    assert tried.attempted >= 2
    assert tried.failed == 0


def test_bars_are_escaped_in_prose_alone() -> None:
    lines = ["|a| and :math:`|b|`:", "", ".. math::", "    |c|", "", "|d|::", "", "    t | 1", "", "Source: |e|"]
    assert docstrings.as_markup(lines) == [
        r"\|a\| and :math:`|b|`:", "", ".. math::", "    |c|", "", "|d|::", "", "    t | 1", "", r"**Source.** \|e\|",
    ]  # fmt: skip


def test_a_size_told_by_its_letter_begins_no_list() -> None:
    assert docstrings.as_markup(["Args:", "    input_size: D.", "    x: of D."]) == [
        "Args:", r"    input_size: D\.", "    x: of D.",
    ]  # fmt: skip


@pytest.mark.parametrize(("room", "group"), KINDS.items())
def test_a_new_file_has_a_page_that_nobody_lists(room: str, group: str, copy: Path) -> None:
    (copy / f"src/gradhorizon/{room}/newest.py").write_text('"""It.\n\n.. math:: x\n"""\n\n\nclass Newest:\n    pass\n')
    node = f"_target_: gradhorizon.{room}.newest.Newest\n"
    (copy / f"conf/{group}/newest.yaml").write_text(f"cell:\n  {node}" if group == "model" else node)
    laid_out = _laid_out(copy)
    page = (laid_out / f"reference/{room}/newest.md").read_text(encoding="utf-8")
    assert f".. automodule:: gradhorizon.{room}.newest" in page
    assert ".. autoclass:: Newest" in page
    assert f"`gradhorizon {group}=newest`" in page
    assert f"\nreference/{room}/newest\n" in (laid_out / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["experiments/newest/README.md", "docs/newest.md", "docs/decisions/9999-newest.md"])
def test_a_new_document_has_a_page_that_nobody_lists(name: str, copy: Path) -> None:
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("# Newest\n\n[Front](../../README.md)\n", encoding="utf-8")
    laid_out, page = _laid_out(copy), name.replace("README", "index")
    assert "[Front](../../index.md)" in (laid_out / page).read_text(encoding="utf-8")
    assert f"\n{page.removesuffix('.md')}\n" in (laid_out / "index.md").read_text(encoding="utf-8")


def test_every_page_stands_in_the_side_bar_once(copy: Path) -> None:
    laid_out = _laid_out(copy)
    front = (laid_out / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\{toctree\}\n(?::.*\n)*\n((?:.+\n)+)```", front, flags=re.MULTILINE)
    listed = [name for block in blocks for name in block.splitlines()]
    there = {path.relative_to(laid_out).with_suffix("").as_posix() for path in laid_out.rglob("*.md")}
    assert sorted(listed) == sorted(there - {"index"})


def test_parts_that_several_share_are_in_the_library() -> None:
    found = pages.reference(ROOT)
    assert {"reference/library/cells.cell.md", "reference/library/measurements.probe.md"} <= set(found)
    assert {f"reference/{name}.md" for name in NAMED} <= set(found)
    assert len([name for name in found if re.match("reference/(cells|tasks|measurements)/", name)]) == len(NAMED)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that is built now, or the one that DOCS_SITE names: CI has it from `make docs` a moment before."""
    if built := os.environ.get("DOCS_SITE"):
        return Path(built)
    for tool in ("sphinx", "myst_parser", "furo", "ziamath"):
        pytest.importorskip(tool, reason="`make docs` installs the tools of the documentation", exc_type=ImportError)
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "docs.website.build", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_page_shows_the_docstring_its_equations_drawn(name: str, site: Path) -> None:
    page = _text(site / f"reference/{name}.html")
    docstring = ast.get_docstring(ast.parse((ROOT / f"src/gradhorizon/{name}.py").read_text(encoding="utf-8"))) or ""
    blocks = docstring.count(".. math::")
    assert page.count('<div class="equation"><svg') >= blocks
    assert "\\frac" not in re.sub(r'aria-label="[^"]*"', "", page)
    if "::\n\n    t " in docstring:
        assert "<pre>" in page


@pytest.mark.slow
def test_every_cell_and_every_measured_quantity_with_an_equation_has_it(site: Path) -> None:
    cells = [name for name in NAMED if name.startswith("cells/")]
    assert [name for name in cells if '<div class="equation"><svg' not in _text(site / f"reference/{name}.html")] == []


@pytest.mark.slow
def test_public_calls_have_their_page(site: Path) -> None:
    page = _text(site / "reference/gradhorizon.html")
    for name in ("input_gradient_profile", "state_gradient_profile"):
        assert f'id="gradhorizon.{name}"' in page


@pytest.mark.slow
def test_studies_and_decisions_are_pages(site: Path) -> None:
    wanted = [f"experiments/{name}/index.html" for name in STUDIES] + [
        f"docs/decisions/{name}.html" for name in DECISIONS
    ]
    assert [name for name in wanted if not (site / name).is_file()] == []


@pytest.mark.slow
def test_pages_load_nothing_from_a_network_and_every_picture_is_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)\b[^>]*\bsrc="([^"]+)"', _text(page))
        loaded += re.findall(r'<link\b[^>]*\brel="(?:stylesheet|preload|icon)"[^>]*\bhref="([^"]+)"', _text(page))
        assert [name for name in loaded if not (page.parent / name.partition("?")[0]).resolve().is_file()] == [], page
    assert "experiments" in _text(site / "index.html")
    styles = "".join(_text(path) for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//", styles) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")  # ziafont, of importlib
@pytest.mark.parametrize("latex", [r"\frac{", r"a \unheardof b"])
def test_an_equation_that_cannot_be_drawn_is_an_error(latex: str) -> None:
    pytest.importorskip("ziamath", reason="`make docs` installs the tools of the documentation")
    mathematics = importlib.import_module("docs.website.mathematics")
    with pytest.raises(ValueError, match="equation"):
        mathematics.drawn(latex, is_block=True)
    assert mathematics.drawn(r"\frac{a}{b}", is_block=True).startswith("<svg")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")  # ziafont, of importlib
def test_bars_grow_with_what_they_enclose_only_where_latex_says_so() -> None:
    pytest.importorskip("ziamath", reason="`make docs` installs the tools of the documentation")
    mathematics = importlib.import_module("docs.website.mathematics")
    alike = (r"\lvert x_{i_j} \rvert", r"\left\lvert x_{i_j} \right\rvert", "x_{i_j}")
    drawn = [mathematics.drawn(latex, is_block=True) for latex in alike]
    heights = [float(re.findall(r'height="([\d.]+)em"', svg)[0]) for svg in drawn]
    assert heights[2] <= heights[0] < heights[1]


@pytest.mark.slow
def test_a_folder_with_other_files_is_never_built_over(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="`make docs` installs the tools of the documentation")
    (tmp_path / "mine.txt").touch()
    build = importlib.import_module("docs.website.build")
    with pytest.raises(SystemExit, match="2"):
        build.main(["--out", str(tmp_path)])
    assert (tmp_path / "mine.txt").exists()
