"""What the disk tells of many runs, again and again: those that are finished are read once."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradhorizon.records.finding import Found, find
from gradhorizon.records.layout import FAILURE, RUN_SHEET, member_folder
from gradhorizon.runs.absent_members import seeds_without_sheet
from gradhorizon.runs.claims import Claim
from gradhorizon.status.asked import with_asked
from gradhorizon.status.run import OUTCOMES, STATUSES, MemberLook, RunLook, read_run
from gradhorizon.terminal.words import counted

SCHEMA = 1
"""Of `document`; bumped when a key changes its meaning or goes."""

BROKEN = ("failed", "stale", "unreadable")
"""Statuses of runs that broke; what is neither finished nor one of these goes on with the same command."""

_Stamp = tuple[int, int]
_HOUR_S = 3600.0


@dataclass(frozen=True)
class OpenMember:
    """A member that is not finished.

    Attributes:
        run: its run.
        seed: its seed, None if the run broke before anybody knew its members.
        status: that of its run, but missing if it never began.
        why: why it is not finished, in one line; empty if nothing is known but the status.
    """

    run: RunLook
    seed: int | None
    status: str
    why: str

    @property
    def folder(self) -> Path:
        """Its own, or its run's where nobody knows its seed."""
        return self.run.folder if self.seed is None else member_folder(self.run.folder, self.seed)


def _status_of(run: RunLook, member: MemberLook | None) -> str:
    return "missing" if member is not None and member.is_missing else run.status


@dataclass(frozen=True)
class SweepLook:
    """All runs at one moment.

    Attributes:
        runs: those that people look for first come first; a folder that cannot be looked into is an unreadable one.
        at_s: when, seconds since 1970.
        found: where they were found, and what was passed by.
    """

    runs: list[RunLook]
    at_s: float
    found: Found = field(default_factory=Found)

    @property
    def num_runs(self) -> dict[str, int]:
        """Runs by status."""
        counts = Counter(run.status for run in self.runs)
        return {status: counts[status] for status in STATUSES}

    @property
    def num_members(self) -> int:
        """Members that ever started, or that a sweep has asked for."""
        return sum(len(run.members) for run in self.runs)

    @property
    def num_outcomes(self) -> dict[str, int]:
        """Members that have ended, by how."""
        return outcomes(self.runs)

    @property
    def num_done(self) -> int:
        """Members that have ended."""
        return sum(member.is_finished for run in self.runs for member in run.members)

    @property
    def num_finished_last_hour(self) -> int:
        """Runs that were finished during the last hour."""
        return sum(run.status == "finished" and self.at_s - run.changed_at_s <= _HOUR_S for run in self.runs)

    @property
    def steps_per_s(self) -> float | None:
        """Optimizer steps per second of all runs together; None if no speed is known."""
        return sum(run.steps_per_s or 0.0 for run in self.runs) or None

    @property
    def left_s(self) -> float | None:
        """Seconds until the budgets of what runs and of what was left are spent, at the present speed.

        Failed runs are not counted.
        """
        if self.steps_per_s is None:
            return None
        steps = sum(run.steps_left for run in self.runs if run.status in ("running", "stale", "queued", "missing"))
        return max(steps / self.steps_per_s, *(run.left_s or 0.0 for run in self.runs))

    @property
    def summary(self) -> tuple[str, str]:
        """How many runs and members there are and how they stand, in the words of status, figures and report."""
        known = "asked for" if self.num_runs["missing"] else "started so far"
        counts = ", ".join(f"{count} {status}" for status, count in self.num_runs.items() if count)
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self.num_outcomes.items())
        return (
            f"{counted(len(self.runs), 'run')} {known}: {counts}",
            f"{self.num_done} of {self.num_members} members done: {ended}",
        )

    @property
    def open_members(self) -> list[OpenMember]:
        """All that is not finished, member by member; a run that broke and names no members counts once."""
        return [
            OpenMember(run, None if member is None else member.seed, _status_of(run, member), run.why)
            for run in self.runs
            if run.status != "finished"
            for member in (run.members or (None,))
            if member is None or not member.is_finished
        ]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen unless somebody launches something."""
        return all(run.status in ("finished", "failed", "unreadable") for run in self.runs)


def outcomes(runs: Sequence[RunLook]) -> dict[str, int]:
    """Members that have ended, by how.

    Args:
        runs: any.
    """
    counts = Counter(member.outcome for run in runs for member in run.members if member.is_finished)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


class SweepReader:
    """Reads all runs at or below folders, as often as asked.

    Args:
        folders: run folders, experiment folders or runs roots.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._finished: dict[Path, tuple[tuple[_Stamp | None, ...], RunLook]] = {}

    def read(self) -> SweepLook:
        """All runs as they are now."""
        now_s = time.time()
        found = find(self._folders)
        looks = [self._look(folder, now_s) for folder in found.runs]
        looks += [RunLook.unreadable(folder, why) for folder, why in found.unreadable.items()]
        looks = with_asked(looks, found.sweeps)
        looks.sort(key=lambda run: (STATUSES.index(run.status), str(run.folder)))
        return SweepLook(looks, now_s, found)

    def _look(self, folder: Path, now_s: float) -> RunLook:
        stamp = (_stamp(folder / RUN_SHEET), _stamp(folder / FAILURE))
        stored = self._finished.get(folder)
        if stored and stored[0] == stamp and not seeds_without_sheet(folder, [one.seed for one in stored[1].members]):
            return stored[1]
        run = read_run(folder, now_s)
        if run.status == "finished" and stamp[0] is not None:
            self._finished[folder] = (stamp, run)
        return run


