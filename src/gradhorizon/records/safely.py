"""How files below a run's folder are opened: never through a link, never waiting for the other end of a pipe.

Whoever may write in a runs folder could plant a link where a run will write, and so have it write over any file of its
owner's. So nothing at or below a run's folder, or below the experiment's ``sweeps``, may be a link: each folder from
there on is entered without following one, each new file is made by this process alone (``O_EXCL``), and what is
appended to must be a plain file. Links above (the runs folder, an experiment's folder on a bigger disk) are the user's
own and are followed, as are those in what a command line names. Imports nothing but the standard library.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gradhorizon.records.layout import own_folders, temporary_path

_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_END = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_FOLLOWED = frozenset({errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.ENXIO})


class MisplacedError(OSError):
    """Something else where a run's file or folder belongs: a link, a pipe, a file in place of a folder."""

    def __str__(self) -> str:
        """In words, without a number."""
        return str(self.strerror)


@contextmanager
def opened_folder(folder: Path, *, is_made: bool = False) -> Iterator[int]:
    """Descriptor of `folder`.

    Args:
        folder: a run's, or one below it.
        is_made: whether it, and those that it lies in, are made where they are missing.

    Raises:
        MisplacedError: it, or a folder on the way from the run's, is a link or no folder.
        OSError: it cannot be made or entered.
    """
    own = own_folders(folder)
    outer = own[0].parent if own else folder
    if is_made:
        outer.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(outer, _FOLDER)
    try:
        for one in own:
            inner = _entered(one, descriptor, is_made=is_made)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _entered(folder: Path, outer: int, *, is_made: bool) -> int:
    with _explained(folder):
        try:
            return os.open(folder.name, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)
        except FileNotFoundError:
            if not is_made:
                raise
            with suppress(FileExistsError):
                os.mkdir(folder.name, dir_fd=outer)
            return os.open(folder.name, _FOLDER | os.O_NOFOLLOW, dir_fd=outer)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_FOLLOWED:
            raise _misplaced(path) from error
        raise


def _misplaced(path: Path) -> MisplacedError:
    try:
        mode = path.lstat().st_mode
    except OSError:
        mode = 0
    if stat.S_ISLNK(mode):
        words = (
            f"{path} is a link, which nothing at or below a run's folder may be (link the runs folder or the "
            "experiment's instead): put what it leads to in its place, or move it away"
        )
    else:
        words = f"{path} is something else than the file or folder that belongs there: move it away"
    return MisplacedError(errno.ELOOP, words, str(path))


def write_whole(content: bytes, path: Path, check: Callable[[], object] = lambda: None) -> None:
    """Write `content` to `path` by atomic rename, once it is on the disk; a link at `path` is replaced, not followed.

    Args:
        content: all of it.
        path: where.
        check: called immediately before the rename, which does not happen if it raises.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    temporary = temporary_path(path).name
    with opened_folder(path.parent, is_made=True) as folder:
        try:
            with os.fdopen(_created(temporary, folder), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            check()
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise


def _created(name: str, folder: int) -> int:
    try:
        return os.open(name, _NEW, 0o666, dir_fd=folder)
    except FileExistsError:  # left by a killed process of the same number, or planted: of no use to anybody
        os.unlink(name, dir_fd=folder)
        return os.open(name, _NEW, 0o666, dir_fd=folder)


def write_new(content: bytes, path: Path) -> None:
    """Write `content` to a file that is not there yet.

    Raises:
        FileExistsError: there is one, or a link.
        OSError: it cannot be written.
    """
    with opened_folder(path.parent) as folder, os.fdopen(os.open(path.name, _NEW, 0o666, dir_fd=folder), "wb") as file:
        file.write(content)


def touch_once(path: Path) -> None:
    """Make an empty file and remove it, which shows that its folder can be written.

    Args:
        path: the file; what was left there by a killed process goes.

    Raises:
        OSError: it cannot.
    """
    with opened_folder(path.parent, is_made=True) as folder:
        os.close(_created(path.name, folder))
        os.unlink(path.name, dir_fd=folder)


def open_to_append(path: Path) -> int:
    """Descriptor of a plain file, made where it is missing, that what is written goes to the end of.

    Raises:
        MisplacedError: something else lies there.
        OSError: it cannot be opened.
    """
    with opened_folder(path.parent) as folder, _explained(path):
        descriptor = os.open(path.name, _AT_END, 0o666, dir_fd=folder)
    return _plain(descriptor, path)


def empty(path: Path) -> None:
    """Cut a plain file down to nothing.

    Raises:
        OSError: it cannot be, or is none.
    """
    with _explained(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(_plain(descriptor, path), "wb") as file:
        file.truncate(0)


def _plain(descriptor: int, path: Path) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _misplaced(path)
    os.set_blocking(descriptor, True)
    return descriptor


def refuse_links(folder: Path, *, is_deep: bool = True) -> None:
    """Refuse links at and below a folder, if it is there: what changes through one would be somebody else's.

    Args:
        folder: any.
        is_deep: whether what lies below it is looked at, too.

    Raises:
        MisplacedError: there is one.
        OSError: a folder cannot be read.
    """
    if folder.is_symlink():
        raise _misplaced(folder)
    waiting = [str(folder)] if is_deep and folder.exists() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise _misplaced(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
