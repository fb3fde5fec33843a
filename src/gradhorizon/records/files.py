"""The files that records consist of: they appear whole or not at all, are read whole or refused, and never deleted.

Imports neither torch nor Hydra, so that reading records is cheap.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradhorizon.claims import process_start
from gradhorizon.records.guards import check_owned
from gradhorizon.records.layout import (
    RECORDS,
    aside_path,
    is_temporary,
    part_name,
    steps_in,
    table_path,
    temporary_path,
    writer_in,
)
from gradhorizon.records.tables import RecordsError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAGIC = b"PAR1"


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

    Guards are asked first, so that no folder is made anew that was deleted, and again immediately before the rename.
    What files cannot do is both at once: a process may be suspended in the microseconds between the two, and taken
    over. It then finds nothing to rename when it wakes, because whoever takes over removes what is half written
    (`gradhorizon.locks`). What remains: a line appended to a log, or a merged part removed, in these microseconds; and
    an owner that is suspended in the microseconds between its claim and that removal.

    Raises:
        RecordsError: the disk is full, or cannot be written; what was there before is as it was.
        MemberHeldError: a guard refused.
    """
    temporary = temporary_path(path)
    try:
        check_owned(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        check_owned(path)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            with suppress(OSError):
                check_owned(path)
            raise RecordsError(_cannot_write(path, error)) from error
        raise


def _cannot_write(path: Path, error: OSError) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    disk = next(parent for parent in (folder, *folder.parents) if parent.is_mount())
    remedy = "free some space" if error.errno in _FULL else "make it writable"
    return (
        f"{path} cannot be written: {error.strerror} (the disk at {disk} has "
        f"{shutil.disk_usage(folder).free / 2**20:.3g} MiB free). What was committed before is intact: {remedy}, and "
        "launch the same command again to go on"
    )


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write `table` to `path` by atomic rename."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    write_atomically(buffer.getvalue().to_pybytes(), path)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write `content` to `path` by atomic rename."""
    write_atomically((json.dumps(content, indent=2, sort_keys=True) + "\n").encode(), path)


def read_json(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Content of a JSON file.

    Args:
        path: where it lies.
        keys: what it must hold.

    Raises:
        DamagedFileError: the file is cut short, is no JSON object, or lacks a key.
        RecordsError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordsError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DamagedFileError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} holds {type(content).__name__}, expected a JSON object")
    missing = [key for key in keys if key not in content]
    if missing:
        raise DamagedFileError(f"{path} lacks {', '.join(missing)}")
    return content


def read_parquet(path: Path) -> pa.Table:
    """All rows of one Parquet file.

    Raises:
        FileNotFoundError: it is not there, or no longer.
        DamagedFileError: it is cut short or spoiled.
        RecordsError: it cannot be read.
    """
    try:
        return pq.read_table(path, partitioning=None)  # a folder may be called `a=1`
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise RecordsError(f"{path} cannot be read ({error.strerror})") from error
        raise DamagedFileError(
            f"{path} is not a complete Parquet file, it was cut short or spoiled ({str(error).splitlines()[0]})",
            "launch its run again, which repairs a member that is not finished; one that is, is trained anew once its "
            "whole folder (seed-…) was moved out of the run",
        ) from error


def is_whole(path: Path) -> bool:
    """Whether a Parquet file begins and ends as one, which none does that was cut short; reads eight bytes."""
    size = len(_MAGIC)
    with path.open("rb") as file:
        if path.stat().st_size < 2 * size or file.read(size) != _MAGIC:
            return False
        file.seek(-size, os.SEEK_END)
        return file.read(size) == _MAGIC


def read_parts(paths: Sequence[Path], schema: pa.Schema | None = None) -> pa.Table:
    """The rows of several files of one table, in order.

    Args:
        paths: the files, at least one.
        schema: what they must hold; that of the first if None.

    Raises:
        FileNotFoundError: one is not there, or no longer.
        RecordsError: one is damaged, or was written with other columns.
    """
    tables = [read_parquet(path) for path in paths]
    expected = schema or tables[0].schema
    whose = "this version of gradhorizon" if schema is not None else str(paths[0])
    for path, table in zip(paths, tables, strict=True):
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
    check_owned(path)
    return path.rename(aside_path(path))


def remove_strays(folder: Path) -> list[Path]:
    """Remove what killed writers have left half-written at and below `folder`, whose lock must be held."""
    strays = sorted(path for path in folder.rglob("*") if is_temporary(path.name) and path.is_file())
    for path in strays:
        check_owned(path)
        path.unlink(missing_ok=True)
    return strays


def remove_half_written_by(pid: int, folder: Path) -> list[Path]:
    """Remove what the process `pid` has left half-written in `folder` itself.

    Args:
        pid: a process whose work was taken over, on whatever machine.
        folder: the folder.
    """
    found = [path for path in sorted(folder.iterdir()) if writer_in(path.name) == pid]
    for path in found:
        path.unlink(missing_ok=True)
    return found


def remove_orphans(folder: Path) -> list[Path]:
    """Remove what dead processes of this machine have left half-written in `folder` itself; needs no lock."""
    check_owned(folder)
    named = [(path, writer_in(path.name)) for path in sorted(folder.iterdir())]
    orphans = [path for path, pid in named if pid is not None and process_start(pid) is None]
    for path in orphans:
        path.unlink(missing_ok=True)
    return orphans
