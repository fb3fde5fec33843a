"""The table of a sweep: who vanishes, how far the gradient reaches, who solves the task and when.

One row per model, task and length; written as CSV and
Markdown, and shown in the terminal.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradhorizon.analysis.drawing.markdown import noted_table
from gradhorizon.analysis.drawing.saving import origin, save_table, save_text
from gradhorizon.analysis.figures import sequence_length_scaling
from gradhorizon.analysis.figures.gradient_profile import TABLES
from gradhorizon.analysis.reading.cohort import CELL, Cohort, records
from gradhorizon.analysis.reading.stages import STAGES
from gradhorizon.analysis.statistics import decay_law, growth, solving
from gradhorizon.analysis.statistics.growth import MIN_SEEDS

SHORT = {"at init": "init", "after training": "trained"}
"""Stage -> the suffix of its columns."""
_PER_STAGE = ("num_seeds", "rate", "rate_low", "rate_high", "coverage", "horizon", "horizon_is_censored", "verdict",
              "tendency", "decay_law", "decay_reason", "decay_misfit", "power_law_exponent", "power_law_exponent_low",
              "power_law_exponent_high", "decay_evidence", "decay_evidence_low", "decay_evidence_high",
              "num_excluded_norms")  # fmt: skip
HEADER = ("model", "task", "T", "parameters", "growth rate at init [nats/step]", "after training",
          "horizon at init [steps]", "after training", "verdict at init", "after training", "seeds at init",
          "after training", "solved", "95 % interval (Wilson)", "steps to solve", "diverged", "decay law at init",
          "after training")  # fmt: skip
TERMINAL_WIDTH = 100
_NOT_ESTIMABLE = "not estimable"
_SHORT_LAWS = {decay_law.EXPONENTIAL: "exp", decay_law.POWER_LAW: "pow", decay_law.NEITHER: "none",
               decay_law.UNDECIDED: "?"}  # fmt: skip


def summarise(cohort: Cohort) -> pd.DataFrame:
    """One row per model, task and length.

    Columns: series, task, seq_len, input_len, num_parameters; for each stage (suffix ``_init`` and ``_trained``)
    num_seeds, rate, rate_low, rate_high (nats per step), coverage (of that interval, dimensionless; NaN: a range),
    horizon (steps), horizon_is_censored, verdict, tendency, decay_law, decay_reason, decay_misfit (dimensionless),
    power_law_exponent and decay_evidence (nats per lag, positive for exponential) with …_low and …_high,
    num_excluded_norms (zero or not finite, over all seeds);
    num_solved, num_finished, solved_low, solved_high (Wilson), steps_to_solve (Kaplan–Meier median, infinite if half
    never solve), num_steps (the budget), num_diverged, num_unfinished.
    """
    table = _outcomes(cohort)
    if not cohort.is_recorded(TABLES[0]):
        table = table.assign(**{f"{name}_{stage}": np.nan for name in _PER_STAGE for stage in SHORT.values()})
        return table.sort_values(["task", "seq_len", "series"], ignore_index=True)
    scaling = sequence_length_scaling.summarise(cohort)
    for stage in STAGES:
        rows = scaling[scaling["stage"] == stage][[*CELL, *_PER_STAGE]]
        table = table.merge(
            rows.rename(columns={name: f"{name}_{SHORT[stage]}" for name in _PER_STAGE}), on=CELL, how="left"
        )
    return table.sort_values(["task", "seq_len", "series"], ignore_index=True)


def _outcomes(cohort: Cohort) -> pd.DataFrame:
    groups = cohort.members.groupby(CELL, sort=True)
    return pd.DataFrame([dict(zip(CELL, key, strict=True)) | _outcome(members) for key, members in groups])


def _outcome(members: pd.DataFrame) -> dict[str, Any]:
    finished = members[members["status"] == "finished"]
    is_solved = (finished["outcome"] == "solved").to_numpy(dtype=bool)
    # A diverged member would never have solved: it is censored at the budget, not where it broke off.
    steps = np.where(is_solved, finished["outcome_step"], finished["num_steps"]).astype(float)
    interval = solving.solve_rate_interval(int(is_solved.sum()), len(finished))
    return {
        "num_parameters": int(members["num_parameters"].iloc[0]),
        "num_steps": int(members["num_steps"].iloc[0]),
        "num_solved": int(is_solved.sum()),
        "num_finished": len(finished),
        "solved_low": interval.low,
        "solved_high": interval.high,
        "steps_to_solve": solving.median_steps_to_solve(steps, is_solved),
        "num_diverged": int((members["outcome"] == "diverged").sum()),
        "num_unfinished": len(members) - len(finished),
    }


def spoken(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: every cell a string, columns as `HEADER`.

    Args:
        table: of `summarise`.
    """
    return pd.DataFrame([_spoken_row(row) for row in records(table)], columns=pd.Index(HEADER))


