"""Runs as curves: one label, colour and marker per model, members that are complete, and those that are not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from gradhorizon.analysis.reading.naming import printable, series_names
from gradhorizon.records.absent_tables import remedy
from gradhorizon.records.layout import member_name
from gradhorizon.records.reading import Runs, read_runs
from gradhorizon.records.tables import RecordsError
from gradhorizon.status.sweep import SweepLook, SweepReader

MEMBER = ["experiment", "run", "seed"]
"""Columns that name a member."""
CELL = ["series", "task", "seq_len", "input_len"]
"""Columns that name one curve on one task at one length."""
RESERVED_COLORS = ("#222255", "#663333", "#225555", "#666633", "#555555", "#662266", "#225522", "#884400")
"""For labels that no file in conf/model gives a colour: dark, so that they stand apart from the shipped ones."""
RESERVED_MARKERS = ("P", "X", "d", "*", "h", "8", "<", ">")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_KNOWN_MARKERS = frozenset("ov^<>sDdpPXh8*.+x")


@dataclass(frozen=True, eq=False)
class Cohort:
    """Runs that are analysed together.

    Attributes:
        members: as `Runs.members`, with ``series``: the model's label, made unique where runs of
            one model on one task and length differ in their configuration.
        runs: what was read.
        look: one row per series in drawing order: series, color, marker.
        sweep: what the disk tells of all runs, those too that have recorded nothing.
    """

    members: pd.DataFrame
    runs: Runs
    look: pd.DataFrame
    sweep: SweepLook = field(default_factory=lambda: SweepLook([], 0.0))

    @lru_cache(maxsize=8)  # noqa: B019, a cohort lives as long as its program
    def table(self, name: str) -> pd.DataFrame:
        """Rows of one table over all members, with ``series``.

        Raises:
            RecordsError: no member recorded it.
        """
        rows = _printable(self.runs.table(name), ["task"])
        return rows.merge(self.members[[*MEMBER, "series"]], on=MEMBER, how="inner")

    def is_recorded(self, name: str) -> bool:
        """Whether any member recorded a table."""
        return len(self.without(name)) < len(self.members)

    @lru_cache(maxsize=8)  # noqa: B019, as above
    def without(self, name: str) -> pd.DataFrame:
        """Members that did not record a table."""
        return self.runs.members_without(name)

    @cached_property
    def digest(self) -> str:
        """What stands for all records that are drawn."""
        return self.runs.digest

    @property
    def diverged(self) -> pd.DataFrame:
        """Members that diverged."""
        return self.members[self.members["outcome"] == "diverged"]

    @property
    def unfinished(self) -> pd.DataFrame:
        """Members that are not finished, of those that have recorded something; all of them: `sweep.open_members`."""
        return self.members[self.members["status"] != "finished"]


def read_cohort(folders: Sequence[Path | str], *, is_partial: bool = False) -> Cohort:
    """All runs at or below `folders`.

    Args:
        folders: run folders, experiment folders or runs roots.
        is_partial: whether members that are unfinished are tolerated.

    Raises:
        RecordsError: nothing to read, or members that are missing, each of them listed.
    """
    sweep = SweepReader([Path(folder).resolve() for folder in folders]).read()
    try:
        runs = read_runs(folders)
    except RecordsError as error:
        if not sweep.open_members:
            raise
        raise RecordsError("\n".join([str(error), sweep.summary[0], *open_lines(sweep)])) from error
    cohort = with_looks(Runs(with_statuses(runs.members, sweep), runs.chance), sweep)
    if not is_partial:
        _refuse_missing(cohort)
    return cohort


def absence(cohort: Cohort, tables: Sequence[str]) -> str:
    """One line on the tables that members lack, and how to get them; empty if none does.

    Args:
        cohort: what is drawn.
        tables: those that are drawn of it.
    """
    without = {table: cohort.without(table) for table in tables}
    lacking = {table: len(members) for table, members in without.items() if (members["status"] == "finished").any()}
    each = ", ".join(f"{table} of {count} of {len(cohort.members)} members" for table, count in lacking.items())
    return f"not recorded, so not drawn: {each}; {remedy(lacking)}" if lacking else ""


def _refuse_missing(cohort: Cohort) -> None:
    problems = open_lines(cohort.sweep)
    if problems:
        listed = "\n".join(problems)
        raise RecordsError(
            f"{len(problems)} records are missing:\n{listed}\n{'; '.join(cohort.sweep.summary)}\n"
            "launch the sweep again to complete them, or pass --partial to go on without; what is no longer wanted is "
            "forgotten with the failed run's folder, or the sweep's file in sweeps/"
        )


def member_names(rows: pd.DataFrame) -> list[str]:
    """``experiment/run/seed-n`` of each row.

    Args:
        rows: with the columns `MEMBER`.
    """
    return [f"{experiment}/{run}/{member_name(seed)}" for experiment, run, seed in rows[MEMBER].itertuples(index=False)]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def with_statuses(members: pd.DataFrame, sweep: SweepLook) -> pd.DataFrame:
    """`members` with the status that ``gradhorizon-status`` gives to those that are not finished."""
    known = {str(one.folder): one.status for one in sweep.open_members}
    told = zip(members["folder"], members["status"], strict=True)
    return members.assign(status=[known.get(folder, status) for folder, status in told])


def open_lines(sweep: SweepLook) -> list[str]:
    """A line for each member that is not finished: its name, its status, and why."""
    return [
        f"  {one.run.experiment}/{one.run.folder.name}{'' if one.seed is None else f'/{member_name(one.seed)}'}: "
        f"{': '.join(filter(None, (one.status, one.why)))}"
        for one in sweep.open_members
    ]


def with_looks(runs: Runs, sweep: SweepLook) -> Cohort:
    """`runs` with a label, colour and marker for every curve, and what the disk tells of all."""
    named = _printable(runs.members, ["model", "task"])
    members = named.assign(series=series_names(named))
    return Cohort(members, runs, _look(members), sweep)


def _printable(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    for name in columns:
        odd = {one: printable(str(one)) for one in table[name].unique() if printable(str(one)) != one}
        table = table.assign(**{name: table[name].map(lambda one, odd=odd: odd.get(one, one))}) if odd else table
    return table


def _look(members: pd.DataFrame) -> pd.DataFrame:
    first = members.sort_values("series", kind="stable").groupby("series", sort=True).first().reset_index()
    taken: set[str] = set()
    rows = []
    num_reserved = 0
    for row in records(first):
        spare, turn = num_reserved % len(RESERVED_COLORS), num_reserved // len(RESERVED_COLORS)
        is_own = _is_color(row["color"]) and row["color"] not in taken
        color = row["color"] if is_own else RESERVED_COLORS[spare]
        # A colour that comes round again has another marker.
        other = RESERVED_MARKERS[(spare + turn) % len(RESERVED_MARKERS)]
        marker = row["marker"] if is_own and row["marker"] in _KNOWN_MARKERS else other
        num_reserved += (color, marker) != (row["color"], row["marker"])
        taken.add(color)
        rows.append((row["series"], color, marker))
    return pd.DataFrame(rows, columns=pd.Index(["series", "color", "marker"]))


def _is_color(value: Any) -> bool:
    return isinstance(value, str) and _COLOR.fullmatch(value) is not None
