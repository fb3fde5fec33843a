"""What a run of a sweep can come to, and the words for many of them: plans, runs left to others, failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import filter_overrides
from hydra.errors import CompactHydraException

from gradhorizon.records.layout import logs_in
from gradhorizon.terminal.progress import format_duration


@dataclass(frozen=True)
class Plan:
    """What a launch would do.

    Attributes:
        num_done: members that are finished.
        num_to_train: members that would be trained.
        seconds: estimated time of one process, without measurements.
        mib: estimated disk, in MiB.
    """

    num_done: int
    num_to_train: int
    seconds: float = 0.0
    mib: float = 0.0


@dataclass(frozen=True)
class Skipped:
    """A run of a sweep that another process is at.

    Attributes:
        reason: who, where and since when.
    """

    reason: str

    def __str__(self) -> str:
        return f"skipped: {self.reason}"


class RunError(CompactHydraException):
    """What Hydra prints as one message, without a traceback.

    Args:
        message: all of it.
        reason: why the run failed, in one line.
        folder: where it lies, None if it never had a folder.
    """

    def __init__(self, message: str, reason: str = "", folder: Path | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.folder = folder


@dataclass(frozen=True)
class FailedRun:
    """One run of a sweep that failed for good.

    Attributes:
        title: what people call it.
        reason: why, in one line.
        folder: where it lies, None if it never had a folder.
    """

    title: str
    reason: str
    folder: Path | None


def failures_in_words(failed: Sequence[FailedRun], num_runs: int) -> str:
    """All failures of a sweep, with where to read on.

    Args:
        failed: those that failed for good.
        num_runs: runs of the sweep.

    Example:
        >>> print(failures_in_words([FailedRun("#1 model=gru", "SystemExit: exited with code 3", None)], num_runs=4))
        1 of 4 runs failed:
          #1 model=gru: SystemExit: exited with code 3
    """
    lines = [f"{len(failed)} of {num_runs} runs failed:"]
    for one in failed:
        lines.append(f"  {one.title}: {one.reason}")
        if one.folder is not None:
            logs = logs_in(one.folder)
            lines.append(f"    {one.folder}: {', '.join(logs)}")
    return "\n".join(lines)


def labels(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """What tells the runs of a sweep apart.

    Args:
        job_overrides: one list a run.

    Example:
        >>> labels([["model=gru", "seed=0"], ["model=lstm", "seed=0"]])
        ['model=gru', 'model=lstm']
    """
    shared = set.intersection(*map(set, job_overrides))
    return [" ".join(item for item in filter_overrides(own) if item not in shared) for own in job_overrides]


def total(plans: list[Plan]) -> str:
    """One line about all runs of a sweep.

    Args:
        plans: one per run.

    Example:
        >>> total([Plan(num_done=1, num_to_train=2, seconds=5400, mib=1.5), Plan(num_done=3, num_to_train=0)])
        'plan of 2 runs: 4 members are done, 2 would be trained, about 1 h 30 min in one process, about 1.5 MiB'
    """
    done, to_train = sum(plan.num_done for plan in plans), sum(plan.num_to_train for plan in plans)
    seconds, mib = sum(plan.seconds for plan in plans), sum(plan.mib for plan in plans)
    return (
        f"plan of {len(plans)} runs: {done} members are done, {to_train} would be trained, "
        f"about {format_duration(seconds)} in one process, about {mib:.1f} MiB"
    )
