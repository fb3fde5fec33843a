"""The report's tables: verdicts, what is absent, and where the numbers come from."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import pandas as pd

from gradhorizon.analysis import verdicts
from gradhorizon.analysis.drawing.appearance import MOST_NAMED
from gradhorizon.analysis.reading import provenance
from gradhorizon.analysis.reading.cohort import Cohort, absence, records
from gradhorizon.analysis.reading.stages import STAGES
from gradhorizon.analysis.report.night import swatch
from gradhorizon.analysis.report.sparkline import Key
from gradhorizon.analysis.statistics.decay_law import NEITHER

TABLES = ("metrics", "input_gradients", "parameter_gradients")


def verdict_tables(table: pd.DataFrame, look: pd.DataFrame, sketches: dict[Key, str], drawn_from: str = "") -> str:
    """A table per task and length.

    Args:
        table: of `gradhorizon.analysis.verdicts.summarise`.
        look: of `gradhorizon.analysis.reading.cohort.Cohort`.
        sketches: of `gradhorizon.analysis.report.sparkline.sparklines`.
        drawn_from: one line on the records, below the last table; empty for none.
    """
    colors = dict(zip(look["series"], look["color"], strict=True))
    blocks = []
    for (task, seq_len), rows in table.groupby(["task", "seq_len"], sort=True):
        body = "".join(_verdict_row(row, colors[row["series"]], sketches) for row in records(rows))
        title = f"{escape(str(task))} · T = {seq_len} (N = {rows['input_len'].iloc[0]} steps)"
        blocks.append(
            f"<h3>{title}</h3>{_scrolling(f'<table>{_VERDICT_HEAD}<tbody>{body}</tbody></table>', len(rows))}"
        )
    notes = [note for note in (verdicts.not_estimable(table), drawn_from) if note]
    return "".join([*blocks, *(f'<p class="note">{escape(note)}</p>' for note in notes)])


def _scrolling(table: str, num_rows: int) -> str:
    return f'<div class="scroll{" tall" if num_rows > MOST_NAMED else ""}">{table}</div>'


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


def absent(cohort: Cohort) -> str:
    """What failed, is missing or unfinished, diverged, or was not recorded."""
    table, words = provenance.absent(cohort, TABLES), absence(cohort, TABLES)
    if not len(table):
        return "<p>Nothing: every member finished, none diverged, and all was recorded.</p>"
    counts = f"{'. '.join(cohort.sweep.summary)}." if cohort.sweep.open_members else ""
    said = [f"<p>{escape(line[:1].upper() + line[1:])}</p>" for line in (counts, words) if line]
    return f"{''.join(said)}{_table(table)}"


def origins(cohort: Cohort) -> str:
    """Versions, and a table of runs that opens."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions(cohort).items())
    facts = provenance.run_facts(cohort).drop(columns="experiment")
    return f"<p>{escape(versions)}</p><details><summary>{count(len(facts), 'run')}</summary>{_table(facts)}</details>"


def count(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``.

    Args:
        number: of them.
        noun: what they are, one of them.
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{escape(str(name).replace('_', ' '))}</th>" for name in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>"
        for row in table.itertuples(index=False)
    )
    return _scrolling(f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>', len(table))
