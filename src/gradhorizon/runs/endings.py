"""How a launch ends that did not finish: a mark on the disk, a line in place, and what Hydra then says."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gradhorizon.config import ConfigError, runs_root
from gradhorizon.machine import stopping
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import write_json
from gradhorizon.records.layout import FAILURE, LOG
from gradhorizon.runs import asked
from gradhorizon.runs.failures import content_of, last_lines
from gradhorizon.runs.locks import MemberHeldError, other_owner
from gradhorizon.runs.log import log_file
from gradhorizon.runs.results import RunError, Skipped
from gradhorizon.runs.summary import mark_failed
from gradhorizon.terminal.reasons import RunFailedError, attach, attached, reason_of, traceback_of

log = logging.getLogger(__name__)

_LAST_LINES = 20


def is_interruption(error: BaseException) -> bool:
    """Whether `error` says that somebody wants a run to go on another time, not that it broke."""
    # Lightning answers Ctrl-C with an exit of its own.
    is_ctrl_c = isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    return is_ctrl_c or isinstance(error, KeyboardInterrupt | stopping.Stopped | MemberHeldError)


@contextmanager
def marked(folder: Path, seeds: Collection[int]) -> Iterator[None]:
    """Leave a mark in the run's folder if what is done within breaks, by whatever was raised.

    A configuration that a single run refuses before it has a folder leaves nothing: whoever typed it is told.

    Args:
        folder: the run's folder, made where it is missing.
        seeds: members that are trained.

    Raises:
        RunFailedError: it had started, or something else than a configuration or the records was wrong.
        KeyboardInterrupt: Lightning has made an exit of it.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and is_interruption(error) and not isinstance(error, stopping.Stopped):
            raise KeyboardInterrupt from None
        if is_interruption(error) or (isinstance(error, ConfigError) and not (_is_sweep() or folder.exists())):
            raise
        _mark(folder, seeds, error)
        attach(error, "folder", folder)
        if isinstance(error, ConfigError | RecordsError) and not attached(error, "has_started"):
            raise
        where = f"; its traceback is in {folder / LOG}"
        broken = RunFailedError(f"{folder.name} failed: {reason_of(error)}{where}")
        attach(broken, "folder", folder)
        attach(broken, "reason", reason_of(error))
        raise broken from error


def _is_left_to_another(folder: Path, seeds: Collection[int]) -> bool:
    owner = other_owner(folder, seeds)
    if owner is not None:
        log.warning("  that it failed is not written to %s: %s is at it now", folder.name, owner.words())
    return owner is not None


def _mark(folder: Path, seeds: Collection[int], error: BaseException) -> None:
    if _is_left_to_another(folder, seeds):
        return
    lines = traceback_of(error)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not attached(error, "is_logged"):
        with suppress(BaseException), log_file(folder / LOG):
            raise error
    phase = attached(error, "phase") or "starting"
    record(folder / FAILURE, reason_of(error), lines, _overrides(), seeds, phase=phase)


def record(
    path: Path, reason: str, lines: Sequence[str], overrides: Sequence[str], seeds: Collection[int], **facts: Any
) -> None:
    """Write why a run failed; a ``run.json`` beside it that still says running then says failed.

    Nothing is written where another process is at one of the members by now.

    Args:
        path: `FAILURE` in the run's folder, which is made where it is missing; or what stands for it where a run
            never had a folder.
        reason: why it failed, in one line.
        lines: its traceback.
        overrides: what it was launched with.
        seeds: members that it was to train.
        facts: what else is known; what was written before of the same failure is kept.
    """
    if _is_left_to_another(path.parent, seeds):
        return
    earlier = content_of(path)
    content = {
        **(earlier if earlier.get("reason") == reason else {}),
        "reason": reason,
        "overrides": list(overrides),
        "seeds": sorted(seeds),
        "last_lines": last_lines(path.with_name(LOG))[-_LAST_LINES:],
        "failed_at_s": time.time(),
        **facts,
    }
    content["traceback"] = list(lines) or content.get("traceback", [])
    try:
        write_json(content, path)
        mark_failed(path.parent)
    except RecordsError as error:  # the disk may be full, which may be why it failed; other runs go on
        log.warning("  %s", error)


def record_without_folder(
    cfg: DictConfig, overrides: Sequence[str], reason: str, lines: Sequence[str], phase: str
) -> None:
    """Write in a sweep's record why a run of it failed before it had a folder.

    Args:
        cfg: its composed configuration, which may be what is wrong.
        overrides: what it was launched with.
        reason: in one line.
        lines: the traceback.
        phase: what was being done.
    """
    with suppress(Exception):  # where nobody knows in which experiment, its line in place must do
        path = asked.failure_path(runs_root(cfg.runs_dir) / cfg.experiment_name, overrides)
        if path.parent.is_dir() and not cfg.plan:
            record(path, reason, lines, asked.own_overrides(overrides), (), phase=phase)


def forget_without_folder(experiment: Path) -> None:
    """Remove what `record_without_folder` has written of the run that is launched: it has a folder now.

    Args:
        experiment: the experiment's folder.
    """
    with suppress(OSError):
        asked.failure_path(experiment, _overrides()).unlink(missing_ok=True)


def told(error: BaseException, cfg: DictConfig) -> Skipped:
    """Say in place why a launch has ended, and mark it in its sweep's record if it never had a folder.

    Args:
        error: why.
        cfg: the composed configuration.

    Returns:
        That the run was skipped, if it was: in a sweep, others may be at it.

    Raises:
        RunError: it was not skipped.
        SystemExit: it was no run of a sweep, and Python prints why.
    """
    log.debug("where it went wrong:", exc_info=error)
    folder = attached(error, "folder")
    reason = attached(error, "reason") or reason_of(error)
    if _is_sweep():
        if isinstance(error, MemberHeldError):
            log.warning("  skipped: %s", error)
            return Skipped(str(error))
        if folder is None:
            phase = attached(error, "phase") or "composing"
            record_without_folder(cfg, _overrides(), reason, traceback_of(error), phase)
        # Its place in the sweep first: under some launchers, lines of several runs mingle.
        log.error("  #%s FAILED: %s", HydraConfig.get().job.num, reason)
    is_plain = folder is not None or isinstance(error, ConfigError | RecordsError)
    where = "" if is_plain else "; hydra.verbose=true shows where"
    refusal = RunError(f"Error: {reason_of(error)}{where}", reason, folder)
    refusal.__cause__ = error
    if _is_sweep():
        raise refusal
    if isinstance(error, MemberHeldError):
        sys.stderr.write(f"{refusal}\n")
        raise SystemExit(stopping.EXIT_CODE) from refusal
    raise SystemExit(str(refusal)) from refusal  # of a RunError, Hydra would first print all overrides


def _is_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _overrides() -> list[str]:
    if not HydraConfig.initialized():
        return []
    # As they were written: an interpolation in one of them may be what is wrong.
    raw: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(item) for item in raw]
