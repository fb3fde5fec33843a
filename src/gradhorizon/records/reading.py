r"""Runs read from disk: their members, and any of their tables, pooled.

Imports neither torch nor Hydra, so that reading records is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from gradhorizon.absent_tables import remedy
from gradhorizon.launches import known_seeds
from gradhorizon.records.files import check_columns, files_of, read_json, read_parts
from gradhorizon.records.layout import MEMBER_SHEET, RECORDS, RUN_SHEET, member_folder, seed_in, seeds_in
from gradhorizon.records.tables import METRICS, AbsentTableError, RecordsError
from gradhorizon.sweep_state import run_folders

_LOOKS = 20  # at a table that its writer is compacting or setting aside


def read_member_table(member: Path, name: str) -> pd.DataFrame | None:
    """All committed rows of one table of one member, or None if nothing was recorded.

    Args:
        member: the member's folder.
        name: the table's name.

    Raises:
        RecordsError: a file of it is damaged, or was written by another version.
    """
    table = _member_table(member, name)
    return None if table is None else table.to_pandas()


def _member_table(member: Path, name: str) -> pa.Table | None:
    for _ in range(_LOOKS):
        try:
            found = files_of(member, name)
            table = read_parts(found, METRICS.schema if name == METRICS.name else None) if found else None
        except FileNotFoundError:  # it was compacted or set aside meanwhile
            continue
        # Parts are added while one reads; but where one has gone, another has been read that should not have been.
        if found == files_of(member, name)[: len(found)]:
            return table
    raise RecordsError(f"{member / RECORDS / name} changed whenever it was read; try again")


@dataclass(frozen=True)
class Runs:
    """Runs read from disk.

    Attributes:
        members: one row per member: the lead columns without step and phase, then ``color``, ``marker``,
            ``num_parameters``, ``hidden_size``, ``num_steps``, ``clip_norm``, ``status`` (running, finished, failed),
            ``outcome`` (solved, budget exhausted, diverged; missing while running), ``outcome_step``,
            ``results_version``, ``folder``.
        chance: one row per run and metric: run, metric, chance.
    """

    members: pd.DataFrame
    chance: pd.DataFrame

    def table(self, name: str) -> pd.DataFrame:
        """Rows of one table over all members.

        Raises:
            AbsentTableError: no member recorded it.
            RecordsError: they recorded it with different columns.
        """
        found = {Path(folder): _member_table(Path(folder), name) for folder in self.members["folder"]}
        present = {folder: table for folder, table in found.items() if table is not None}
        if not present:
            raise AbsentTableError(f"no run recorded `{name}`; {remedy([name])}")
        first, expected = next((folder, table.schema) for folder, table in present.items())
        for folder, table in present.items():
            check_columns(table.schema, folder / RECORDS / name, expected, f"that of {first}")
        return pd.concat([table.to_pandas() for table in present.values()], ignore_index=True)

    def members_without(self, name: str) -> pd.DataFrame:
        """Members that did not record the table `name`."""
        has = [read_member_table(Path(folder), name) is not None for folder in self.members["folder"]]
        return self.members[[not present for present in has]]


_RUN_FIELDS = ("experiment", "run", "model", "task", "seq_len", "input_len")
_RUN_EXTRA = ("color", "marker", "num_parameters", "hidden_size", "num_steps", "clip_norm", "results_version")
_RUN_KEYS = (*_RUN_FIELDS, *_RUN_EXTRA, "identity", "chance")


def read_runs(folders: Sequence[Path | str]) -> Runs:
    """All runs at or below `folders`, pooled.

    Args:
        folders: run folders, experiment folders or runs roots.

    Returns:
        Their members and chance values.

    Raises:
        RecordsError: no run there, one member twice, or results of different `results_version`.
    """
    files = sorted({path.resolve() for folder in folders for path in _run_sheets(Path(folder))})
    if not files:
        raise RecordsError(
            f"no run found at or below {', '.join(map(str, folders))}: expected folders with a {RUN_SHEET}"
        )
    members: list[dict[str, Any]] = []
    chance: list[dict[str, Any]] = []
    for path in files:
        run = read_json(path, _RUN_KEYS)
        chance += [{"run": run["run"], "metric": metric, "chance": value} for metric, value in run["chance"].items()]
        members += [_member_row(run, member_folder(path.parent, seed)) for seed in _seeds(run, path.parent)]
    if not members:
        raise RecordsError(f"no member has started yet at or below {', '.join(map(str, folders))}")
    table = pd.DataFrame(members)
    _refuse_mixtures(table)
    return Runs(table, pd.DataFrame(chance))


def _run_sheets(folder: Path) -> list[Path]:
    return [sheet for run in run_folders(folder) if (sheet := run / RUN_SHEET).is_file()]


def _seeds(run: dict[str, Any], folder: Path) -> list[int]:
    # Seeds that a launch was asked for count as members even where they have no folder.
    return sorted(known_seeds(run) | set(seeds_in(folder)))


def _member_row(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / MEMBER_SHEET
    member = read_json(path, ("status", "outcome", "outcome_step")) if path.is_file() else {}
    return {
        **{name: run[name] for name in (*_RUN_FIELDS, *_RUN_EXTRA)},
        "identity": run["identity"],
        "seed": seed_in(folder.name),
        "status": member.get("status", "running"),
        "outcome": member.get("outcome"),
        "outcome_step": member.get("outcome_step"),
        "folder": str(folder),
    }


def _refuse_mixtures(members: pd.DataFrame) -> None:
    versions = sorted(members["results_version"].unique())
    if len(versions) > 1:
        raise RecordsError(
            f"runs of different `results_version` cannot be pooled, got {versions}: their numbers differ by a change "
            "listed in CHANGELOG.md under **Affects results**; pass one version's folders, or launch the others again"
        )
    twice = members[members.duplicated(["identity", "seed"], keep=False)]
    if len(twice):
        folders = ", ".join(twice["folder"].iloc[:4])
        raise RecordsError(f"one member must not count twice, got the same run and seed in {folders}; pass one of them")
