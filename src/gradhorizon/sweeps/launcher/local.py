"""A sweep on one machine: composed and looked at here, trained in fresh processes."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, env_override, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from gradhorizon.composition.composing import composing_once
from gradhorizon.config import ConfigError
from gradhorizon.machine import stopping
from gradhorizon.records.layout import FAILURE, OUTPUT
from gradhorizon.runs.endings import record, record_without_folder
from gradhorizon.runs.folders import create
from gradhorizon.runs.look import Look
from gradhorizon.runs.results import FailedRun, RunError, Skipped, failures_in_words, labels
from gradhorizon.runs.settling import settle
from gradhorizon.sweeps.launch import look
from gradhorizon.sweeps.launcher.here import Here, hydra_node_of
from gradhorizon.sweeps.launcher.process import Job, ensure_fork_server
from gradhorizon.sweeps.launcher.returns import SmallReturn
from gradhorizon.sweeps.launcher.scheduler import Ending, Limits, SlotScheduler
from gradhorizon.sweeps.launcher.slots import Slot, num_cores, slots_of
from gradhorizon.sweeps.launcher.worker import train_run
from gradhorizon.terminal.progress import format_duration
from gradhorizon.terminal.reasons import reason_of, traceback_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Point:
    """One point of the sweep, composed."""

    number: int
    title: str
    overrides: list[str]
    cfg: DictConfig
    seen: Look | None = None


class LocalSweep:
    """Runs the points of a sweep.

    What concerns all runs is done in this process: composing, looking at what is finished (in milliseconds, without
    torch), Hydra's callbacks, plans (``plan=true``: one after the other, so that their timings are not each other's).
    Only a run with something to train gets a process.

    Args:
        config: Hydra's configuration of the sweep.
        hydra_context: its loader and callbacks.
        task_function: the application.
        slots: see `slots_of`.
        limits: what each run may take.
        preload: modules that fresh processes find imported, beyond torch, Lightning, W&B and gradhorizon itself.
    """

    def __init__(
        self,
        config: DictConfig,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        slots: int | Sequence[int | str] | None,
        limits: Limits,
        preload: Sequence[str],
    ) -> None:
        self._config, self._task_function = config, task_function
        self._hydra = HydraContext(composing_once(hydra_context.config_loader), hydra_context.callbacks)
        self._here = Here(config, self._hydra, task_function)
        self._slots, self._limits, self._preload = slots, limits, preload
        self._points: dict[int, _Point] = {}
        self._returns: dict[int, JobReturn] = {}
        self._failures: list[FailedRun] = []
        self._total = 0
        self._started_at = time.monotonic()

    def run(self, job_overrides: Sequence[Sequence[str]], first_number: int) -> list[JobReturn]:
        """What Hydra wants to know of each run, in the order of `job_overrides`.

        Args:
            job_overrides: one list a run.
            first_number: number of the first.

        Raises:
            RunError: slots that the runs cannot use.
            SystemExit: it was interrupted.
        """
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(str(self._config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        self._total = len(job_overrides)
        source = self._jobs(job_overrides, first_number)
        first = next((job for job in source if job is not None), None)
        if first is not None:
            self._train(first, source)
        return [self._returns[number] for number in range(first_number, first_number + self._total)]

    def _train(self, first: Job, others: Iterator[Job | None]) -> None:
        slots = self._chosen_slots(self._points[first.number])
        scheduler = SlotScheduler(slots, self._limits, self._context(first), self._say_start, self._take_end)
        scheduler.run(chain([first], others))
        if scheduler.is_interrupted:
            if self._failures:
                log.error("%s", failures_in_words(self._failures, self._total))
            log.error(
                "stopped after %d of %d runs; launch the same command again to go on", len(self._returns), self._total
            )
            raise SystemExit(stopping.EXIT_CODE)

    def _chosen_slots(self, point: _Point) -> list[Slot]:
        seen = _seen(point)
        try:
            slots = slots_of(self._slots, seen.device, seen.run.num_threads)
        except ConfigError as error:
            raise RunError(f"Error: {error}") from error
        places = "; ".join(f"{count} on {place}" for place, count in Counter(map(str, slots)).items())
        log.info(
            "%d run%s, %d at a time: %s; records go to %s; loading PyTorch, once for all",
            self._total,
            "s" * (self._total != 1),
            len(slots),
            places,
            seen.folder.parent,
        )
        wanted = len(slots) * seen.run.num_threads
        if wanted > num_cores():
            log.warning(
                "  note: %d slots of `num_threads`=%d want %d CPU cores, %d are there: runs will slow each other down",
                len(slots),
                seen.run.num_threads,
                wanted,
                num_cores(),
            )
        return slots

    def _context(self, first: Job) -> ForkServerContext:
        absent = [name for name in self._preload if not _is_module(name)]
        if absent:
            raise RunError(
                f"Error: `hydra.launcher.preload` must name modules that can be imported, got {', '.join(absent)}; "
                "use dotted names, and see that PYTHONPATH holds their folder"
            )
        context = multiprocessing.get_context("forkserver")
        cfg = self._points[first.number].cfg
        mirror = str(OmegaConf.select(cfg, "logger._target_", default="gradhorizon.mirrors.NoMirror"))
        context.set_forkserver_preload(["gradhorizon.sweeps.launcher.warm", mirror.rpartition(".")[0], *self._preload])
        with env_override({"OMP_NUM_THREADS": "1"}):  # else libraries start a thread per core while they are imported
            ensure_fork_server()
        return context

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first_number: int) -> Iterator[Job | None]:
        """A job for each run that has something to train, None for one that has not."""
        names = labels(job_overrides)
        for number, overrides in enumerate(job_overrides, first_number):
            cfg = self._here.composed(number, overrides)
            point = _Point(number, f"#{number} {names[number - first_number]}".rstrip(), list(overrides), cfg)
            if cfg.plan:
                self._returns[number] = self._here.run(point.cfg)
                yield None
                continue
            self._hydra.callbacks.on_job_start(config=cfg, task_function=self._task_function)
            yield self._job(point)

    def _job(self, point: _Point) -> Job | None:
        try:
            with hydra_node_of(point.cfg):
                seen = look(point.cfg)
            if not seen.todo:
                self._close(point, JobStatus.COMPLETED, None, "was finished before")
                seen.say_notes()
                settle(seen.folder)
                return None
            _refuse_index(seen.device)
            create(seen.folder)
        except Exception as error:
            log.debug("where it went wrong:", exc_info=True)
            record_without_folder(point.cfg, point.overrides, reason_of(error), traceback_of(error), "composing")
            self._fail(point, reason_of(error), None)
            return None
        self._points[point.number] = _Point(point.number, point.title, point.overrides, point.cfg, seen)
        name = JobRuntime.instance().get("name")
        return Job(
            point.number,
            point.title,
            train_run,
            (point.cfg, seen.device, name),
            key=str(seen.folder.resolve()),
            output=seen.folder / OUTPUT,
            not_retried=(ConfigError,),
        )

    def _say_start(self, job: Job, slot: Slot, attempt: int) -> None:
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._say(logging.INFO, job.title, f"starts on {slot}{again}")

    def _take_end(self, ending: Ending) -> None:
        point = self._points[ending.job.number]
        folder = _seen(point).folder
        took = format_duration(ending.wall_s)
        if ending.report.status == "stopped":
            self._say(logging.INFO, point.title, f"has committed and left after {took}")
        elif ending.report.status == "finished":
            value = ending.report.value
            words = str(value) if isinstance(value, Skipped) else f"finished in {took}"
            self._close(point, JobStatus.COMPLETED, value, words)
        else:
            record(
                folder / FAILURE,
                ending.report.reason,
                ending.report.traceback.splitlines(),
                point.overrides,
                [state.seed for state in _seen(point).todo],
                attempt=ending.attempt,
                wall_s=ending.wall_s,
            )
            if ending.is_retried:
                self._say(logging.WARNING, point.title, f"failed, to be tried again: {ending.report.reason}")
            else:
                self._fail(point, ending.report.reason, folder)

    def _fail(self, point: _Point, reason: str, folder: Path | None) -> None:
        self._failures.append(FailedRun(point.title, reason, folder))
        self._close(point, JobStatus.FAILED, RunError(f"Error: {reason}", reason, folder), f"FAILED: {reason}")

    def _close(self, point: _Point, status: JobStatus, value: Any, words: str) -> None:
        done = SmallReturn(point.cfg, status, value, str(Path.cwd()))
        self._returns[point.number] = done
        self._say(logging.ERROR if status == JobStatus.FAILED else logging.INFO, point.title, words)
        self._hydra.callbacks.on_job_end(config=point.cfg, job_return=done)

    def _say(self, level: int, title: str, words: str) -> None:
        elapsed = format_duration(time.monotonic() - self._started_at)
        log.log(level, "[%d/%d, %s] %s: %s", len(self._returns), self._total, elapsed, title, words)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # its package is not there, or it is no name at all
        return False


def _seen(point: _Point) -> Look:
    if point.seen is None:
        raise RuntimeError(f"{point.title} was started before it was looked at")
    return point.seen


def _refuse_index(device: str) -> None:
    if device.startswith("cuda:"):
        raise ConfigError(f"`device` must name no index where slots choose the GPU, got {device}; use device=cuda")