def _spoken_row(row: dict[str, Any]) -> list[str]:
    stages = ("init", "trained")
    return [
        str(row["series"]),
        str(row["task"]),
        str(row["seq_len"]),
        f"{row['num_parameters']:,}",
        *(spoken_rate(row, stage) for stage in stages),
        *(spoken_horizon(row, stage) for stage in stages),
        *(_estimable(row[f"verdict_{stage}"]) for stage in stages),
        *(_text(row[f"tendency_{stage}"]) for stage in stages),
        f"{row['num_solved']}/{row['num_finished']}",
        f"{row['solved_low']:.2f}–{row['solved_high']:.2f}" if row["num_finished"] else "–",
        spoken_steps(row),
        str(row["num_diverged"]) if row["num_diverged"] else "–",
        *(spoken_law(row, stage) for stage in stages),
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "–"


def _estimable(value: Any) -> str:
    """`value` as text; ``–`` for what is not estimable, which `not_estimable` says once for all rows."""
    return "–" if _text(value).startswith(_NOT_ESTIMABLE) else _text(value)


def not_estimable(table: pd.DataFrame) -> str:
    """One sentence on the verdicts and decay laws that are ``–`` in every row, and why; empty if there are none.

    Args:
        table: of `summarise`.
    """
    columns = [f"{name}_{stage}" for name in ("verdict", "decay_reason") for stage in SHORT.values()]
    said = sorted({value for name in columns for value in table[name] if _text(value).startswith(_NOT_ESTIMABLE)})
    reasons = ", ".join(value.removeprefix(_NOT_ESTIMABLE).strip(" ()") for value in said)
    demand = f"; intervals, and with them verdicts and decay laws, need {MIN_SEEDS} seeds and finite rates"
    return f"–: {_NOT_ESTIMABLE} ({reasons}){demand}." if said else ""


def spoken_rate(row: dict[str, Any], stage: str) -> str:
    """Growth rate with sign, ``−∞`` for a profile cut off by exact zeros, ``–`` if there is none."""
    rate = row[f"rate_{stage}"]
    if pd.isna(rate):
        return "–"
    if math.isinf(rate):
        return "−∞" if rate < 0 else "+∞"
    return f"{rate:+z.3f}".replace("-", "−")


def spoken_horizon(row: dict[str, Any], stage: str) -> str:
    """Horizon in steps, ``> N − 1`` if censored, ``–`` if there is none."""
    if pd.isna(row[f"horizon_{stage}"]):
        return "–"
    return f"{'> ' if row[f'horizon_is_censored_{stage}'] else ''}{row[f'horizon_{stage}']:.0f}"


def spoken_law(row: dict[str, Any], stage: str) -> str:
    """The decay law with its exponent and evidence, or why it has no name; ``–`` if nothing was measured."""
    law = _text(row[f"decay_law_{stage}"])
    if _estimable(row[f"decay_reason_{stage}"]) != _text(row[f"decay_reason_{stage}"]):
        return "–"
    if law in (decay_law.UNDECIDED, decay_law.NEITHER):
        return f"{law}: {row[f'decay_reason_{stage}']}{'; see its profile' if law == decay_law.NEITHER else ''}"
    exponent = _spoken_exponent(row, stage) if law == decay_law.POWER_LAW else ""
    return law if law == "–" else f"{law}{exponent}, by {abs(row[f'decay_evidence_{stage}']):.1f} nats/lag"


def _spoken_exponent(row: dict[str, Any], stage: str) -> str:
    alpha, low, high = (row[f"power_law_exponent{end}_{stage}"] for end in ("", "_low", "_high"))
    covered = growth.spoken_coverage([int(row[f"num_seeds_{stage}"])])
    return f", α = {alpha:.2f} ({low:.2f} to {high:.2f}, {covered})"


def spoken_steps(row: dict[str, Any]) -> str:
    """Median steps to solve, ``> budget`` if fewer than half solve, ``–`` if no member has finished."""
    if not row["num_finished"]:
        return "–"
    return f"> {row['num_steps']}" if math.isinf(row["steps_to_solve"]) else f"{row['steps_to_solve']:.0f}"


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown.

    Args:
        table: of `summarise`.
    """
    return noted_table(HEADER, spoken(table).to_numpy().tolist(), not_estimable(table))


def show(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print the table, one block per task and length, at most `TERMINAL_WIDTH` columns wide.

    Args:
        table: of `summarise`.
        console: where to; the terminal if None.
    """
    console = console or Console(
        width=min(Console().width, TERMINAL_WIDTH) if Console().is_terminal else TERMINAL_WIDTH,
        emoji=False,
    )
    for (task, seq_len), rows in table.groupby(["task", "seq_len"], sort=True):
        console.print(_terminal_table(f"{task}   T = {seq_len}   N = {rows['input_len'].iloc[0]}", rows))
        console.print()
    note = not_estimable(table)
    if note:
        console.print(note, markup=False, highlight=False)
        console.print()


def _terminal_table(title: str, rows: pd.DataFrame) -> Table:
    shown = Table(
        title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    shown.add_column("\nmodel", overflow="fold", max_width=24)
    for name in ("\nparams", "λ\ninit", "λ\nafter", "horizon\ninit", "horizon\nafter", "\nsolved", "solved\nat step"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("law: init\n→ after", no_wrap=True)
    shown.add_column("verdict: init\n→ after", overflow="fold")
    for row in records(rows):
        said = _spoken_row(row)
        law, verdict = (f"{short(row, 'init')} → {short(row, 'trained')}" for short in (short_law, short_verdict))
        shown.add_row(escape(said[0]), said[3], *said[4:8], said[12], said[14], law, verdict)
    return shown


def short_law(row: dict[str, Any], stage: str) -> str:
    """``exp``, ``pow``, ``none`` if neither, ``?`` if undecided, ``–`` if nothing was measured.

    Args:
        row: of `summarise`.
        stage: ``init`` or ``trained``.
    """
    law = _SHORT_LAWS.get(row[f"decay_law_{stage}"], "–")
    return "–" if spoken_law(row, stage) == "–" else law


def short_verdict(row: dict[str, Any], stage: str) -> str:
    """The verdict, or the count of the seeds where too few allow one; ``–`` if nothing was measured.

    Args:
        row: of `summarise`.
        stage: ``init`` or ``trained``.
    """
    verdict = _text(row[f"verdict_{stage}"])
    return _text(row[f"tendency_{stage}"]) if verdict.startswith(_NOT_ESTIMABLE) else verdict


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Show the table and write it as verdicts.csv and verdicts.md; returns their paths."""
    table = summarise(cohort)
    show(table)
    return save(table, out, cohort.digest)


def save(table: pd.DataFrame, out: Path, digest: str) -> list[Path]:
    """Write the table as verdicts.csv (numbers) and verdicts.md (as people read it); returns their paths.

    Args:
        table: of `summarise`.
        out: folder to write to.
        digest: of the records that it was made of.
    """
    text = f"{markdown(table)}\n{origin(digest)}\n"
    return [save_table(table, out / "verdicts.csv", digest), save_text(text, out / "verdicts.md")]
