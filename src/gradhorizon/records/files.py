"""The files that records consist of: they appear whole or not at all, are read whole or refused, and never deleted.

Imports neither torch nor Hydra, so that reading records is cheap.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradhorizon.claims import process_start
from gradhorizon.records import safely
from gradhorizon.records.layout import (
    RECORDS,
    aside_path,
    is_temporary,
    part_name,
    steps_in,
    table_path,
    writer_in,
)
from gradhorizon.records.seals import Entry, SealError, is_sealed_json, sealed_json
from gradhorizon.records.tables import RecordsError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAGIC = b"PAR1"
_REMEDY = (
    "launch its run again, which repairs a member that is not finished; one that is, is trained anew once its whole "
    "folder (seed-…) was moved out of the run"
)


class DamagedFileError(RecordsError):
    """A file whose content is not what was written: cut short, or spoiled.

    Args:
        fact: which, and how that was seen.
        advice: what to do.
    """

    def __init__(self, fact: str, advice: str = "launch its run again, which sets it aside") -> None:
        super().__init__(f"{fact}; {advice}")
        self.fact = fact


def write_atomically(content: bytes, path: Path) -> None:
    """Write `content` to `path` by atomic rename, once it is on the disk, so that nobody ever sees half a file.

    Raises:
        RecordsError: the disk is full, or cannot be written; what was there before is as it was.
    """
    try:
        safely.write_whole(content, path)
    except OSError as error:
        raise RecordsError(_cannot_write(path, error)) from error


def _cannot_write(path: Path, error: OSError) -> str:
    if isinstance(error, safely.MisplacedError):
        return f"{path} cannot be written: {error}"
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    disk = next(parent for parent in (folder, *folder.parents) if parent.is_mount())
    remedy = "free some space" if error.errno in _FULL else "make it writable"
    return (
        f"{path} cannot be written: {error.strerror} (the disk at {disk} has "
        f"{shutil.disk_usage(folder).free / 2**20:.3g} MiB free). What was committed before is intact: {remedy}, and "
        "launch the same command again to go on"
    )


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
    """The file of a table."""
    pq.write_table(table, buffer := pa.BufferOutputStream(), compression="zstd")
    return bytes(buffer.getvalue().to_pybytes())


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write `content`, with its digest, to `path` by atomic rename."""
    write_atomically(sealed_json(content), path)


def read_json(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Content of a JSON file.

    Args:
        path: where it lies.
        keys: what it must hold.

    Raises:
        DamagedFileError: the file is cut short, is no JSON object, lacks a key, or is not what was written.
        RecordsError: it cannot be read.
    """
    try:
        content = json.loads(safely.read_text(path))
    except OSError as error:
        raise RecordsError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DamagedFileError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} holds {type(content).__name__}, expected a JSON object")
    try:
        is_sealed_json(content)
    except SealError as error:
        raise DamagedFileError(f"{path} {error}") from error
    missing = [key for key in keys if key not in content]
    if missing:
        raise DamagedFileError(f"{path} lacks {', '.join(missing)}")
    return content


def read_listed(path: Path, entry: Entry | None) -> bytes:
    """A file's content.

    Args:
        path: where it lies.
        entry: what was committed; None if nobody knows.

    Raises:
        FileNotFoundError: it is not there, or no longer.
        DamagedFileError: it is not what was committed.
        RecordsError: it cannot be read.
    """
    try:
        content = safely.read_bytes(path)
        if entry is not None:
            entry.check(content)
    except FileNotFoundError:
        raise
    except OSError as error:
        words = str(error) if isinstance(error, safely.MisplacedError) else error.strerror
        raise RecordsError(f"{path} cannot be read ({words})") from error
    except SealError as error:
        raise DamagedFileError(f"{path} {error}", _REMEDY) from error
    return content


def read_parquet(path: Path, entry: Entry | None = None) -> pa.Table:
    """All rows of one Parquet file.

    Args:
        path: where it lies.
        entry: what was committed; None if nobody knows.

    Raises:
        FileNotFoundError: it is not there, or no longer.
        DamagedFileError: it is cut short or spoiled, or not what was committed.
        RecordsError: it cannot be read.
    """
    content = read_listed(path, entry)
    try:
        return pq.ParquetFile(pa.BufferReader(content)).read()
    except (OSError, pa.ArrowException) as error:
        words = str(error).splitlines()[0]
        fact = f"{path} is not a complete Parquet file, it was cut short or spoiled ({words})"
        raise DamagedFileError(fact, _REMEDY) from error


def is_whole(path: Path, entry: Entry) -> bool:
    """Whether a file is as long as it was when it was committed, and a table's begins and ends as one.

    Args:
        path: where it lies.
        entry: what was committed.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != entry.num_bytes:
                return False
            first = file.read(len(_MAGIC))
            file.seek(-len(_MAGIC), os.SEEK_END)
            return entry.rows is None or first == _MAGIC == file.read()
    except OSError:
        return False


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


def part_range(path: Path) -> tuple[int, int]:
    """First and last optimizer step of a part.

    Raises:
        RecordsError: it is no part.
    """
    steps = steps_in(path.name)
    if steps is None:
        raise RecordsError(f"{path} is no part of a table: expected a name like {part_name(0, 500)}")
    return steps


def parts_in(folder: Path) -> list[Path]:
    """Parts of one table, by optimizer step; none if the folder is not there."""
    try:
        return sorted((path for path in folder.iterdir() if steps_in(path.name)), key=part_range)
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_of(member: Path, name: str) -> list[Path]:
    """Files of one table of a member: the whole, or its parts by optimizer step.

    Args:
        member: its folder.
        name: of the table.
    """
    # The whole is looked for after its parts were listed, since it is there before the first of them is removed.
    parts = parts_in(member / RECORDS / name)
    whole = table_path(member, name)
    return [whole] if whole.is_file() else parts


def put_aside(path: Path) -> Path:
    """Rename a file to ``<name>.aside``, which nothing reads and nothing overwrites; returns where it lies now."""
    return path.rename(aside_path(path))


def remove_strays(folder: Path) -> list[Path]:
    """Remove what killed writers have left half-written at and below `folder`, whose lock must be held."""
    strays = sorted(path for path in folder.rglob("*") if is_temporary(path.name) and path.is_file())
    for path in strays:
        path.unlink(missing_ok=True)
    return strays


def remove_orphans(folder: Path) -> list[Path]:
    """Remove what dead processes of this machine have left half-written in `folder` itself; needs no lock."""
    named = [(path, writer_in(path.name)) for path in sorted(folder.iterdir())]
    orphans = [path for path, pid in named if pid is not None and process_start(pid) is None]
    for path in orphans:
        path.unlink(missing_ok=True)
    return orphans
