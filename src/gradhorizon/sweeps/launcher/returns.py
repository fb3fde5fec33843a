"""What Hydra is told of each run, kept small: it keeps whole configurations until the last run is over."""

from __future__ import annotations

import logging
from typing import Any

from hydra.core.utils import JobReturn, JobRuntime, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from gradhorizon.composition.packing import Packed

log = logging.getLogger(__name__)


class SmallReturn(JobReturn):
    """What came of a run; its configuration is unpacked when somebody asks for it.

    Args:
        cfg: the run's configuration, Hydra's own node included.
        status: how the run ended.
        value: what it returned, or the exception that ended it.
        working_dir: where it ran.
    """

    def __init__(self, cfg: DictConfig, status: JobStatus, value: Any, working_dir: str) -> None:
        self._packed = Packed(cfg, is_small=True)
        self.overrides = list(OmegaConf.to_container(cfg.hydra.overrides.task))  # type: ignore[arg-type]
        self.working_dir, self.task_name = working_dir, JobRuntime.instance().get("name")
        self.status, self._return_value = status, value

    @property
    def cfg(self) -> DictConfig:  # type: ignore[override]
        """The run's own configuration."""
        whole = self._packed.opened()
        return OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])

    @property
    def hydra_cfg(self) -> DictConfig:  # type: ignore[override]
        """Hydra's own node."""
        return OmegaConf.masked_copy(self._packed.opened(), ["hydra"])


class KeepsReturnsSmall(Callback):
    """Hydra's callback that makes small what a stock launcher keeps, once all others have seen it."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Pack the configurations in place.

        Args:
            config: the run's configuration.
            job_return: what its launcher keeps of it.
        """
        if type(job_return) is not JobReturn:
            return
        try:
            packed = Packed(config, is_small=True)
        except Exception as error:  # noqa: BLE001, what cannot be pickled stays as large as it is
            log.debug("kept as it is: %s", error)
            return
        for name in ("cfg", "hydra_cfg"):
            vars(job_return).pop(name, None)
        job_return._packed = packed  # type: ignore[attr-defined]  # noqa: SLF001
        job_return.__class__ = SmallReturn
