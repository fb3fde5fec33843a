"""Hydra's basic sweeper, which refuses what nothing reads before the first run of a sweep is launched.

No ``from __future__ import annotations``: Hydra executes the module before it is known by name, which dataclasses need.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore


@dataclass
class CheckedSweeperConf(BasicSweeperConf):
    """Arguments of `CheckedSweeper`: those of Hydra's own."""

    _target_: str = "hydra_plugins.gradhorizon_local.checked_sweeper.CheckedSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="checked", node=CheckedSweeperConf, provider="gradhorizon")


class CheckedSweeper(BasicSweeper):
    """Every combination of the values on the command line, under whichever launcher, each key of them known."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose every run, as Hydra's own does, and hold its keys against what reads them.

        Args:
            batch: one list of overrides a run.

        Raises:
            RunError: a key that nothing reads.
        """
        from gradhorizon.config import ConfigError  # noqa: PLC0415, other applications only scan this module
        from gradhorizon.keys import check_keys  # noqa: PLC0415
        from gradhorizon.train import RunError  # noqa: PLC0415

        loader = self.hydra_context.config_loader  # type: ignore[union-attr]
        for overrides in batch:
            try:
                check_keys(loader.load_sweep_config(self.config, list(overrides)))  # type: ignore[arg-type]
            except ConfigError as error:
                raise RunError(f"Error: {error}") from error
