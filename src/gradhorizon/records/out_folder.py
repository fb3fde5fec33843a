"""The folder that a program is told to write to: refused before any work, in one line."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from gradhorizon.records.errors import RecordsError
from gradhorizon.records.layout import FAILURE, RUN_SHEET, identity_in, seeds_in


def refuse_unfit(out: Path) -> None:
    """Refuse a folder that belongs to a run or cannot be written; leaves nothing behind.

    Args:
        out: the folder that ``--out`` names; it need not be there.

    Raises:
        RecordsError: it is a run's folder or lies in one, or no file can be made in it.
    """
    _refuse_run(out)
    try:
        _try(out)
    except OSError as error:
        is_taken = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "there is a file in its place" if is_taken else error.strerror
        raise RecordsError(
            f"--out must be a folder that can be written, got {_shortened(out)} ({reason}): "
            "name another, or make it writable"
        ) from error


def _try(out: Path) -> None:
    made: list[Path] = []
    try:
        for folder in reversed([one for one in (out, *out.parents) if not one.is_dir()]):
            folder.mkdir()
            made.append(folder)
        with tempfile.NamedTemporaryFile(dir=out, prefix=".", suffix=".tmp") as file:
            file.write(b"trial")
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # somebody else writes there by now
                folder.rmdir()


def _refuse_run(out: Path) -> None:
    place = Path(os.path.realpath(out))
    owner = next((folder for folder in (place, *place.parents) if _is_run(folder)), None)
    if owner is not None:
        beside = owner.parent.with_name(f"{owner.parent.name}-figures")
        raise RecordsError(
            f"--out must not be in a run's folder, which holds records alone, got {_shortened(out)}: name a folder "
            f"beside the runs, such as {beside}"
        )


def _is_run(folder: Path) -> bool:
    try:
        is_named = identity_in(folder.name) is not None
        return bool(seeds_in(folder)) or (is_named and any((folder / one).is_file() for one in (RUN_SHEET, FAILURE)))
    except OSError:  # what cannot be looked at is refused by the trial
        return False


_MOST_CHARACTERS = 200


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text)} characters)"
