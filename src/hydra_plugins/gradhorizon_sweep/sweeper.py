"""The plug-in: what Hydra finds, imports at every start (so nothing heavy here), and asks to sweep.

No ``from __future__ import annotations``: Hydra executes the module before it is known by name, which dataclasses need.
"""

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class GradhorizonSweeperConf(BasicSweeperConf):
    """Arguments of `GradhorizonSweeper`, which are those of Hydra's own."""

    _target_: str = "hydra_plugins.gradhorizon_sweep.sweeper.GradhorizonSweeper"


ConfigStore.instance().store(
    group="hydra/sweeper", name="gradhorizon", node=GradhorizonSweeperConf, provider="gradhorizon"
)


class GradhorizonSweeper(BasicSweeper):
    """Hydra's own grid of runs, which is written down before it starts and summed up when it is over.

    Under every launcher: what its runs have come to is handed back here, and to no callback.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over.

        Args:
            hydra_context: its loader and callbacks.
            task_function: the application.
            config: Hydra's configuration of the sweep.
        """
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._task_function = task_function

    def sweep(self, arguments: list[str]) -> Any:
        """What came of each run, batch by batch.

        Args:
            arguments: overrides, some with several values.
        """
        # Other applications only scan this module.
        from gradhorizon.composition.composing import composing_once  # noqa: PLC0415
        from gradhorizon.sweeps import sweeper  # noqa: PLC0415
        from gradhorizon.sweeps.hydra_folder import own_hydra_folder  # noqa: PLC0415
        from gradhorizon.sweeps.launcher.here import OF_THIS_MACHINE, Here  # noqa: PLC0415
        from gradhorizon.sweeps.launcher.returns import KeepsReturnsSmall  # noqa: PLC0415

        if self.config is None or self.hydra_context is None or self.launcher is None:
            raise RuntimeError("a sweeper must be set up before it sweeps")
        config, context, launcher = self.config, self.hydra_context, self.launcher
        # The launcher has the same context: whatever it composes in this process is composed once, too.
        context.config_loader = composing_once(context.config_loader)
        context.callbacks.callbacks.insert(0, KeepsReturnsSmall())  # when a run is over, the first is asked last
        parser = OverridesParser.create(config_loader=context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        with own_hydra_folder(config):
            here = Here(config, context, self._task_function)
            return sweeper.sweep(
                self.split_arguments(parsed, self.max_batch_size),
                lambda overrides: context.config_loader.load_sweep_config(config, overrides),
                lambda batch, first: launcher.launch(batch, initial_job_idx=first),
                plan=here.launch if type(launcher).__name__ in OF_THIS_MACHINE else None,
            )
