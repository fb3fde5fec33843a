"""The plug-in: what Hydra finds, imports at every start (so nothing heavy here), and asks to launch.

No ``from __future__ import annotations``: Hydra executes the module before it is known by name, which dataclasses need.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class LocalLauncherConf:
    """Arguments of `LocalLauncher`."""

    _target_: str = "hydra_plugins.gradhorizon_local.local_launcher.LocalLauncher"
    slots: Any = None
    retries: int = 0
    time_limit_s: float | None = None
    memory_limit_gib: float | None = None
    grace_s: float = 60.0
    preload: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="gradhorizon")


class LocalLauncher(Launcher):
    """Runs a sweep on one machine: a fresh process per run, one run per slot, whatever becomes of the others.

    Threads are ``num_threads`` of each run, never changed here, because they can change a sum's last bits; the default
    number of slots is what the cores can feed.

    Args:
        slots: GPU ids (``[0,1]``; ``[0,0,1,1]`` packs two runs on each), CPU groups (``['cpu:0-3','cpu:4-7']``) that
            runs are pinned to, or a number of slots on the CPU; null: one per visible GPU, on the CPU cores over
            `num_threads`.
        retries: times that a failed run is tried again, after all others; it goes on from its last commit.
        time_limit_s: seconds per run and attempt; beyond, it is asked to commit and leave, and counts as failed.
        memory_limit_gib: resident memory per run, GiB, with what it shares (about 0.5 GiB); beyond, it is killed.
        grace_s: seconds between being asked to leave and being killed.
        preload: further modules that fresh processes find imported, such as those of an external cell.
    """

    def __init__(
        self,
        slots: Any = None,
        retries: int = 0,
        time_limit_s: float | None = None,
        memory_limit_gib: float | None = None,
        grace_s: float = 60.0,
        preload: Sequence[str] = (),
    ) -> None:
        self._slots: Any = OmegaConf.to_container(slots) if OmegaConf.is_config(slots) else slots
        self._limits = (retries, time_limit_s, memory_limit_gib, grace_s)
        self._preload = list(preload)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over.

        Args:
            hydra_context: its loader and callbacks.
            task_function: the application.
            config: Hydra's configuration of the sweep.
        """
        self._hydra_context, self._task_function, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What Hydra wants to know of each run.

        Args:
            job_overrides: one list a run.
            initial_job_idx: number of the first.
        """
        from gradhorizon.config import ConfigError  # noqa: PLC0415, other applications only scan this module
        from gradhorizon.runs.results import RunError  # noqa: PLC0415
        from gradhorizon.sweeps.launcher.local import LocalSweep  # noqa: PLC0415
        from gradhorizon.sweeps.launcher.scheduler import Limits  # noqa: PLC0415

        try:
            limits = Limits(*self._limits)
        except ConfigError as error:
            raise RunError(f"Error: {error}") from error
        sweep = LocalSweep(self._config, self._hydra_context, self._task_function, self._slots, limits, self._preload)
        return sweep.run(job_overrides, initial_job_idx)
