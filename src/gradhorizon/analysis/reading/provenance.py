"""Where the numbers come from: versions, commit, threads, seeds, and what is absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from gradhorizon.analysis.reading.cohort import MEMBER, Cohort
from gradhorizon.records.sheets import read_member_sheet, read_run_sheet

FACTS = ("commit", "device", "precision", "num_threads", "cell_source")


def solved_levels(cohort: Cohort) -> pd.DataFrame:
    """Levels that validation metrics must reach, where a run states them: task, seq_len, quantity, solved_level."""
    first = cohort.members.drop_duplicates(["task", "seq_len"])
    rows = [
        (row.task, row.seq_len, metric, float(level))
        for row in first.itertuples()
        for metric, level in _run_json(row).get("solved_levels", {}).items()
    ]
    table = pd.DataFrame(rows, columns=["task", "seq_len", "quantity", "solved_level"])
    return table.astype({"seq_len": "int64", "solved_level": "float64"})


def run_facts(cohort: Cohort) -> pd.DataFrame:
    """One row per run: series, task, seq_len, run, seeds, status of the members, and the facts of its launches.

    A fact that differs between launches of one run lists all its values.
    """
    rows = [_run_row(members) for _, members in cohort.members.groupby(["experiment", "run"], sort=True)]
    return pd.DataFrame(rows)


def versions(cohort: Cohort) -> dict[str, str]:
    """Package -> version it ran with; all of them if launches differ."""
    found: dict[str, set[str]] = {}
    for row in cohort.members.itertuples():
        for package, version in _launch(row).get("versions", {}).items():
            found.setdefault(package, set()).add(str(version))
    return {package: " / ".join(sorted(values)) for package, values in sorted(found.items())}


def absent(cohort: Cohort, tables: tuple[str, ...]) -> pd.DataFrame:
    """Members that failed, are missing or unfinished, diverged, or lack one of `tables`.

    Columns: series, task, seq_len, seed, what.
    """
    parts = [(cohort.diverged, "diverged at step {step:.0f}")]
    parts += [(cohort.without(table), f"no {table} recorded") for table in tables]
    rows = _open_rows(cohort)
    for members, words in parts:
        named = members[MEMBER].merge(cohort.members, on=MEMBER)
        for row in named.itertuples():
            rows.append((row.series, row.task, row.seq_len, row.seed, words.format(step=row.outcome_step)))
    return pd.DataFrame(rows, columns=["series", "task", "seq_len", "seed", "what"])


def unseen(cohort: Cohort) -> list[str]:
    """Models of the members that are asked for and have recorded nothing, once for each."""
    seen = set(cohort.members["folder"])
    return [one.run.model or one.run.folder.name for one in cohort.sweep.open_members if str(one.folder) not in seen]


def _open_rows(cohort: Cohort) -> list[tuple[Any, ...]]:
    series = dict(zip(cohort.members["folder"], cohort.members["series"], strict=True))
    rows: list[tuple[Any, ...]] = []
    for one in cohort.sweep.open_members:
        run, seed = one.run, "" if one.seed is None else one.seed
        name = series.get(str(one.folder), f"{run.model or run.folder.name} {run.variant}".strip())
        what = ": ".join(filter(None, (one.status, one.why)))
        rows.append((name, run.task or "", "" if run.seq_len is None else run.seq_len, seed, what))
    return rows


def _run_row(members: pd.DataFrame) -> dict[str, Any]:
    launches = [_launch(row) for row in members.itertuples()]
    first = members.iloc[0]
    facts = {name: _distinct([launch.get(name) for launch in launches]) for name in FACTS}
    statuses = members["outcome"].fillna(members["status"]).value_counts()
    return {
        **{name: first[name] for name in ("series", "task", "seq_len", "experiment", "run")},
        "seeds": ", ".join(str(seed) for seed in sorted(members["seed"])),
        "members": ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())),
        **facts,
    }


def _distinct(values: list[Any]) -> str:
    return " / ".join(sorted({str(value) for value in values if value is not None}))


def _launch(member: Any) -> dict[str, Any]:
    launch: dict[str, Any] = read_member_sheet(Path(member.folder)).get("launch", {})
    return launch


def _run_json(member: Any) -> dict[str, Any]:
    return read_run_sheet(Path(member.folder).parent)
