"""A sweep's run inside its fresh process."""

from __future__ import annotations

import os
from typing import Any, cast

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from gradhorizon.composition.composing import HYDRA_BASE
from gradhorizon.config import ConfigError
from gradhorizon.runs.results import RunError
from gradhorizon.sweeps import launch
from gradhorizon.terminal.reasons import RunFailedError
from gradhorizon.training.devices import resolve_device


def train_run(cfg: DictConfig, device: str, job_name: str) -> Any:
    """What the run returns.

    Args:
        cfg: its composed configuration, Hydra's own node included.
        device: the device that the launcher has found for it, by which it knows the run's folder.
        job_name: Hydra's name of the application.

    Raises:
        ConfigError: the slot has no such device, or the configuration cannot run.
        Exception: whatever the run raises.
    """
    os.environ["OMP_NUM_THREADS"] = str(cfg.num_threads)  # for what it may start itself; torch is told by the run
    version.setbase(HYDRA_BASE)
    setup_globals()
    JobRuntime.instance().set("name", job_name)
    found = resolve_device(cfg.device)
    if found != device:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ConfigError(
            f"`hydra.launcher.slots` must be ids of GPUs that are there, got {gpu}: `device`={cfg.device} means {found}"
        )
    # Callbacks are the launcher's: what they add up would be lost with this process.
    context = HydraContext(config_loader=cast("ConfigLoader", None), callbacks=Callbacks())
    done = run_job(launch.run, cfg, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    if done.status == JobStatus.FAILED:
        error: BaseException = done._return_value  # noqa: SLF001, the property would write to standard error
        while isinstance(error, RunError | RunFailedError) and error.__cause__ is not None:
            error = error.__cause__
        raise error
    return done.return_value
