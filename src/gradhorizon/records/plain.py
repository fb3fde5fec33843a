"""Files of a stranger's run, read as plain data: nothing in them is executed, followed out of the run, or waited for.

Imports the standard library alone, so that those who only look start quickly.
"""

from __future__ import annotations

import json
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Any

from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.seals import SealError, is_sealed_json
from gradhorizon.terminal.words import one_line

MOST_BYTES = 64 * 2**20
"""Of a JSON file: a thousand times what a run writes of itself."""

MOST_DEPTH = 64
"""Of lists and objects in one another."""

_MOST_BITS = 63  # of a whole number, so that every table can hold it
MOST_WORDS = 200
"""Characters of what a parser says, or of a text that is wrong."""

_CHUNK = 2**20  # bytes
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link that leads nowhere",
}


def read_bytes(path: Path, most_bytes: int = MOST_BYTES, within: Path | None = None) -> tuple[bytes, float]:
    """Content of a regular file, and when it was changed, seconds since 1970.

    Args:
        path: where it lies.
        most_bytes: a larger one is refused unread.
        within: folder that a link on the way to the file must not lead out of; the file's own if None. It may itself
            be reached by links.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFileError: it is no file, too large, or a link that leads out of the folder.
        RecordsError: it cannot be read.
    """
    try:
        with open_file(path, within) as file:
            found = os.fstat(file.fileno())
            content = b"" if found.st_size > most_bytes else _read_up_to(file, most_bytes + 1, found.st_size)
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except (OSError, ValueError) as error:  # a ValueError is a name with a NUL in it
        raise RecordsError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if max(len(content), found.st_size) > most_bytes:
        raise DamagedFileError(
            f"{path} has {found.st_size} bytes, expected at most {most_bytes}: no run writes such a file"
        )
    return content, found.st_mtime


def open_file(path: Path, within: Path | None = None) -> FileIO:
    """A regular file, opened for reading; nothing is waited for.

    Args:
        path: where it lies.
        within: see `read_bytes`.

    Raises:
        OSError: it is not there, or cannot be read.
        DamagedFileError: it is no file, or a link that leads out of the folder.
    """
    check_place(path, within or path.parent)
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check_kind(path, os.fstat(file.fileno()).st_mode)  # it may have become a pipe since it was looked at
    except BaseException:
        file.close()
        raise
    return file


def _read_up_to(file: FileIO, most_bytes: int, expected: int) -> bytes:
    chunk = file.read(min(most_bytes, expected + 1)) or b""
    chunks, total = [chunk], len(chunk)
    while chunk and total < most_bytes:
        chunk = file.read(min(most_bytes - total, _CHUNK)) or b""  # what is asked for is set aside in memory
        chunks.append(chunk)
        total += len(chunk)
    return b"".join(chunks)


def check_place(path: Path, within: Path) -> None:
    """Refuse what is no regular file, and links that lead out of a folder.

    Args:
        path: of a file.
        within: the folder, above the file.

    Raises:
        OSError: it is not there, or out of reach.
        DamagedFileError: it is a folder, a pipe, a device, or a link that leads out or nowhere.
    """
    step, top = os.fspath(path), os.fspath(within)
    modes = []
    while len(step) > len(top) and step != top:  # strings, because every sheet and table comes this way
        modes.append(os.lstat(step).st_mode)
        step = os.path.dirname(step)  # noqa: PTH120
    if any(map(stat.S_ISLNK, modes)):
        target, root = os.path.realpath(path), os.path.realpath(within)
        if os.path.commonpath([target, root]) != root:
            raise DamagedFileError(
                f"{path} is, or lies behind, a link that leads out of {within}, to {target}: nothing is read there",
                "put the file itself in the link's place",
            )
        modes[0] = Path(target).stat().st_mode if Path(target).exists() else stat.S_IFLNK
    _check_kind(path, modes[0])


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise DamagedFileError(f"{path} is {kind}, expected a file", "move it away, and launch its run again")


def read_json(path: Path, within: Path | None = None, *, is_any_text: bool = False) -> tuple[dict[str, Any], float]:
    """Content of a JSON file, and when it was changed, seconds since 1970.

    Args:
        path: where it lies.
        within: see `read_bytes`.
        is_any_text: take texts that no file or page can hold, as tracebacks may.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFileError: it is no JSON object, one that no run writes (too deep, too large, a key twice), or not what
            was written.
        RecordsError: it cannot be read.
    """
    content, changed_at_s = read_bytes(path, within=within)
    try:
        found = json.loads(content.decode(), object_pairs_hook=_object)
    except RecursionError:
        raise DamagedFileError(f"{path} cannot be read ({_TOO_DEEP})") from None
    except ValueError as error:  # bytes that are no UTF-8 among them
        raise DamagedFileError(f"{path} cannot be read ({one_line(error, MOST_WORDS)})") from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path} holds {type(found).__name__}, expected a JSON object")
    problem = problem_of(found, is_any_text=is_any_text)
    if problem:
        raise DamagedFileError(f"{path} cannot be read ({problem})")
    try:
        is_sealed_json(found)
    except SealError as error:
        raise DamagedFileError(f"{path} {error}") from error
    return found, changed_at_s


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:MOST_WORDS]!r} stands there twice")
    return found


_TOO_DEEP = f"lists and objects lie deeper than {MOST_DEPTH} in one another"


def problem_of(content: Any, *, is_any_text: bool = False) -> str:
    """What no run writes in plain data; empty if nothing.

    Args:
        content: plain containers and scalars.
        is_any_text: see `read_json`.

    Example:
        >>> problem_of({"seeds": [0, 1]}), problem_of([2**70])
        ('', 'a whole number of 71 bits, expected at most 63')
    """
    level: list[Any] = [content]
    for _ in range(MOST_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            kind = type(item)  # parsers make no subclasses, and this loop sees every value of every sheet
            if kind is str:
                if not (item.isascii() and "\0" not in item) and not is_any_text and not _is_text(item):
                    return f"the text {item[:MOST_WORDS]!r} holds what is no character"
            elif kind is dict:
                below += item
                below += item.values()
            elif kind is list:
                below += item
            elif kind is int and item.bit_length() > _MOST_BITS:
                return f"a whole number of {item.bit_length()} bits, expected at most {_MOST_BITS}"
        if not below:
            return ""
        level = below
    return _TOO_DEEP


def _is_text(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
