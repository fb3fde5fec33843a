"""One member's rows: buffered, committed in parts with the checkpoint that they belong to, then merged.

Parts are written by atomic rename just before the checkpoint that they belong to. On resume, parts that are later
than the checkpoint are set aside (renamed ``*.aside``), never counted twice and never deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from gradhorizon.records.files import files_of, part_range, parts_in, put_aside, read_parts, write_parquet
from gradhorizon.records.guards import check_owned
from gradhorizon.records.layout import RECORDS, part_path, table_in, table_path
from gradhorizon.records.tables import Table

log = logging.getLogger(__name__)


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
        self.folder = folder / RECORDS
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
            part = part_path(self.folder.parent, name, self._next_step, last_step)
            write_parquet(table.to_arrow(pd.concat(frames, ignore_index=True)), part)
        self._rows.clear()
        self._next_step = last_step

    def compact(self) -> None:
        """Merge the parts of every table into one file; safe to repeat after a crash at any point."""
        for parts_folder in self._parts_folders():
            parts = parts_in(parts_folder)
            whole = table_path(self.folder.parent, parts_folder.name)
            # The whole appears at once: if it is there, a crash came while its parts were being removed.
            if parts and not whole.exists():
                write_parquet(read_parts(parts), whole)
            for path in parts:
                check_owned(path)
                path.unlink()
            if not any(parts_folder.iterdir()):
                parts_folder.rmdir()

    def _parts_folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir())

    def _check(self, schemas: dict[str, pa.Schema], unwanted: set[Path]) -> None:
        for name in sorted({table_in(path.name) or path.name for path in self.folder.iterdir()}):
            kept = [path for path in files_of(self.folder.parent, name) if path not in unwanted]
            if kept:
                read_parts(kept, schemas.get(name))

    def _of_no_checkpoint(self, checkpoint_step: int | None) -> list[Path]:
        parts = [path for folder in self._parts_folders() for path in parts_in(folder)]
        if checkpoint_step is None:
            return [*sorted(path for path in self.folder.iterdir() if table_in(path.name)), *parts]
        return [path for path in parts if part_range(path)[1] > checkpoint_step]
