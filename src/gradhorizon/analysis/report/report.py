"""One self-contained, interactive HTML page: what was found, verdicts, a section per figure that is found, provenance.

Opens from a file, with no network; unfinished members
and absent measurements do not stop it: it lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any, TypeVar

import pandas as pd
import vl_convert

from gradhorizon.analysis import figures, verdicts
from gradhorizon.analysis.drawing.appearance import MOST_NAMED
from gradhorizon.analysis.drawing.saving import origin, save_text
from gradhorizon.analysis.figures import gradient_profile
from gradhorizon.analysis.quantities.charts import panels
from gradhorizon.analysis.quantities.declared import Quantity, Section
from gradhorizon.analysis.quantities.over_seeds import summarise
from gradhorizon.analysis.reading import provenance
from gradhorizon.analysis.reading.cohort import Cohort, records
from gradhorizon.analysis.report import charts
from gradhorizon.analysis.report.findings import findings
from gradhorizon.analysis.report.groups import packed
from gradhorizon.analysis.report.night import dark_charts, swatch
from gradhorizon.analysis.report.panels import Panel
from gradhorizon.analysis.report.sparkline import sparklines
from gradhorizon.analysis.report.tables import absent, count, origins, verdict_tables
from gradhorizon.analysis.statistics import growth
from gradhorizon.records.tables import AbsentTableError

PAGE = Path(__file__).parent / "page"
LONG_CHARACTERS = 60
"""Of a label that has to be broken into lines."""
MOST_PANELS = 60
"""Charts that a browser draws and holds at once."""
Made = TypeVar("Made")


def html(cohort: Cohort) -> str:
    """The page.

    Args:
        cohort: what is reported.
    """
    table = verdicts.summarise(cohort)
    sections = _sections(cohort)
    profiles = _unless_absent(lambda: gradient_profile.summarise(cohort))
    sketches = {} if profiles is None else sparklines(profiles)
    specs = [panel.spec for _, drawn in sections for panel in drawn]
    is_large = len(cohort.look) > MOST_NAMED or len(specs) > MOST_PANELS
    parts = {
        "coverage": growth.spoken_coverage([growth.MIN_SEEDS]),
        "style": _style(cohort.look["series"], is_large) + dark_charts(cohort.look["color"]),
        "program": _file("page.js") + _file("many.js" if is_large else "few.js"),
        "bundle": _bundle(),
        "panels": _json([packed(spec) for spec in specs] if is_large else specs),
        "subtitle": escape(_subtitle(cohort)),
        "findings": "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(table, provenance.unseen(cohort))),
        "chips": _chips(cohort.look),
        "verdicts": verdict_tables(table, cohort.look, sketches),
        "sections": _blocks(sections, is_large),
        "absent": absent(cohort),
        "provenance": origins(cohort),
        "drawn_from": f" {escape(origin(cohort.digest))}",
    }
    return Template(_file("page.html")).substitute(parts)


def _sections(cohort: Cohort) -> list[tuple[Section, list[Panel]]]:
    """Every section of every figure that is found, in order, and its charts: none where nothing was recorded."""
    found = [
        (section, _unless_absent(partial(_charts, name, module, section, cohort)) or [])
        for name, module in figures.found().items()
        for section in module.SECTIONS
    ]
    return sorted(found, key=lambda one: one[0].number)


def _charts(name: str, module: Any, section: Section, cohort: Cohort) -> list[Panel]:
    if isinstance(section, Quantity):
        return list(panels(section, summarise(section, cohort)))
    return list(charts.found()[name].panels(module.summarise(cohort)))


def _unless_absent(made: Callable[[], Made]) -> Made | None:
    try:
        return made()
    except AbsentTableError:  # `absent` says so
        return None


def _file(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False).replace("<", "\\u003c")


def _subtitle(cohort: Cohort) -> str:
    members = cohort.members
    tasks = ", ".join(sorted(members["task"].unique()))
    experiments = ", ".join(sorted(members["experiment"].unique()))
    num_runs = len(members[["experiment", "run"]].drop_duplicates())
    return f"{count(num_runs, 'run')}, {count(len(members), 'trained network')} · {tasks} · experiment {experiments}"


def _chips(look: pd.DataFrame) -> str:
    chips = "".join(_chip(row) for row in records(look))
    if len(look) <= MOST_NAMED:
        return chips
    search = '<input type="search" placeholder="show models whose name contains …" aria-label="models to show">'
    return f"{search}<details><summary>{len(look)} models</summary><section>{chips}</section></details>"


def _chip(row: dict[str, Any]) -> str:
    name = escape(str(row["series"]))
    return (
        f'<button type="button" aria-pressed="true" data-series="{name}"><i style="{swatch(row["color"])}"></i>'
        f"{name}</button>"
    )


def _blocks(sections: list[tuple[Section, list[Panel]]], is_large: bool) -> str:
    number = 0
    blocks = []
    for section, drawn in sections:
        said = f"{section.note} {_split(drawn)}".strip() if is_large else section.note
        blocks.append(f'<h2>{escape(section.title)}</h2><p class="note">{escape(said)}</p>' if drawn else "")
        for heading, group in groupby(drawn, key=lambda panel: panel.heading):
            figures = [_figure(panel, number + index) for index, panel in enumerate(group)]
            number += len(figures)
            blocks.append(f'<h3>{escape(heading)}</h3><div class="charts">{"".join(figures)}</div>')
    return "".join(blocks)


def _style(series: pd.Series, is_large: bool) -> str:
    is_long = int(series.str.len().max()) > LONG_CHARACTERS
    return "".join([_file("style.css"), _file("many.css") * is_large, _file("long.css") * is_long, "\n"])


def _split(panels: list[Panel]) -> str:
    """What a page with many charts says above them."""
    split = f"More than {MOST_NAMED} models are split by name into panels of at most {MOST_NAMED}, on the same axes. "
    is_split = any(" · series " in panel.title for panel in panels)
    return f"{split if is_split else ''}A chart is drawn when it comes near the window."


def _figure(panel: Panel, number: int) -> str:
    chart = f'<div class="chart" data-panel="{number}"></div>'
    note = f'<br><span class="note" style="font-weight:400">{escape(panel.note)}</span>' if panel.note else ""
    return f"<figure><figcaption>{escape(panel.title)}{note}</figcaption>{chart}</figure>"


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write report.html; returns its path."""
    return [save_text(html(cohort), out / "report.html")]
