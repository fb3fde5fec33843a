"""What was found, in three to five plain sentences that the table makes true by construction."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from gradhorizon.analysis.reading.cohort import records
from gradhorizon.analysis.statistics.growth import MIN_SEEDS

Row = dict[str, Any]
MOST_LISTED, FIRST_LISTED = 20, 8
"""Names of a sentence: with more than the first, so many are named and the others counted."""


def findings(table: pd.DataFrame, unseen: Sequence[str] = ()) -> list[str]:
    """Three to five sentences about reach at init, reach after training, solving, divergence and certainty.

    Args:
        table: of `gradhorizon.analysis.verdicts.summarise`.
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
    if reached["none"]:
        spans = _spans(measured, stage)
        named = [f"{model} (after {spans[model]} steps)" for model in reached["none"]]
        parts.append(f"falls under a thousandth for good within the sequence for {_listed(named)}")
    return f"{opening}, the median gradient {'; it '.join(parts)}."


def _by_model(rows: list[Row], holds: Callable[[Row], bool]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"all": [], "some": [], "none": []}
    told: dict[str, list[bool]] = {}
    for row in rows:
        told.setdefault(row["series"], []).append(holds(row))
    for model, answers in sorted(told.items()):
        found["all" if all(answers) else "some" if any(answers) else "none"].append(model)
    return found


def _spans(rows: list[Row], stage: str) -> dict[str, str]:
    horizons: dict[str, list[int]] = {}
    for row in rows:
        horizons.setdefault(row["series"], []).append(int(row[f"horizon_{stage}"]))
    ends = {model: (min(own), max(own)) for model, own in horizons.items()}
    return {model: str(low) if low == high else f"{low} to {high}" for model, (low, high) in ends.items()}


def _solved(rows: list[Row]) -> str:
    finished = [row for row in rows if row["num_finished"]]
    if not finished:
        return "No member has finished training yet."
    tasks = sorted({row["task"] for row in finished})
    return f"Solved within the budget: {'; '.join(_solvers(finished, task) for task in tasks)}."


def _solvers(rows: list[Row], task: str) -> str:
    own = [row for row in rows if row["task"] == task]
    solved, finished = _counts(own, "num_solved"), _counts(own, "num_finished")
    models = sorted(solved, key=lambda model: (-solved[model], model))
    counts = [f"{model} ({solved[model]} of {finished[model]} members)" for model in models if solved[model]]
    return f"{task} by {_listed(counts) if counts else 'nobody'}"


def _counts(rows: list[Row], name: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        found[row["series"]] += row[name]
    return found


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
    if len(names) > MOST_LISTED:
        return f"{', '.join(names[:FIRST_LISTED])} and {len(names) - FIRST_LISTED} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
