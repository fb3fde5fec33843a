r"""The schema of everything a run writes: tables in long format, one writer, one reader.

A member (one seed of a run) owns a folder::

    runs/<experiment>/<run>/
        config.yaml  run.json  log.txt  output.txt  failed.json (while it is)
        seed-0/
            member.json  checkpoint.pt  checkpoints/<phase>.pt  .lock  .owner-<n>.json
            records/<table>.parquet                       once finished, or
            records/<table>/<first step>-<last step>.parquet   parts, while it trains

Beside the runs, ``runs/<experiment>/sweeps/`` holds what sweeps have asked for (`gradhorizon.asked`).
Parts are written by atomic rename just before the checkpoint that they belong to. On resume, parts that are later
than the checkpoint are set aside (renamed ``*.aside``), never counted twice and never deleted.
Imports neither torch nor Hydra, so that reading records is cheap.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from gradhorizon.absent_tables import remedy
from gradhorizon.record_files import (
    check_columns,
    part_name,
    part_range,
    parts_in,
    put_aside,
    read_json,
    read_parts,
    write_json,
    write_parquet,
)
from gradhorizon.sweep_state import run_folders
from gradhorizon.tables import LEAD_COLUMNS, METRICS, AbsentTableError, Column, RecordsError, Table

__all__ = [
    "LEAD_COLUMNS", "METRICS", "AbsentTableError", "Column", "MemberRecords", "RecordsError", "Runs", "Table",
    "read_json", "read_member_table", "read_runs", "write_json", "write_parquet",
]  # fmt: skip

log = logging.getLogger(__name__)

_LOOKS = 20  # at a table that its writer is compacting or setting aside


class MemberRecords:
    """Writes one member's rows: buffered, then committed in parts, then compacted.

    Args:
        folder: the member's folder.
        lead: values of the lead columns that are constant for the member.
        checkpoint_step: optimizer step of the checkpoint from which the member goes on, None if it starts. What is on
            disk and belongs to no checkpoint is set aside.
        tables: those that will be appended to, whose columns on disk must be the same.

    Raises:
        DamagedFileError: a part that belongs to the checkpoint is damaged.
        RecordsError: it was written with other columns.
    """

    def __init__(
        self, folder: Path, lead: dict[str, Any], checkpoint_step: int | None = None, tables: Sequence[Table] = ()
    ) -> None:
        self.folder = folder / "records"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lead = lead
        self._leads: dict[tuple[int, str], pd.DataFrame] = {}
        self._next_step = checkpoint_step or 0
        self._rows: dict[str, tuple[Table, list[pd.DataFrame]]] = {}
        unwanted = self._of_no_checkpoint(checkpoint_step)
        self._check({table.name: table.schema for table in tables}, set(unwanted))
        if unwanted:  # said first, or a kill between could leave it unsaid
            words = "  %d parts later than the checkpoint are set aside: %s"
            log.warning(words, len(unwanted), self.folder)
        # The last one first: what a reader sees meanwhile never has a gap.
        self.set_aside = [put_aside(path) for path in reversed(unwanted)]

    def append(self, table: Table, rows: pd.DataFrame, step: int, phase: str) -> pd.DataFrame:
        """The rows with their lead columns, buffered until `commit`."""
        lead = self._lead_rows(len(rows), phase).set_axis(rows.index, axis=0)
        complete = pd.concat([rows, lead], axis=1).assign(step=step)
        self._rows.setdefault(table.name, (table, []))[1].append(complete)
        return complete

    def _lead_rows(self, num_rows: int, phase: str) -> pd.DataFrame:
        # Kept, because pandas is slow with strings and there are few sizes.
        if (num_rows, phase) not in self._leads:
            self._leads[num_rows, phase] = pd.DataFrame({**self._lead, "phase": phase}, index=range(num_rows))
        return self._leads[num_rows, phase]

    def commit(self, last_step: int) -> None:
        """Write what is buffered as one part per table, named by the range of optimizer steps it covers."""
        for name, (table, frames) in self._rows.items():
            part = self.folder / name / part_name(self._next_step, last_step)
            write_parquet(table.to_arrow(pd.concat(frames, ignore_index=True)), part)
        self._rows.clear()
        self._next_step = last_step

    def compact(self) -> None:
        """Merge the parts of every table into one file; safe to repeat after a crash at any point."""
        for parts_folder in self._parts_folders():
            parts = parts_in(parts_folder)
            whole = self.folder / f"{parts_folder.name}.parquet"
            # The whole appears at once: if it is there, a crash came while its parts were being removed.
            if parts and not whole.exists():
                write_parquet(read_parts(parts), whole)
            for path in parts:
                path.unlink()
            if not any(parts_folder.iterdir()):
                parts_folder.rmdir()

    def _parts_folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir())

    def _check(self, schemas: dict[str, pa.Schema], unwanted: set[Path]) -> None:
        for name in sorted({path.name.removesuffix(".parquet") for path in self.folder.iterdir()}):
            kept = [path for path in _files_of(self.folder, name) if path not in unwanted]
            if kept:
                read_parts(kept, schemas.get(name))

    def _of_no_checkpoint(self, checkpoint_step: int | None) -> list[Path]:
        parts = [path for folder in self._parts_folders() for path in parts_in(folder)]
        if checkpoint_step is None:
            return [*sorted(self.folder.glob("*.parquet")), *parts]
        return [path for path in parts if part_range(path)[1] > checkpoint_step]


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
            found = _files_of(member / "records", name)
            table = read_parts(found, METRICS.schema if name == METRICS.name else None) if found else None
        except FileNotFoundError:  # it was compacted or set aside meanwhile
            continue
        # Parts are added while one reads; but where one has gone, another has been read that should not have been.
        if found == _files_of(member / "records", name)[: len(found)]:
            return table
    raise RecordsError(f"{member / 'records' / name} changed whenever it was read; try again")


def _files_of(records: Path, name: str) -> list[Path]:
    # The whole is looked for after its parts were listed, since it is there before the first of them is removed.
    parts = parts_in(records / name)
    whole = records / f"{name}.parquet"
    return [whole] if whole.is_file() else parts


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
            check_columns(table.schema, folder / "records" / name, expected, f"that of {first}")
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
        raise RecordsError(f"no run found at or below {', '.join(map(str, folders))}: expected folders with a run.json")
    members: list[dict[str, Any]] = []
    chance: list[dict[str, Any]] = []
    for path in files:
        run = read_json(path, _RUN_KEYS)
        chance += [{"run": run["run"], "metric": metric, "chance": value} for metric, value in run["chance"].items()]
        members += [_member_row(run, path.parent / f"seed-{seed}") for seed in _seeds(run, path.parent)]
    if not members:
        raise RecordsError(f"no member has started yet at or below {', '.join(map(str, folders))}")
    table = pd.DataFrame(members)
    _refuse_mixtures(table)
    return Runs(table, pd.DataFrame(chance))


def _run_sheets(folder: Path) -> list[Path]:
    return [sheet for run in run_folders(folder) if (sheet := run / "run.json").is_file()]


def _seeds(run: dict[str, Any], folder: Path) -> list[int]:
    # Seeds that a launch was asked for count as members even before they have a folder.
    launched = {seed for launch in run.get("launches", []) for seed in launch.get("seeds", [])}
    return sorted(launched | {_seed_of(member) for member in folder.glob("seed-*")})


def _seed_of(folder: Path) -> int:
    return int(folder.name.removeprefix("seed-"))


def _member_row(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "member.json"
    member = read_json(path, ("status", "outcome", "outcome_step")) if path.is_file() else {}
    return {
        **{name: run[name] for name in (*_RUN_FIELDS, *_RUN_EXTRA)},
        "identity": run["identity"],
        "seed": _seed_of(folder),
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
