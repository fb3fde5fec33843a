"""Which job runs where and when: slots, retries, limits, Ctrl-C."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from pathlib import Path

from gradhorizon.config import ConfigError
from gradhorizon.machine import stopping
from gradhorizon.sweeps.launcher.process import Job, Report, RunningJob
from gradhorizon.sweeps.launcher.slots import Slot

log = logging.getLogger(__name__)

_POLL_S = 0.1  # between two looks at limits and at Ctrl-C


@dataclass(frozen=True)
class Limits:
    """What a job may take.

    Args:
        retries: times that a failed job is tried again, after all others.
        time_limit_s: seconds per attempt; beyond, it is asked to commit and leave.
        memory_limit_gib: resident memory, GiB; beyond, it is killed.
        grace_s: seconds between being asked to leave and being killed.

    Raises:
        ConfigError: a limit out of range, or one that this platform cannot watch.
    """

    retries: int = 0
    time_limit_s: float | None = None
    memory_limit_gib: float | None = None
    grace_s: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("retries", 0), ("grace_s", 0)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"`hydra.launcher.{name}` must be {least} or more, got {getattr(self, name)}")
        for name in ("time_limit_s", "memory_limit_gib"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"`hydra.launcher.{name}` must be positive or null, got {value}")
        if self.memory_limit_gib is not None and not Path("/proc/self/statm").exists():
            raise ConfigError(f"`hydra.launcher.memory_limit_gib` needs Linux, got {sys.platform}; use null")


@dataclass(frozen=True)
class Ending:
    """One attempt's end.

    Attributes:
        job: what ran.
        report: how it ended.
        attempt: from 1.
        wall_s: seconds it took.
        is_retried: whether it will be tried again.
    """

    job: Job
    report: Report
    attempt: int
    wall_s: float
    is_retried: bool


class SlotScheduler:
    """Runs every job in a fresh process, as many side by side as there are slots; no job can end another.

    Ctrl-C (or SIGTERM, or a closed terminal's SIGHUP) once: starts nothing more, and asks what runs to commit and
    leave. Ctrl-C or SIGTERM again: kills it.

    Args:
        slots: where jobs may run.
        limits: what each may take.
        context: forkserver: what is preloaded there is imported once.
        on_start: told of each attempt, just before it starts.
        on_end: told of each attempt's end.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        limits: Limits,
        context: ForkServerContext,
        on_start: Callable[[Job, Slot, int], None],
        on_end: Callable[[Ending], None],
    ) -> None:
        self._free = list(slots)
        self._limits = limits
        self._context = context
        self._on_start, self._on_end = on_start, on_end
        self._running: list[RunningJob] = []
        self._held: deque[Job] = deque()  # no slot was free, or one with their key is running
        self._again: deque[Job] = deque()
        self._attempts: Counter[int] = Counter()
        self._num_signals = self._num_heeded = 0

    @property
    def is_interrupted(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._num_signals > 0

    def run(self, jobs: Iterable[Job | None]) -> None:
        """Run all jobs to their end, or until interrupted.

        Args:
            jobs: asked for one at a time, at most one ahead of the slots; None where there was nothing to run.
        """
        self._source: Iterator[Job | None] | None = iter(jobs)
        with self._signals_counted():
            try:
                while self._running or (not self.is_interrupted and self._has_more()):
                    self._start_one()
                    self._watch()
            finally:
                for running in self._running:
                    running.kill()

    def _has_more(self) -> bool:
        return self._source is not None or bool(self._held) or bool(self._again)

    def _start_one(self) -> None:
        """Start at most one job, so that what runs is never left alone for long."""
        if self.is_interrupted:
            return
        if not self._free:
            self._prepare_one()
            return
        job = self._next_job()
        if job is None:
            return
        slot = min(self._free, key=self._num_beside)
        self._free.remove(slot)
        self._attempts[job.number] += 1
        attempt = self._attempts[job.number]
        self._on_start(job, slot, attempt)
        try:
            self._running.append(RunningJob(self._context, job, slot, attempt))
        except (OSError, EOFError) as error:
            self._free.append(slot)
            self._end(job, Report("failed", reason=f"could not be started: {error}"), attempt, 0.0)

    def _prepare_one(self) -> None:
        """Have a job at hand when a slot comes free, because to compose one takes a while."""
        if not self._held and (job := self._asked_for()) is not None:
            self._held.append(job)

    def _num_beside(self, slot: Slot) -> int:
        """Jobs on the same GPU: what is packed goes where there is most room."""
        return sum(slot.gpu is not None and running.slot.gpu == slot.gpu for running in self._running)

    def _next_job(self) -> Job | None:
        job = self._unblocked(self._held) or self._asked_for()
        if job is not None and self._is_blocked(job):
            self._held.append(job)
            return None
        if job is None and self._source is None:
            job = self._unblocked(self._again)
        return job

    def _asked_for(self) -> Job | None:
        if self._source is not None:
            try:
                return next(self._source)
            except StopIteration:
                self._source = None
        return None

    def _unblocked(self, jobs: deque[Job]) -> Job | None:
        for job in jobs:
            if not self._is_blocked(job):
                jobs.remove(job)
                return job
        return None

    def _is_blocked(self, job: Job) -> bool:
        return job.key is not None and any(running.job.key == job.key for running in self._running)

    def _watch(self) -> None:
        """Wait for a word from what runs, then see to limits, Ctrl-C and those that are over."""
        can_start = bool(self._free) and self._source is not None and not self.is_interrupted
        if self._running:
            wait([handle for running in self._running for handle in running.handles], 0 if can_start else _POLL_S)
        self._heed_signals()
        for running in list(self._running):
            if running.is_over():
                self._running.remove(running)
                self._free = sorted([*self._free, running.slot], key=lambda slot: slot.number)
                self._end(running.job, running.report(), running.attempt, running.wall_s)
            else:
                running.enforce(self._limits.time_limit_s, self._limits.memory_limit_gib, self._limits.grace_s)

    def _end(self, job: Job, report: Report, attempt: int, wall_s: float) -> None:
        is_retried = report.status == "failed" and not report.is_final and attempt <= self._limits.retries
        is_retried = is_retried and not self.is_interrupted
        if is_retried:
            self._again.append(job)
        self._on_end(Ending(job, report, attempt, wall_s, is_retried))

    def _heed_signals(self) -> None:
        if self._num_signals == self._num_heeded:
            return
        is_first = self._num_heeded == 0 and self._num_signals == 1
        self._num_heeded = self._num_signals
        if is_first:
            log.warning(
                "stopping: nothing more is started, %d running commit and leave; Ctrl-C again kills them",
                len(self._running),
            )
        for running in self._running:
            if is_first:
                running.ask_to_stop()
            else:
                running.kill()

    def _signals_counted(self) -> AbstractContextManager[None]:
        numbers = [signal.SIGINT, *stopping.ending_signals()] if stopping.is_main_thread() else []
        return stopping.handled(numbers, self._count_signal)

    def _count_signal(self, number: int, _: object) -> None:
        stopping.leave_closed_terminal()
        # A closed terminal is told of twice, by the system and by the shell, and nobody there insists.
        self._num_signals = max(self._num_signals, 1) if number == signal.SIGHUP else self._num_signals + 1
