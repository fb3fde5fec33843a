"""Runs of a sweep that only look, in this process, without the copies that Hydra makes for those that train."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from gradhorizon.sweeps.launcher.returns import KeepsReturnsSmall, SmallReturn

log = logging.getLogger(__name__)

OF_THIS_MACHINE = ("BasicLauncher", "JoblibLauncher")
"""Hydra's own launchers whose runs, too, find the devices that are found here."""


@contextmanager
def hydra_node_of(cfg: DictConfig) -> Iterator[None]:
    """Make `cfg` the configuration whose node Hydra answers with, within the context.

    Args:
        cfg: a run's configuration, Hydra's own node included.
    """
    OmegaConf.set_readonly(cfg.hydra, True)
    earlier = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = cfg  # type: ignore[assignment]
    try:
        yield
    finally:
        HydraConfig.instance().cfg = earlier


class Here:
    """Runs the points of a sweep one after the other in this process: their timings are not each other's.

    Args:
        config: Hydra's configuration of the sweep.
        hydra_context: its loader and callbacks.
        task_function: the application.
    """

    def __init__(self, config: DictConfig, hydra_context: HydraContext, task_function: TaskFunction) -> None:
        self._config, self._hydra, self._task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], first_number: int) -> list[JobReturn]:
        """What Hydra wants to know of each run.

        Args:
            job_overrides: one list a run.
            first_number: number of the first.
        """
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        returns = []
        for number, overrides in enumerate(job_overrides, first_number):
            log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
            returns.append(self.run(self.composed(number, overrides)))
        return returns

    def composed(self, number: int, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one run, numbered.

        Args:
            number: its place in the sweep.
            overrides: what it is launched with.
        """
        cfg = self._hydra.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        return cfg

    def run(self, cfg: DictConfig) -> JobReturn:
        """What came of one run.

        Args:
            cfg: its configuration, Hydra's own node included.
        """
        node = cfg.hydra
        if self._is_watched() or node.output_subdir is not None or node.job.chdir:
            done = run_job(self._task_function, cfg, "hydra.sweep.dir", "hydra.sweep.subdir", self._hydra)
            configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
            return done
        with open_dict(node.runtime):
            node.runtime.output_dir = str((Path(str(node.sweep.dir)) / str(node.sweep.subdir)).absolute())
        with hydra_node_of(cfg), env_override(OmegaConf.to_container(node.job.env_set)):  # type: ignore[arg-type]
            status, value = self._outcome(cfg)
        return SmallReturn(cfg, status, value, str(Path.cwd()))

    def _outcome(self, cfg: DictConfig) -> tuple[JobStatus, Any]:
        try:
            return JobStatus.COMPLETED, self._task_function(cfg)
        except Exception as error:  # noqa: BLE001, it ends this run alone, as under Hydra
            return JobStatus.FAILED, error

    def _is_watched(self) -> bool:
        return any(not isinstance(one, KeepsReturnsSmall) for one in self._hydra.callbacks.callbacks)
