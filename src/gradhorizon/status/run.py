"""What the disk tells of one run: status, progress, speed, owner, failure.

Reads small files alone, no Parquet, and writes nothing. A member's step is that of its last commit, so it may lag by
``trainer.checkpoint_every_s``. Its speed comes from the parts of its metrics: their names say which optimizer steps
they cover, their modification times when these were committed. Imports neither torch nor Hydra nor pandas.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradhorizon.composition.variants import variant
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.launches import all_seeds
from gradhorizon.records.layout import (
    FAILURE,
    MEMBER_SHEET,
    RECORDS,
    RUN_SHEET,
    member_folder,
    member_name,
    readable_in,
    steps_in,
)
from gradhorizon.records.sheets import look_at_member_sheet, look_at_run_sheet
from gradhorizon.runs.absent_members import expected_seeds, seeds_without_sheet
from gradhorizon.runs.claims import Claim, latest_claim
from gradhorizon.runs.failures import Failure, failed_overrides, failed_seeds, read_failure

STATUSES = ("running", "failed", "stale", "unreadable", "queued", "missing", "finished")
"""In the order in which people want to read of them."""

OUTCOMES = ("solved", "diverged", "budget exhausted")

_RECENT_PARTS = 6


@dataclass(frozen=True)
class MemberLook:
    """One member.

    Attributes:
        seed: its seed.
        is_finished: whether it has ended.
        step: optimizer steps at its last commit.
        outcome: how it ended, None before.
        outcome_step: at which optimizer step, None before.
        committed_at_s: time of its last commit, seconds since 1970, None if it is not known or there was none.
        claim: who is, or was last, at it; not looked up once it is finished.
        is_missing: whether a sweep has asked for it, and it never began; or it had ended, and is gone.
    """

    seed: int
    is_finished: bool
    step: int = 0
    outcome: str | None = None
    outcome_step: int | None = None
    committed_at_s: float | None = None
    claim: Claim | None = None
    is_missing: bool = False


@dataclass(frozen=True)
class RunLook:
    """One run.

    Attributes:
        folder: where it lies.
        status: running; failed; stale (its process died without a word); unreadable; queued (not started, or
            interrupted, and to be resumed by the same command); missing (a sweep has asked for it, or for members of
            it, that never began; or members had ended, and are gone); finished.
        experiment: name of the experiment.
        model: its label, None before it has started.
        task: the protocol, None before it has started.
        seq_len: T, None before it has started.
        num_steps: its budget in optimizer steps, None before it has started.
        variant: what else it was launched with that can tell it from others.
        members: its members.
        problem: what cannot be read, or is gone.
        failure: why it failed.
        owner: who is, or was last, at it.
        steps_per_s: optimizer steps per second, of all members side by side; None if not known.
        changed_at_s: when its ``run.json`` was written last, seconds since 1970; 0 if never.
    """

    folder: Path
    status: str
    experiment: str
    model: str | None = None
    task: str | None = None
    seq_len: int | None = None
    num_steps: int | None = None
    variant: str = ""
    members: list[MemberLook] = field(default_factory=list)
    problem: str | None = None
    failure: Failure | None = None
    owner: Claim | None = None
    steps_per_s: float | None = None
    changed_at_s: float = 0.0

    @classmethod
    def unreadable(cls, folder: Path, problem: str) -> RunLook:
        """A run of which nothing can be told but why."""
        return cls(folder, "unreadable", folder.parent.name, problem=problem)

    @property
    def step(self) -> int | None:
        """Optimizer steps, at their last commit, of the members that are trained now or next; None if all are done."""
        return min((member.step for member in self.members if not member.is_finished), default=None)

    @property
    def why(self) -> str:
        """Why it is not finished, in one line; empty if nothing is known but its status."""
        if self.failure is not None:
            return self.failure.reason
        if self.problem is not None:
            return self.problem
        if self.status == "stale" and self.owner is not None:
            return f"its process died without a word: {self.owner.place}"
        return ""

    @property
    def steps_left(self) -> int:
        """Optimizer steps to the end of the budget; members at the same step train side by side."""
        steps = {member.step for member in self.members if not member.is_finished}
        return sum(max((self.num_steps or 0) - step, 0) for step in steps)

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of the budget at the present speed; members that are solved earlier end earlier."""
        return self.steps_left / self.steps_per_s if self.status == "running" and self.steps_per_s else None

    @property
    def committed_at_s(self) -> float | None:
        """Time of the last commit of the members that are trained now, seconds since 1970."""
        return max(
            (item.committed_at_s for item in self.members if not item.is_finished and item.committed_at_s), default=None
        )


