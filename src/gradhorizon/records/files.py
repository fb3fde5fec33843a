"""The files that records consist of: they appear whole or not at all, are read whole or refused, and never deleted.

Imports neither torch nor Hydra, so that reading records is cheap.
"""

from __future__ import annotations

import errno
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradhorizon.machine.processes import process_start
from gradhorizon.records import safely
from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.guards import check_owned
from gradhorizon.records.layout import (
    RECORDS,
    aside_path,
    is_temporary,
    part_name,
    steps_in,
    table_path,
    writer_in,
)
from gradhorizon.records.plain import read_bytes
from gradhorizon.records.plain import read_json as read_plain_json
from gradhorizon.records.seals import Entry, SealError, sealed_json

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MOST_BYTES = 2**36  # of a file: it is read as a whole
REMEDY = (
    "launch its run again, which repairs a member that is not finished; one that is, is trained anew once its whole "
    "folder (seed-…) was moved out of the run"
)
"""For a file of a member that is not what was committed."""


def write_atomically(content: bytes, path: Path) -> None:
    """Write `content` to `path` by atomic rename, once it is on the disk, so that nobody ever sees half a file.

    Guards are asked first, so that no folder is made anew that was deleted, and again immediately before the rename.
    What files cannot do is both at once: a process may be suspended in the microseconds between the two, and taken
    over. It then finds nothing to rename when it wakes, because whoever takes over removes what is half written
    (`gradhorizon.runs.locks`). What remains: a line appended to a log, or a merged part removed, in these microseconds;
    and an owner that is suspended in the microseconds between its claim and that removal.

    Raises:
        RecordsError: the disk is full, or cannot be written; what was there before is as it was.
        MemberHeldError: a guard refused.
    """
    try:
        check_owned(path)
        safely.write_whole(content, path, lambda: check_owned(path))
    except OSError as error:
        with suppress(OSError):
            check_owned(path)
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


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write `content`, with its digest, to `path` by atomic rename."""
    write_atomically(sealed_json(content), path)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file that must be there.

    Args:
        path: where it lies.

    Raises:
        DamagedFileError: the file is cut short, is no JSON object, or is not what was written.
        RecordsError: it cannot be read.
    """
    try:
        return read_plain_json(path)[0]
    except FileNotFoundError as error:
        raise RecordsError(f"{path} cannot be read ({error.strerror})") from error


def read_listed(path: Path, within: Path, entry: Entry | None) -> bytes:
    """A file's content.

    Args:
        path: where it lies.
        within: folder that no link on the way may lead out of.
        entry: what was committed; None if nobody knows.

    Raises:
        FileNotFoundError: it is not there, or no longer.
        DamagedFileError: it is not what was committed.
        RecordsError: it cannot be read.
    """
    content, _ = read_bytes(path, _MOST_BYTES, within)
    try:
        if entry is not None:
            entry.check(content)
    except SealError as error:
        raise DamagedFileError(f"{path} {error}", REMEDY) from error
    return content


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
