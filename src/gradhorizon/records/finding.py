"""Where the runs are, at or below folders that somebody names: the one search that every program makes.

A folder is a run's by its name and by what lies in it. No link is followed below the named folders, what is hidden or
set aside is skipped, and a run that two of them reach is found once. What cannot be looked into, and what people might
take for a run or a member and is none, is told. Imports nothing but the standard library.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gradhorizon.records.errors import RecordsError
from gradhorizon.records.layout import (
    FAILURE,
    MEMBER_SHEET,
    RUN_SHEET,
    SWEEPS,
    identity_in,
    is_skipped,
    looks_like_a_member,
    member_folder,
    seed_in,
    seeds_in,
)
from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)

_DEEPEST = 24  # levels below a named folder
_NAMED = 4  # neighbours in one line


@dataclass
class Found:
    """What a search has found.

    Attributes:
        runs: folders of runs.
        sweeps: folders in which sweeps have written down what they asked for.
        unreadable: folders that could not be looked into, and why.
        absent: what was named and is no folder.
        notes: a line for each folder beside whose runs or members something lies that is none.
    """

    runs: list[Path] = field(default_factory=list)
    sweeps: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    absent: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def say_notes(self) -> None:
        """Say what was passed by, each line once in this process."""
        for note in self.notes:
            say_once(log, note)

    def say(self) -> None:
        """Say what could not be looked into, which is an error, and what was passed by."""
        self.say_notes()
        for folder, why in self.unreadable.items():
            log.error("Error: %s: %s", folder, why)


def find(roots: Iterable[Path]) -> Found:
    """Runs at or below `roots`, in the order of these and then of their names.

    Args:
        roots: run folders, experiment folders or runs roots.
    """
    named = list(roots)
    search = _Search(named)
    for root in named:
        search.add(root)
    search.found.notes += doubled(search.found.runs)
    return search.found


def recorded_runs(found: Found) -> list[Path]:
    """Folders of the runs that have recorded something, or should have: there is a sheet of theirs or of a member."""
    return [run for run in found.runs if _has_sheet(run)]


def refuse_nothing(found: Found, places: Iterable[object]) -> Found:
    """`found`, if it holds a run that has recorded something or cannot be looked into; what it passed by is said.

    Args:
        found: at or below `places`.
        places: as they were named.

    Raises:
        RecordsError: no run there, or a place is no folder.
    """
    if found.absent or not (recorded_runs(found) or found.unreadable):
        words = ", ".join(map(str, found.absent or places)) or "nothing"
        raise RecordsError(f"no run found at or below {words}: name folders with a {RUN_SHEET}")
    found.say()
    return found


def _has_sheet(run: Path) -> bool:
    if os.path.lexists(run / RUN_SHEET):
        return True
    return any(os.path.lexists(member_folder(run, seed) / MEMBER_SHEET) for seed in seeds_in(run))


def doubled(runs: Iterable[Path]) -> list[str]:
    """A line for each run that two folders of one experiment carry, known by their names.

    Args:
        runs: folders of runs.
    """
    places: dict[tuple[Path, str], list[Path]] = {}
    for run in runs:
        identity = identity_in(run.name)
        if identity is not None:
            places.setdefault((run.parent, identity), []).append(run)
    return [
        f"{parent}: {len(found)} folders are one run: {_names([run.name for run in found])}; move all but one out of "
        "the runs folder, or give them names that begin with a dot"
        for (parent, _), found in places.items()
        if len(found) > 1
    ]


class _Search:
    def __init__(self, roots: Iterable[Path]) -> None:
        self.found = Found()
        self._seen: set[str] = set()
        self._reached = [Path(os.path.realpath(root)) for root in roots]

    def add(self, root: Path) -> None:
        """Look at a root and all below it, each folder once."""
        waiting = [(root, os.path.realpath(root), 0)]
        while waiting:
            folder, real, depth = waiting.pop()
            if real not in self._seen:
                self._seen.add(real)
                inner = self._look(folder, is_root=depth == 0)
                if inner and depth == _DEEPEST:
                    self.found.unreadable[folder] = f"more than {_DEEPEST} folders below {root}: name one nearer to it"
                    continue
                waiting += [(folder / name, f"{real}/{name}", depth + 1) for name in reversed(inner)]

    def _look(self, folder: Path, *, is_root: bool) -> list[str]:
        """Names of the folders in which to look further."""
        if folder.name == SWEEPS and os.path.isdir(folder):  # noqa: PTH112, which never raises
            self.found.sweeps.append(folder)
            return []
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            if is_root:
                self.found.absent.append(folder)
            return []  # it has gone since its name was read
        except OSError as error:
            self.found.unreadable[folder] = f"cannot be read: {error.strerror}"
            return []
        folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        inner = [name for name in folders if not is_skipped(name)]
        is_run = _is_run(folder.name, [entry.name for entry in entries], inner)
        self._note(folder, list(self._neighbours(entries, folders, is_run=is_run)), is_run=is_run)
        if is_run:
            self.found.runs.append(folder)
            return []
        return [name for name in inner if seed_in(name) is None]

    def _note(self, folder: Path, names: Sequence[str], *, is_run: bool) -> None:
        if names:
            what = "its members, which are folders called seed-<number>" if is_run else "the runs"
            self.found.notes.append(f"{folder}: not read, beside {what}: {_names(names)}")

    def _neighbours(
        self, entries: Iterable[os.DirEntry[str]], folders: Sequence[str], *, is_run: bool
    ) -> Iterator[str]:
        for entry in entries:
            name, is_folder = entry.name, entry.name in folders
            is_member = is_folder and seed_in(name) is not None
            is_copy = is_folder and identity_in(name) is not None
            was_run = is_folder and is_skipped(name) and identity_in(name.rpartition(".")[0]) is not None
            if (not is_member and (looks_like_a_member(name) or is_copy)) if is_run else (is_member or was_run):
                yield name
            elif not is_run and not name.startswith(".") and self._leads_away(entry):
                yield f"{name} (a link: name what it leads to)"

    def _leads_away(self, entry: os.DirEntry[str]) -> bool:
        """Whether it is a link to a folder that this search does not reach."""
        try:
            is_link = entry.is_symlink() and entry.is_dir()
        except OSError:  # a loop of links
            return False
        real = Path(os.path.realpath(entry.path))
        return is_link and not any(real.is_relative_to(root) for root in self._reached)


def _is_run(name: str, names: Sequence[str], folders: Sequence[str]) -> bool:
    has_sheet = RUN_SHEET in names or FAILURE in names
    has_members = any(seed_in(inner) is not None for inner in folders)
    if identity_in(name) is not None:
        return has_sheet or has_members or not folders  # an experiment may be called so, too
    # What was moved out of a run, and lies among the others now, makes none of their experiment.
    holds_runs = any(identity_in(inner) is not None or inner == SWEEPS for inner in folders)
    return (has_sheet or has_members) and not holds_runs


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
