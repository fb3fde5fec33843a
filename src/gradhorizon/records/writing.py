"""One member's rows: buffered, committed in parts with the checkpoint that they belong to, and merged as they go.

Parts are written by atomic rename just before the checkpoint that lists them. On resume, parts that are later than the
checkpoint are set aside (renamed ``*.aside``), never counted twice and never deleted. Four parts of as many commits
each become one, in the commit that writes the last of them, so that a run of a thousand commits leaves some fifteen
parts of a table; what was merged is removed once the checkpoint lists the larger part.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from gradhorizon.records.errors import DamagedFileError
from gradhorizon.records.files import part_range, parts_in, put_aside, read_listed
from gradhorizon.records.guards import check_owned
from gradhorizon.records.layout import RECORDS, part_path, table_in, table_path
from gradhorizon.records.listing import Listing
from gradhorizon.records.parquet import check_columns, entry_of_table, read_parts, write_parquet
from gradhorizon.records.seals import Entry, SealError
from gradhorizon.records.tables import Table

log = logging.getLogger(__name__)

_MERGED = 4  # parts of as many commits each


class MemberRecords:
    """Writes one member's rows: buffered, then committed in parts, then as whole tables.

    Args:
        folder: the member's folder.
        lead: values of the lead columns that are constant for the member.
        checkpoint_step: optimizer step of the checkpoint from which the member goes on, None if it starts. What is on
            disk and belongs to no checkpoint is set aside.
        tables: those that will be appended to, whose columns on disk must be the same.
        listing: what the checkpoint lists; None of one that was written before there were lists, whose parts are
            listed as they are found.

    Raises:
        DamagedFileError: a file that the checkpoint lists is missing or damaged, or one is there that it does not list.
        RecordsError: it was written with other columns.
    """

    def __init__(
        self,
        folder: Path,
        lead: dict[str, Any],
        checkpoint_step: int | None = None,
        tables: Sequence[Table] = (),
        listing: Listing | None = None,
    ) -> None:
        self.member = folder
        self.folder = folder / RECORDS
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lead = lead
        self._leads: dict[tuple[int, str], pd.DataFrame] = {}
        self._next_step = checkpoint_step or 0
        self._rows: dict[str, tuple[Table, list[pd.DataFrame]]] = {}
        unwanted = self._of_no_checkpoint(checkpoint_step, listing)
        schemas = {table.name: table.schema for table in tables}
        if listing is None or checkpoint_step is None:
            self.listing = self._found(schemas, set(unwanted))
        else:
            self.listing = listing
            self._check(schemas)
            self._refuse_unlisted(set(unwanted))
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
            self._leads[num_rows, phase] = pd.DataFrame({**self.lead, "phase": phase}, index=range(num_rows))
        return self._leads[num_rows, phase]

    def commit(self, last_step: int) -> None:
        """Write what is buffered as one part per table, named by the range of optimizer steps it covers."""
        for name in self._rows:
            listed = self.listing.of_table(name)
            merged = dict(list(listed.items())[len(listed) - num_merged(listed.values()) :])
            first = min((part_range(self.member / path)[0] for path in merged), default=self._next_step)
            path = part_path(self.member, name, first, last_step)
            commits = 1 + sum(entry.commits for entry in merged.values())
            self.listing.replace(merged, self._written(name, merged, path, commits))
        self._rows.clear()
        self._next_step = last_step

    def merge(self) -> None:
        """Write every table, with what is buffered of it, as one file."""
        for name in sorted(self.listing.tables | self._rows.keys()):
            listed, path = self.listing.of_table(name), table_path(self.member, name)
            if list(listed) != [self._relative(path)]:
                self.listing.replace(listed, self._written(name, listed, path))
        self._rows.clear()

    def remove_superseded(self) -> None:
        """Remove what was merged into others, which the checkpoint lists by now; safe to repeat."""
        for path, entry in list(self.listing.superseded.items()):
            if _is_removed(self.member / path, entry):
                del self.listing.superseded[path]
        for folder in self._parts_folders():
            if not any(folder.iterdir()):
                folder.rmdir()

    def keep(self, path: Path, entry: Entry) -> None:
        """List a file of the member that is no table, in the next commit.

        Args:
            path: where it lies.
            entry: what was written.
        """
        self.listing.files[self._relative(path)] = entry

    def _written(self, name: str, merged: Mapping[str, Entry], path: Path, commits: int = 1) -> dict[str, Entry]:
        tables = [read_parts({self.member / old: entry for old, entry in merged.items()})] if merged else []
        if name in self._rows:
            table, frames = self._rows[name]
            tables.append(table.to_arrow(pd.concat(frames, ignore_index=True)))
            check_columns(tables[0].schema, path, tables[-1].schema, "this version of gradhorizon")
            tables[0] = tables[0].select(tables[-1].schema.names)
        return {self._relative(path): write_parquet(pa.concat_tables(tables), path, commits)}

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.member).as_posix()

    def _parts_folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir())

    def _found(self, schemas: dict[str, pa.Schema], unwanted: set[Path]) -> Listing:
        """What lies there, listed as it is found."""
        found = Listing()
        for name in sorted({table_in(path.name) or path.name for path in self.folder.iterdir()}):
            whole = table_path(self.member, name)
            parts = [path for path in parts_in(self.folder / name) if path not in unwanted]
            kept = [whole] if whole.is_file() and whole not in unwanted else parts
            if kept:
                read_parts(dict.fromkeys(kept), schemas.get(name))
            found.files |= {self._relative(path): entry_of_table(path) for path in kept}
            if kept == [whole]:  # a crash came while its parts were being removed
                found.superseded |= {self._relative(path): entry_of_table(path) for path in parts}
        return found

    def _check(self, schemas: dict[str, pa.Schema]) -> None:
        try:
            for name in sorted(self.listing.tables):
                own = {self.member / path: entry for path, entry in self.listing.of_table(name).items()}
                read_parts(own, schemas.get(name))
            for kept, entry in self.listing.kept():
                read_listed(self.member / kept, self.member.parent, entry)
        except FileNotFoundError as error:
            raise DamagedFileError(f"{error.filename} was committed, and is missing") from error

    def _refuse_unlisted(self, unwanted: set[Path]) -> None:
        known = {self.member / path for path in (*self.listing.files, *self.listing.superseded)}
        found = [path for folder in self._parts_folders() for path in parts_in(folder)]
        others = [path for path in found if path not in known and path not in unwanted]
        if others:
            raise DamagedFileError(f"{others[0]} covers steps that were committed, and was not committed itself")

    def _of_no_checkpoint(self, checkpoint_step: int | None, listing: Listing | None) -> list[Path]:
        parts = [path for folder in self._parts_folders() for path in parts_in(folder)]
        wholes = sorted(path for path in self.folder.iterdir() if table_in(path.name))
        if checkpoint_step is None:
            return [*wholes, *parts]
        later = [path for path in parts if part_range(path)[1] > checkpoint_step]
        unlisted = [] if listing is None else [path for path in wholes if self._relative(path) not in listing.files]
        return [*unlisted, *later]


def num_merged(parts: Iterable[Entry]) -> int:
    """How many of the last parts of a table are merged with what is committed next.

    Args:
        parts: of the table, by optimizer step.

    Example:
        >>> [num_merged([Entry("", 0, commits=size) for size in sizes]) for sizes in ([1, 1], [1, 1, 1])]
        [0, 3]
        >>> num_merged([Entry("", 0, commits=size) for size in (4, 4, 4, 1, 1, 1)])
        6
    """
    sizes = [entry.commits for entry in parts]
    count, size = 0, 1
    while sizes[len(sizes) - count - (_MERGED - 1) : len(sizes) - count] == [size] * (_MERGED - 1):
        count += _MERGED - 1
        size *= _MERGED
    return count


def _is_removed(path: Path, entry: Entry) -> bool:
    try:
        entry.check(path.read_bytes())
        check_owned(path)
        path.unlink()
    except FileNotFoundError:
        return True
    except (OSError, SealError):  # it is not what was merged, or cannot be removed
        return False
    return True
