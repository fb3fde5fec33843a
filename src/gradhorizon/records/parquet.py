"""Tables as Parquet files: written whole, and read as what was committed, with plain columns alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gradhorizon.records.columns import check_size, check_types, is_text
from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.files import REMEDY, read_listed, write_atomically
from gradhorizon.records.layout import run_of_table
from gradhorizon.records.plain import MOST_WORDS
from gradhorizon.records.seals import Entry
from gradhorizon.terminal.words import one_line

_MOST_READ_AT_ONCE = 2**20


def write_parquet(table: pa.Table, path: Path, commits: int = 1) -> Entry:
    """Write `table` to `path` by atomic rename; returns what is listed of it.

    Args:
        table: its rows.
        path: where.
        commits: how many commits of rows it holds.
    """
    content = parquet_of(table)
    write_atomically(content, path)
    return Entry.of(content, table.num_rows, commits)


def parquet_of(table: pa.Table) -> bytes:
    """The file of a table, the same whatever pieces it was put together from."""
    pq.write_table(table.combine_chunks(), buffer := pa.BufferOutputStream(), compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())


def read_parquet(path: Path, entry: Entry | None = None) -> pa.Table:
    """All rows of one Parquet file.

    Args:
        path: where it lies.
        entry: what was committed; None if nobody knows.

    Raises:
        FileNotFoundError: it is not there, or no longer.
        DamagedFileError: it is cut short or spoiled, not what was committed, or has columns that no run writes.
        RecordsError: it cannot be read.
    """
    content = read_listed(path, run_of_table(path), entry)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        check_types(file.schema_arrow, path)
        check_size(file.metadata, path, len(content))
        table = file.read()
        table.validate(full=True)  # texts that are no UTF-8
        return _plain_texts(table)
    except (OSError, pa.ArrowException) as error:
        fact = f"{path} is not a complete Parquet file, it was cut short or spoiled ({one_line(error, MOST_WORDS)})"
        raise DamagedFileError(fact, REMEDY) from error


def _plain_texts(table: pa.Table) -> pa.Table:
    for index, (name, kind) in enumerate(zip(table.schema.names, table.schema.types, strict=True)):
        if is_text(kind) and kind != pa.string():
            table = table.set_column(index, name, table.column(index).cast(pa.string()))
    return table


def entry_of_table(path: Path) -> Entry:
    """What is listed of a table or part that lies there.

    Args:
        path: where.

    Raises:
        RecordsError: it cannot be read.
    """
    content = read_listed(path, run_of_table(path), None)
    return Entry.of(content, read_parquet(path, Entry.of(content)).num_rows)


def is_as_committed(path: Path, entry: Entry) -> bool:
    """Whether a file is what was committed, as far as can be told in a millisecond: of a large one, its size alone.

    Args:
        path: where it lies.
        entry: what was committed.
    """
    try:
        if entry.num_bytes > _MOST_READ_AT_ONCE:
            return path.stat().st_size == entry.num_bytes
        read_listed(path, path.parent, entry)
    except (OSError, RecordsError):
        return False
    return True


def read_parts(files: Mapping[Path, Entry | None], schema: pa.Schema | None = None) -> pa.Table:
    """The rows of several files of one table, in order.

    Args:
        files: at least one, with what was committed of it, if that is known.
        schema: what they must hold; that of the first if None.

    Raises:
        FileNotFoundError: one is not there, or no longer.
        RecordsError: one is damaged, or was written with other columns.
    """
    tables = [read_parquet(path, entry) for path, entry in files.items()]
    expected = schema or tables[0].schema
    whose = "this version of gradhorizon" if schema is not None else str(next(iter(files)))
    for path, table in zip(files, tables, strict=True):
        check_columns(table.schema, path, expected, whose)
    return pa.concat_tables([table.select(expected.names) for table in tables])


def check_columns(found: pa.Schema, path: Path, expected: pa.Schema, whose: str) -> None:
    """Refuse a file whose columns are not as expected, whatever their order.

    Args:
        found: its columns.
        path: where it lies.
        expected: the columns that it should have.
        whose: who expects them.

    Raises:
        RecordsError: a column more, a column less, or one of another type.
    """
    here, there = (dict(zip(schema.names, schema.types, strict=True)) for schema in (found, expected))
    differing = [name for name in {**there, **here} if here.get(name) != there.get(name)]
    if differing:
        name = differing[0]
        raise RecordsError(
            f"{path} was written by another version of gradhorizon: its column `{name}` is "
            f"{here.get(name, 'missing')}, and {whose} has {there.get(name, 'none of that name')}; upgrade to the "
            "newer of the two, or keep what they wrote apart"
        )
