r"""Runs read from disk: their members, and any of their tables, pooled.

What a member's sheet lists is read, and must be what was committed; what it does not list is no record. Imports neither
torch nor Hydra, so that reading records is cheap.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from gradhorizon.records.absent_tables import remedy
from gradhorizon.records.columns import OWNER, check_lead, check_owner
from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.files import files_of, read_listed
from gradhorizon.records.finding import find
from gradhorizon.records.launches import all_seeds
from gradhorizon.records.layout import (
    MEMBER_SHEET,
    RECORDS,
    RUN_SHEET,
    member_folder,
    run_of_table,
    seed_in,
    steps_in,
    table_in,
)
from gradhorizon.records.listing import Listing
from gradhorizon.records.parquet import check_columns, read_parts
from gradhorizon.records.seals import Entry
from gradhorizon.records.sheets import known_member_sheet, read_member_sheet, read_run_sheet
from gradhorizon.records.tables import METRICS, RUN_COLUMNS, AbsentTableError
from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)

_LOOKS = 20  # at a table whose writer is merging it or setting parts aside


def read_member_table(member: Path, name: str) -> pd.DataFrame | None:
    """All committed rows of one table of one member, or None if nothing was recorded.

    Args:
        member: the member's folder.
        name: the table's name.

    Raises:
        RecordsError: a file of it is missing or damaged, is not what was committed, or was written by another version.
    """
    table = read_member_rows(member, name)
    return None if table is None else _frame(table)


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()  # pandas' notes would be taken for orders
    return frame


def recorded_tables(member: Path) -> set[str]:
    """Names of the tables of which a member has committed rows.

    Args:
        member: the member's folder.

    Raises:
        RecordsError: its sheet cannot be read.
    """
    listing = listing_of(member)
    if listing is not None:
        return listing.tables
    folder = member / RECORDS
    names = {table_in(path.name) or path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names if files_of(member, name)}


def listing_of(member: Path) -> Listing | None:
    """What a member has committed; None if it was recorded before that was listed.

    Args:
        member: the member's folder.

    Raises:
        RecordsError: its sheet cannot be read.
    """
    content = read_member_sheet(member)
    return Listing.read(content, member / MEMBER_SHEET) if content else Listing()


def _committed(member: Path) -> Iterator[tuple[str, Entry]]:
    listing = listing_of(member)
    for name in sorted(recorded_tables(member)):
        if listing is not None:
            yield from listing.of_table(name).items()
        else:
            for path in files_of(member, name):
                content = read_listed(path, run_of_table(path), None)
                yield path.relative_to(member).as_posix(), Entry.of(content)


def read_member_rows(member: Path, name: str) -> pa.Table | None:
    """What `read_member_table` returns, as an Arrow table.

    Args:
        member: the member's folder.
        name: the table's name.

    Raises:
        RecordsError: as there.
    """
    schema = METRICS.schema if name == METRICS.name else None
    for _ in range(_LOOKS):
        listing = listing_of(member)
        files = _files(member, name, listing)
        try:
            table = read_parts(files, schema) if files else None
        except (FileNotFoundError, DamagedFileError) as error:  # or it was merged or set aside meanwhile
            if files.keys() != _files(member, name, listing_of(member)).keys():
                continue
            if isinstance(error, FileNotFoundError):
                raise DamagedFileError(f"{error.filename} was committed, and is missing") from error
            raise
        if table is not None:
            check_lead(table.schema, next(iter(files)))
        # Parts are added while one reads; but where one has gone, another has been read that should not have been.
        if listing is not None:
            _say_unlisted(member, name, listing)
            return table
        if list(files) == list(_files(member, name, None))[: len(files)]:
            return table
    raise RecordsError(f"{member / RECORDS / name} changed whenever it was read; try again")


def _files(member: Path, name: str, listing: Listing | None) -> dict[Path, Entry | None]:
    if listing is None:
        return dict.fromkeys(files_of(member, name))
    return {member / path: entry for path, entry in listing.of_table(name).items()}


def _say_unlisted(member: Path, name: str, listing: Listing) -> None:
    """Say of files that look like the table's, and are none, that they are not read."""
    known = {*listing.files, *listing.superseded}
    last_step = max((steps_in(path.name) or (0, 0))[1] for path in map(Path, listing.files)) if listing.files else 0
    for path in files_of(member, name):
        steps = steps_in(path.name)
        is_being_written = steps is not None and steps[1] > last_step
        if path.relative_to(member).as_posix() not in known and not is_being_written:
            say_once(log, f"note: {path} is no record: its member does not list it, and it is not read")


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
            RecordsError: they recorded it with different columns, or for another run than their sheet says.
        """
        found = {Path(folder): read_member_rows(Path(folder), name) for folder in self.members["folder"]}
        present = {folder: table for folder, table in found.items() if table is not None}
        if not present:
            raise AbsentTableError(f"no run recorded `{name}`; {remedy([name])}")
        first, expected = next((folder, table.schema) for folder, table in present.items())
        owners = self.members.set_index("folder")[[*OWNER]].to_dict("index")
        for folder, table in present.items():
            check_owner(table, folder / RECORDS / name, owners[str(folder)])
            check_columns(table.schema, folder / RECORDS / name, expected, f"that of {first}")
        return pd.concat([_frame(table) for table in present.values()], ignore_index=True)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for all rows that the members have committed, and how they ended.

        Raises:
            RecordsError: a file of theirs cannot be read.
        """
        lines = sorted(
            f"{row.identity} {row.seed} {row.outcome} {row.outcome_step} {path} {entry.digest}"
            for row in self.members.itertuples()
            for path, entry in _committed(Path(str(row.folder)))
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def members_without(self, name: str) -> pd.DataFrame:
        """Members that did not record the table `name`."""
        has = [name in recorded_tables(Path(folder)) for folder in self.members["folder"]]
        return self.members[[not present for present in has]]


_RUN_EXTRA = ("color", "marker", "num_parameters", "hidden_size", "num_steps", "clip_norm", "results_version")


def read_runs(folders: Sequence[Path | str]) -> Runs:
    """All runs at or below `folders`, pooled.

    Args:
        folders: run folders, experiment folders or runs roots.

    Returns:
        Their members and chance values.

    Raises:
        RecordsError: no run there, one member twice, or results of different `results_version`.
    """
    found = find([Path(folder).resolve() for folder in folders])
    if found.absent:
        raise RecordsError(f"no run found at {', '.join(map(str, found.absent))}: there is no such folder")
    found.say_notes()
    for folder, why in found.unreadable.items():
        log.warning("note: left out: %s: %s", folder, why)
    runs = sorted(run for run in found.runs if os.path.lexists(run / RUN_SHEET))
    if not runs:
        raise RecordsError(
            f"no run found at or below {', '.join(map(str, folders))}: expected folders with a {RUN_SHEET}"
        )
    members: list[dict[str, Any]] = []
    chance: list[dict[str, Any]] = []
    for run_folder in runs:
        run = read_run_sheet(run_folder)
        chance += [{"run": run["run"], "metric": metric, "chance": value} for metric, value in run["chance"].items()]
        members += [_member_row(run, member_folder(run_folder, seed)) for seed in all_seeds(run, run_folder)]
    if not members:
        raise RecordsError(f"no member has started yet at or below {', '.join(map(str, folders))}")
    table = pd.DataFrame(members)
    _refuse_mixtures(table)
    return Runs(table, pd.DataFrame(chance))


def _member_row(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    member = known_member_sheet(folder, run)
    return {
        **{name: run[name] for name in (*RUN_COLUMNS, *_RUN_EXTRA)},
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
        raise RecordsError(
            f"one member must not count twice, got the same run and seed in {folders}; pass one of them, or move "
            "the others out of the runs folder"
        )