def run_folders(root: Path) -> Iterator[Path]:
    """Folders of runs at or below `root`, known by their name or by what lies in them.

    Args:
        root: any folder.
    """
    yield from find([root]).runs


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = os.stat(path)  # noqa: PTH116, ten thousand runs are listed
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def document(look: SweepLook) -> dict[str, Any]:
    """What ``gradhorizon-status --json`` prints.

    Args:
        look: all runs at one moment.

    Returns:
        ``schema``; ``at_s``, seconds since 1970; ``totals`` with ``runs`` (status -> count), ``members`` (``total``,
        ``done``, and each outcome -> count), ``runs_finished_last_hour``, ``steps_per_s``, ``left_s``; and ``runs``, a
        list with ``folder``, ``status`` (running, failed, stale, unreadable, queued, missing or finished),
        ``experiment``, ``model``, ``task``, ``seq_len``, ``variant``, ``num_steps``, ``step`` (as of the last commit),
        ``committed_at_s``, ``steps_per_s``, ``left_s``, ``problem``, ``failure`` (``reason``, ``lines``, ``phase``),
        ``owner`` (``host``, ``pid``, ``slot``, ``since_s``, ``beat_at_s``) and ``members``, a list with ``seed``,
        ``is_finished``, ``is_missing``, ``step``, ``outcome``, ``outcome_step``. What is not known is null.
    """
    return {
        "schema": SCHEMA,
        "at_s": look.at_s,
        "totals": {
            "runs": look.num_runs,
            "members": {"total": look.num_members, "done": look.num_done, **look.num_outcomes},
            "runs_finished_last_hour": look.num_finished_last_hour,
            "steps_per_s": look.steps_per_s,
            "left_s": look.left_s,
        },
        "runs": [_plain_run(run) for run in look.runs],
    }


def _plain_run(run: RunLook) -> dict[str, Any]:
    copied = (
        "status",
        "experiment",
        "model",
        "task",
        "seq_len",
        "variant",
        "num_steps",
        "step",
        "committed_at_s",
        "steps_per_s",
        "left_s",
        "problem",
    )
    failure = None if run.failure is None else vars(run.failure)
    return {
        "folder": str(run.folder),
        **{name: getattr(run, name) for name in copied},
        "failure": failure,
        "owner": None if run.owner is None else _plain_owner(run.owner),
        "members": [_plain_member(member) for member in run.members],
    }


def _plain_owner(claim: Claim) -> dict[str, Any]:
    return {
        "host": claim.host or None,
        "pid": claim.pid if claim.host else None,
        "slot": claim.slot,
        "since_s": _finite(claim.launched_at_s),
        "beat_at_s": _finite(claim.beat_at_s),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _plain_member(member: MemberLook) -> dict[str, Any]:
    return {
        name: getattr(member, name) for name in ("seed", "is_finished", "is_missing", "step", "outcome", "outcome_step")
    }
