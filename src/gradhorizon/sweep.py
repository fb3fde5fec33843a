"""What concerns a whole sweep: the sum of its plans, and the runs that were left to others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from gradhorizon import stopping
from gradhorizon.progress import format_duration

log = logging.getLogger(__name__)


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


class PlanTotal(Callback):
    """Adds up what ``plan=true`` says of every run of a sweep.

    With the basic and the local launcher: others run their jobs in processes of their own, from which nothing comes
    back here.
    """

    def __init__(self) -> None:
        self._plans: list[Plan] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keep a run's plan, if it returned one."""
        del config, kwargs
        if job_return.status == JobStatus.COMPLETED and isinstance(job_return.return_value, Plan):
            self._plans.append(job_return.return_value)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say the sum, if there was anything to plan."""
        del config, kwargs
        if self._plans:
            log.info("%s", total(self._plans))


@dataclass(frozen=True)
class Skipped:
    """A run of a sweep that another process is at.

    Attributes:
        reason: who, where and since when.
    """

    reason: str

    def __str__(self) -> str:
        return f"skipped: {self.reason}"


class SkippedRuns(Callback):
    """Ends a sweep that left runs to another process with exit code 75: nothing failed, but not all is done.

    With the basic and the local launcher; with others each run's own log tells.
    """

    def __init__(self) -> None:
        self._num_runs = self._num_skipped = 0

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Count a run."""
        del config, kwargs
        self._num_runs += 1
        if job_return.status == JobStatus.COMPLETED:
            self._num_skipped += isinstance(job_return.return_value, Skipped)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how many were skipped, and end the process with the exit code of what goes on another time.

        Raises:
            SystemExit: some were.
        """
        del config, kwargs
        if self._num_skipped:
            log.warning(
                "%d of %d runs skipped: other processes are at them, as said above; the same command skips what "
                "they finish, and goes on with what they leave", self._num_skipped, self._num_runs,
            )  # fmt: skip
            raise SystemExit(stopping.EXIT_CODE)


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