def read_run(folder: Path, now_s: float) -> RunLook:
    """What the disk tells of the run in `folder`; never raises for what lies there.

    Args:
        folder: the run's folder.
        now_s: seconds since 1970.
    """
    try:
        sheet, changed_at_s = look_at_run_sheet(folder)
        known = _known(folder, sheet) | {"changed_at_s": changed_at_s}
        failed = failed_seeds(folder) if (has_failed := (folder / FAILURE).exists()) else []
        gone = seeds_without_sheet(folder, expected_seeds(sheet))
        if sheet.get("status") == "finished" and _all_ended(sheet) and not has_failed and not gone:
            return RunLook(folder, "finished", **known, members=_finished_members(sheet))
        seeds = sorted({*all_seeds(sheet, folder), *failed, *gone})
        members = [_member(member_folder(folder, seed), seed, is_gone=seed in gone) for seed in seeds]
        if not has_failed:
            _refuse_lost(sheet, members)
        return _with_gone(_unfinished(folder, members, known, sheet, now_s), gone)
    except RecordsError as error:
        problem = str(getattr(error, "fact", error)).replace(os.path.join(folder, ""), "")  # noqa: PTH118, within words
        return RunLook.unreadable(folder, problem)
    except OSError as error:
        return RunLook.unreadable(folder, f"{error.strerror}: {error.filename}")


def _refuse_lost(sheet: dict[str, Any], members: Iterable[MemberLook]) -> None:
    if not sheet and any(member.step > 0 for member in members):
        raise RecordsError(f"{RUN_SHEET} is not there, though members have committed; the same command writes it anew")


def _unfinished(
    folder: Path, members: list[MemberLook], known: dict[str, Any], sheet: dict[str, Any], now_s: float
) -> RunLook:
    open_claims = [one.claim for one in members if one.claim is not None and one.claim.ended_at_s is None]
    owner = next((claim for claim in open_claims if claim.is_alive(now_s)), None)
    if members and all(member.is_finished for member in members):
        if not sheet:
            raise RecordsError(f"{RUN_SHEET} is not there, though its members have ended: restore it from a copy")
        return RunLook(folder, "finished", **known, members=members)
    if owner is not None:
        rate = _steps_per_s(folder, members, owner)
        return RunLook(folder, "running", **known, members=members, owner=owner, steps_per_s=rate)
    last = next(iter(open_claims), None)
    if sheet.get("status") == "failed" or (folder / FAILURE).exists():
        failure = read_failure(folder / FAILURE)
        return RunLook(folder, "failed", **known, members=members, failure=failure, owner=last)
    status = "queued" if last is None else "stale"
    return RunLook(folder, status, **known, members=members, owner=last)


def _known(folder: Path, sheet: dict[str, Any]) -> dict[str, Any]:
    if not sheet:
        return {"experiment": folder.parent.name, "variant": variant(failed_overrides(folder / FAILURE))}
    _, _, in_name = readable_in(folder.name).partition(f"-T{sheet['seq_len']}-")
    copied = {name: sheet[name] for name in ("experiment", "model", "task", "seq_len", "num_steps")}
    return {**copied, "variant": sheet.get("variant") or in_name}


def _all_ended(sheet: dict[str, Any]) -> bool:
    ends = sheet.get("outcomes", {}).values()
    return bool(ends) and all(one["status"] == "finished" for one in ends)


def _finished_members(sheet: dict[str, Any]) -> list[MemberLook]:
    return [
        MemberLook(int(seed), True, one["outcome_step"], one["outcome"], one["outcome_step"])
        for seed, one in sorted(sheet["outcomes"].items(), key=lambda item: int(item[0]))
    ]


def _with_gone(look: RunLook, gone: Sequence[int]) -> RunLook:
    """`look`, which names members that had ended and are no longer there; the same command trains them anew."""
    if not gone:
        return look
    names = ", ".join(member_name(seed) for seed in gone)
    problem = f"{names}: gone, or without {MEMBER_SHEET}, though the run was finished; the same command trains anew"
    return replace(look, status="missing" if look.status == "queued" else look.status, problem=problem)


def _member(folder: Path, seed: int, *, is_gone: bool = False) -> MemberLook:
    content, committed_at_s = look_at_member_sheet(folder)
    if not content:
        return MemberLook(seed, False, claim=latest_claim(folder), is_missing=is_gone)
    step: int = content["step"]
    if content["status"] == "finished":
        return MemberLook(seed, True, step, content["outcome"], content["outcome_step"], committed_at_s)
    return MemberLook(seed, False, step, committed_at_s=committed_at_s, claim=latest_claim(folder))


def _steps_per_s(folder: Path, members: Iterable[MemberLook], owner: Claim) -> float | None:
    """Speed over the last commits of the member that moves, or since the owner's start if there was one alone."""
    moving = min((member for member in members if not member.is_finished), key=lambda member: member.step)
    commits = _commits(member_folder(folder, moving.seed) / RECORDS / "metrics")
    recent = [one for one in commits if one[2] >= owner.launched_at_s][-_RECENT_PARTS:]
    if not recent:
        return None
    first_step, seconds = recent[0][1], recent[-1][2] - recent[0][2]
    if len(recent) == 1:
        first_step, seconds = recent[0][0], recent[0][2] - owner.launched_at_s
    num_steps = recent[-1][1] - first_step
    return num_steps / seconds if seconds > 0 and num_steps > 0 else None


def _commits(parts: Path) -> list[tuple[int, int, float]]:
    """First step, last step and time of every part, in order."""
    try:
        with os.scandir(parts) as entries:
            named = [(steps, entry) for entry in entries if (steps := steps_in(entry.name))]
            return sorted((*steps, entry.stat().st_mtime) for steps, entry in named)
    except OSError:
        return []
