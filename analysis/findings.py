"""What was found, in three to five plain sentences that the table makes true by construction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from analysis.cohort import records
from analysis.growth import MIN_SEEDS

Row = dict[str, Any]


def findings(table: pd.DataFrame, unseen: Sequence[str] = ()) -> list[str]:
    """Three to five sentences about reach at init, reach after training, solving, divergence and certainty.

    Args:
        table: of `analysis.verdicts.summarise`.
        unseen: names of members that are asked for and have recorded nothing, of which the table knows nothing.
    """
    rows = records(table)
    sentences = [
        _reach(rows, "init", "At init"),
        _reach(rows, "trained", "After training"),
        _solved(rows),
        _lost(rows, unseen),
        _certainty(rows),
    ]
    return [sentence for sentence in sentences if sentence]


def _reach(rows: list[Row], stage: str, opening: str) -> str:
    measured = [row for row in rows if not pd.isna(row[f"horizon_{stage}"])]
    if not measured:
        return ""
    reached = _by_model(measured, lambda row: bool(row[f"horizon_is_censored_{stage}"]))
    parts = []
    if reached["all"]:
        parts.append(f"reaches back over the whole sequence in every setting for {_listed(reached['all'])}")
    if reached["some"]:
        verb = "does in" if parts else "reaches back over the whole sequence in"
        parts.append(f"{verb} some settings only for {_listed(reached['some'])}")
    short = [row for row in measured if not row[f"horizon_is_censored_{stage}"] and row["series"] in reached["none"]]
    if short:
        named = [f"{model} (after {_span(short, model, stage)} steps)" for model in reached["none"]]
        parts.append(f"falls under a thousandth for good within the sequence for {_listed(named)}")
    return f"{opening}, the median gradient {'; it '.join(parts)}."


def _by_model(rows: list[Row], holds: Callable[[Row], bool]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"all": [], "some": [], "none": []}
    for model in sorted({row["series"] for row in rows}):
        answers = [holds(row) for row in rows if row["series"] == model]
        found["all" if all(answers) else "some" if any(answers) else "none"].append(model)
    return found


def _span(rows: list[Row], model: str, stage: str) -> str:
    horizons = [int(row[f"horizon_{stage}"]) for row in rows if row["series"] == model]
    return str(min(horizons)) if min(horizons) == max(horizons) else f"{min(horizons)} to {max(horizons)}"


def _solved(rows: list[Row]) -> str:
    finished = [row for row in rows if row["num_finished"]]
    if not finished:
        return "No member has finished training yet."
    tasks = sorted({row["task"] for row in finished})
    return f"Solved within the budget: {'; '.join(_solvers(finished, task) for task in tasks)}."


def _solvers(rows: list[Row], task: str) -> str:
    own = [row for row in rows if row["task"] == task]
    models = sorted({row["series"] for row in own}, key=lambda model: (-_count(own, "num_solved", model), model))
    counts = [
        f"{model} ({_count(own, 'num_solved', model)} of {_count(own, 'num_finished', model)} members)"
        for model in models
        if _count(own, "num_solved", model)
    ]
    return f"{task} by {_listed(counts) if counts else 'nobody'}"


def _count(rows: list[Row], name: str, model: str) -> int:
    return sum(row[name] for row in rows if row["series"] == model)


def _lost(rows: list[Row], unseen: Sequence[str]) -> str:
    parts = []
    for name, words in (
        ("num_diverged", "diverged and left the numbers after training"),
        ("num_unfinished", "had not finished"),
    ):
        others = unseen if name == "num_unfinished" else ()
        count = sum(row[name] for row in rows) + len(others)
        if count:
            models = _listed(sorted({row["series"] for row in rows if row[name]} | set(others)))
            parts.append(f"{count} {'member' if count == 1 else 'members'} {words} ({models})")
    return f"{'; '.join(parts)}." if parts else ""


def _certainty(rows: list[Row]) -> str:
    fewest, most = min(_seeds(row) for row in rows), max(_seeds(row) for row in rows)
    if fewest >= MIN_SEEDS or not most:
        return ""
    seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return (
        f"Seeds per setting: {seeds}. Fewer than {MIN_SEEDS} allow no interval: "
        "counts of seeds say what happened and are no inference."
    )


def _seeds(row: Row) -> int:
    counts = [row[f"num_seeds_{stage}"] for stage in ("init", "trained")]
    known = [int(count) for count in counts if not (isinstance(count, float) and math.isnan(count))]
    return min(known, default=0)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
