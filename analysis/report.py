"""One self-contained, interactive HTML page: what was found, verdicts, profiles, scaling, curves, provenance.

Usage: ``python -m analysis.report RUNS… [--out DIR]``. Opens from a file, with no network; unfinished members
and absent measurements do not stop it: it lists them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import vl_convert

from analysis import (
    command_line,
    gradient_profile,
    growth,
    provenance,
    sequence_length_scaling,
    training_curves,
    verdicts,
)
from analysis.cohort import Cohort, absence, records
from analysis.decay_law import NEITHER
from analysis.findings import findings
from analysis.night import dark_charts, swatch
from analysis.report_charts import curve_panels, profile_panels, scaling_panels
from analysis.report_panels import Panel
from analysis.sparkline import Key, sparklines
from analysis.stages import STAGES
from gradhorizon.records.tables import AbsentTableError

PAGE = Path(__file__).parent / "page"
TABLES = ("metrics", "input_gradients", "parameter_gradients")
_SECTIONS = (
    (
        "How far back the gradient reaches",
        "Relative input gradient against lag; dotted: the horizon level 1/1000.",
        profile_panels,
    ),
    (
        "Reach against sequence length",
        "Dashed: horizon = N; arrow: beyond the longest lag (hollow: the point too). Shaded: stable. −∞: table alone.",
        scaling_panels,
    ),
    (
        "Training",
        "Dotted: chance; dashed: solved level; dash-dotted: clipping threshold. A solved member keeps its last values.",
        curve_panels,
    ),
)


def html(cohort: Cohort) -> str:
    """The page.

    Args:
        cohort: what is reported.
    """
    table = verdicts.summarise(cohort)
    modules = (gradient_profile, sequence_length_scaling, training_curves)
    summaries = [_summary(module, cohort) for module in modules]
    sections = [
        [] if summary is None else list(panels(summary))
        for (_, _, panels), summary in zip(_SECTIONS, summaries, strict=True)
    ]
    sketches = {} if summaries[0] is None else sparklines(summaries[0])
    specs = [panel.spec for section in sections for panel in section]
    parts = {
        "coverage": growth.spoken_coverage([growth.MIN_SEEDS]),
        "style": _file("style.css") + "\n" + dark_charts(cohort.look["color"]),
        "program": _file("page.js"),
        "bundle": _bundle(),
        "panels": _json(specs),
        "subtitle": escape(_subtitle(cohort)),
        "findings": "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(table, provenance.unseen(cohort))),
        "chips": "".join(_chip(row) for row in records(cohort.look)),
        "verdicts": _verdict_tables(table, cohort.look, sketches),
        "sections": _sections(sections),
        "absent": _absent(cohort),
        "provenance": _provenance(cohort),
    }
    return Template(_file("page.html")).substitute(parts)


def _summary(module: Any, cohort: Cohort) -> pd.DataFrame | None:
    try:
        found: pd.DataFrame = module.summarise(cohort)
    except AbsentTableError:  # `_absent` says so
        return None
    return found


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
    return f"{_count(num_runs, 'run')}, {_count(len(members), 'trained network')} · {tasks} · experiment {experiments}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _chip(row: dict[str, Any]) -> str:
    name = escape(str(row["series"]))
    return (
        f'<button type="button" aria-pressed="true" data-series="{name}"><i style="{swatch(row["color"])}"></i>'
        f"{name}</button>"
    )


def _verdict_tables(table: pd.DataFrame, look: pd.DataFrame, sketches: dict[Key, str]) -> str:
    colors = dict(zip(look["series"], look["color"], strict=True))
    blocks = []
    for (task, seq_len), rows in table.groupby(["task", "seq_len"], sort=True):
        body = "".join(_verdict_row(row, colors[row["series"]], sketches) for row in records(rows))
        title = f"{escape(str(task))} · T = {seq_len} (N = {rows['input_len'].iloc[0]} steps)"
        blocks.append(f'<h3>{title}</h3><div class="scroll"><table>{_VERDICT_HEAD}<tbody>{body}</tbody></table></div>')
    note = verdicts.not_estimable(table)
    return "".join([*blocks, f'<p class="note">{escape(note)}</p>' if note else ""])


_VERDICT_HEAD = (
    "<thead><tr><th>model</th><th>parameters</th><th>λ at init<br>[nats/step]</th><th>λ after<br>training</th>"
    "<th>horizon at<br>init [steps]</th><th>after<br>training</th><th>solved</th><th>95 %<br>(Wilson)</th>"
    '<th>steps to<br>solve</th><th class="left">verdict<br>at init</th><th class="left">after<br>training</th>'
    '<th class="left">decay law<br>at init</th><th class="left">after<br>training</th></tr></thead>'
)


def _verdict_row(row: dict[str, Any], color: str, sketches: dict[Key, str]) -> str:
    said = dict(enumerate(verdicts.spoken(pd.DataFrame([row])).iloc[0]))
    name = escape(str(row["series"]))
    numbers = "".join(f"<td>{escape(said[column])}</td>" for column in (3, 4, 5, 6, 7, 12, 13, 14))
    pills = "".join(
        f'<td class="left">{_pill(verdicts.short_verdict(row, stage))}</td>' for stage in ("init", "trained")
    )
    laws = "".join(
        f'<td class="left">{escape(said[column])}{_sketch(row, stage, sketches)}</td>'
        for column, stage in zip((16, 17), STAGES, strict=True)
    )
    return f'<tr data-series="{name}"><td><i style="{swatch(color)}"></i>{name}</td>{numbers}{pills}{laws}</tr>'


def _sketch(row: dict[str, Any], stage: str, sketches: dict[Key, str]) -> str:
    if row[f"decay_law_{verdicts.SHORT[stage]}"] != NEITHER:
        return ""
    return sketches.get((row["series"], row["task"], row["seq_len"], stage), "")


def _pill(text: str) -> str:
    kinds = [kind for kind in ("vanishing", "stable", "exploding") if kind in text]
    words = re.sub(r"(\d) ", "\\1&nbsp;", escape(text))  # a count stays beside its word
    return f'<span class="pill {kinds[0] if len(kinds) == 1 else ""}">{words}</span>'


def _sections(sections: list[list[Panel]]) -> str:
    number = 0
    blocks = []
    for (title, note, _), panels in zip(_SECTIONS, sections, strict=True):
        blocks.append(f'<h2>{title}</h2><p class="note">{note}</p>' if panels else "")
        for heading, group in groupby(panels, key=lambda panel: panel.heading):
            figures = [_figure(panel, number + index) for index, panel in enumerate(group)]
            number += len(figures)
            blocks.append(f'<h3>{escape(heading)}</h3><div class="charts">{"".join(figures)}</div>')
    return "".join(blocks)


def _figure(panel: Panel, number: int) -> str:
    chart = f'<div class="chart" data-panel="{number}"></div>'
    return f"<figure><figcaption>{escape(panel.title)}</figcaption>{chart}</figure>"


def _absent(cohort: Cohort) -> str:
    table, words = provenance.absent(cohort, TABLES), absence(cohort, TABLES)
    if not len(table):
        return "<p>Nothing: every member finished, none diverged, and all was recorded.</p>"
    counts = f"{'. '.join(cohort.sweep.summary)}." if cohort.sweep.open_members else ""
    said = [f"<p>{escape(line[:1].upper() + line[1:])}</p>" for line in (counts, words) if line]
    return f"{''.join(said)}{_table(table)}"


def _provenance(cohort: Cohort) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions(cohort).items())
    facts = provenance.run_facts(cohort).drop(columns="experiment")
    return f"<p>{escape(versions)}</p><details><summary>{_count(len(facts), 'run')}</summary>{_table(facts)}</details>"


def _table(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{escape(str(name).replace('_', ' '))}</th>" for name in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>"
        for row in table.itertuples(index=False)
    )
    return f'<div class="scroll"><table class="runs"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write report.html; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(html(cohort), encoding="utf-8")
    return [out / "report.html"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of the runs named on the command line; what is missing is listed in it, not refused."""
    command_line.run(__doc__, (), write, [*(arguments if arguments is not None else command_line.own()), "--partial"])


if __name__ == "__main__":
    main()
