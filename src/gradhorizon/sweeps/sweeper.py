"""A sweep under any launcher: composed as a whole first, written down, launched, and summed up from what came back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from gradhorizon.composition.keys import check_keys
from gradhorizon.composition.sizes import refuse_members
from gradhorizon.config import ConfigError, runs_root, validate
from gradhorizon.machine import stopping
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import write_json
from gradhorizon.runs import asked
from gradhorizon.runs.asked import AskedRun
from gradhorizon.runs.identity import identity_of, readable_name
from gradhorizon.runs.results import FailedRun, Plan, RunError, Skipped, failures_in_words, labels, total
from gradhorizon.runs.task_names import task_name
from gradhorizon.terminal.reasons import reason_of

log = logging.getLogger(__name__)

Compose = Callable[[list[str]], DictConfig]
Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
"""Overrides of each run, and the number of the first -> what came of each."""

_DEVICES = ("cpu", "cuda", "mps")
_MOST_SEEDS = 10_000  # that are written down of a run whose configuration is wrong


def sweep(
    batches: Sequence[Sequence[Sequence[str]]], compose: Compose, launch: Launch, plan: Launch | None = None
) -> Any:
    """What came of each run, batch by batch.

    A run that breaks ends neither its batch nor the ones after it.

    Args:
        batches: overrides of each run, in groups that are launched one after the other.
        compose: overrides -> the run's configuration.
        launch: launches a batch.
        plan: launches one where every run is a plan; None: as any other.

    Raises:
        RunError: runs failed.
        SystemExit: runs were left to other processes.
        Exception: a run cannot be composed; then none is launched.
    """
    everything = list(chain.from_iterable(batches))
    if _write_down(everything, compose) and plan is not None:
        launch = plan
    returns: list[Sequence[JobReturn]] = []
    for batch in batches:
        try:
            returns.append(launch(batch, sum(map(len, returns))))
        except RunError:
            raise
        except Exception as error:
            log.debug("where it went wrong:", exc_info=True)
            raise RunError(
                f"Error: the launcher broke, and has lost sight of its runs: {reason_of(error)}; "
                "gradhorizon-status says how each one stands, and the same command goes on with what is left"
            ) from error
    _conclude(list(chain.from_iterable(returns)), titles(everything))
    return returns


def titles(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """Number of each run of a sweep, and what tells it from the others.

    Args:
        job_overrides: one list a run.

    Example:
        >>> titles([["model=gru", "seed=0"], ["model=lstm", "seed=0"]])
        ['#0 model=gru', '#1 model=lstm']
    """
    return [f"#{number} {label}".rstrip() for number, label in enumerate(labels(job_overrides))]


def _write_down(job_overrides: Sequence[Sequence[str]], compose: Compose) -> bool:
    """Keep what a sweep asks for where its runs will lie; returns whether none of them is to be trained."""
    is_plan = True
    found: dict[Path, list[AskedRun]] = {}
    for title, overrides in zip(labels(job_overrides), job_overrides, strict=True):
        cfg = compose(list(overrides))
        try:
            check_keys(cfg)
        except ConfigError as error:  # what nothing reads would be trained without it
            raise RunError(f"Error: {error}") from error
        is_plan = is_plan and _known(cfg, "plan", bool) is True
        with suppress(Exception):  # where even these cannot be resolved, nobody knows where to write
            experiment = runs_root(cfg.runs_dir) / cfg.experiment_name
            if not cfg.plan:
                found.setdefault(experiment, []).append(asked_run(cfg, title, overrides))
    for experiment, own in found.items():
        _write_record(asked.record_path(experiment, own), own)
    return is_plan


def _write_record(path: Path, own: Sequence[AskedRun]) -> None:
    try:
        if not path.exists():
            write_json({"schema": 1, "asked_at_s": time.time(), "runs": [asdict(run) for run in own]}, path)
    except (OSError, RecordsError) as error:
        log.warning("  note: what this sweep asks for is not written down: %s", error)


def asked_run(cfg: DictConfig, title: str, overrides: Sequence[str]) -> AskedRun:
    """What is written down of one run of a sweep.

    Args:
        cfg: its composed configuration, which may be wrong.
        title: what tells it from others of its sweep.
        overrides: what it is launched with.
    """
    key, own = asked.key_of(overrides), asked.own_overrides(overrides)
    first, num = _known(cfg, "seed", int) or 0, _known(cfg, "num_seeds", int) or 1
    seeds = list(range(max(first, 0), max(first, 0) + min(max(num, 1), _MOST_SEEDS)))
    try:
        run = validate(cfg)
        task = task_name(run)
        refuse_members(run, run.num_seeds)
    except (ConfigError, IndexError):
        model, seq_len = _known(cfg, "model.label", str), _known(cfg, "seq_len", int)
        return AskedRun(key, title, own, [], title or key, seeds, model=model, seq_len=seq_len)
    # A job may run where other devices are than here.
    kinds = _DEVICES if run.device == "auto" else (run.device,)
    identities = [identity_of(run, kind) for kind in kinds]
    name = f"{readable_name(run, task, overrides)}-{identities[0]}"
    seeds = list(range(run.seed, run.seed + run.num_seeds))
    return AskedRun(key, title, own, identities, name, seeds, str(run.model["label"]), task, run.seq_len, run.num_steps)


def _known(cfg: DictConfig, key: str, kind: type) -> Any:
    with suppress(Exception):
        value = OmegaConf.select(cfg, key)
        return value if isinstance(value, kind) else None
    return None


def failed_runs(returns: Sequence[JobReturn], names: Sequence[str]) -> Iterator[FailedRun]:
    """Runs that failed, of those that came back.

    Args:
        returns: what came of each run.
        names: their titles.
    """
    for done, title in zip(returns, names, strict=True):
        if done.status == JobStatus.FAILED:
            error = cast("BaseException", done._return_value)  # noqa: SLF001, the property would raise it
            reason, folder = (error.reason, error.folder) if isinstance(error, RunError) else ("", None)
            yield FailedRun(title, reason or reason_of(error), folder)


def _conclude(returns: Sequence[JobReturn], names: Sequence[str]) -> None:
    values = [done.return_value for done in returns if done.status == JobStatus.COMPLETED]
    plans = [value for value in values if isinstance(value, Plan)]
    if plans:
        log.info("%s", total(plans))
    failed = list(failed_runs(returns, names))
    if failed:
        log.error("%s", failures_in_words(failed, len(returns)))
        raise RunError(f"Error: {len(failed)} of {len(returns)} runs failed, as listed above")
    num_skipped = sum(isinstance(value, Skipped) for value in values)
    if num_skipped:
        log.warning(
            "%d of %d runs skipped: other processes are at them, as said above; the same command skips what "
            "they finish, and goes on with what they leave",
            num_skipped,
            len(returns),
        )
        raise SystemExit(stopping.EXIT_CODE)
