"""The run's own files: ``config.yaml``, written once, and ``run.json``, which says what ran and how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gradhorizon import runs
from gradhorizon.config import RunConfig
from gradhorizon.failures import forgive
from gradhorizon.parts import Parts
from gradhorizon.records.files import (
    DamagedFileError,
    put_aside,
    remove_orphans,
    write_atomically,
    write_json,
)
from gradhorizon.records.layout import CONFIG, RUN_SHEET
from gradhorizon.records.seals import sealed_text
from gradhorizon.records.sheets import look_at_run_sheet
from gradhorizon.variants import variant

log = logging.getLogger(__name__)


class RunSheet:
    """The run's own files, ``config.yaml`` and ``run.json``.

    Args:
        cfg: the composed configuration.
        run: its root.
        parts: what the configuration describes.
        folder: the run's folder.
        identity: the run's identity.
        facts: what is true of this launch.
        seeds: members that this launch trains.
    """

    def __init__(
        self,
        cfg: DictConfig,
        run: RunConfig,
        parts: Parts,
        folder: Path,
        identity: str,
        facts: dict[str, Any],
        seeds: list[int],
    ) -> None:
        self.folder = folder
        self.started_at = time.time()
        self._start = time.monotonic()  # the clock of `started_at` may jump
        self.content: dict[str, Any] = {
            "experiment": run.experiment_name,
            "run": folder.name,
            "identity": identity,
            "variant": variant(HydraConfig.get().overrides.task if HydraConfig.initialized() else []),
            "results_version": runs.RESULTS_VERSION,
            "model": run.model["label"],
            "color": run.model.get("color"),
            "marker": run.model.get("marker"),
            "task": parts.task_name,
            "seq_len": parts.task.seq_len,
            "input_len": parts.task.input_len,
            "chance": dict(parts.task.chance),
            "solved_levels": dict(parts.task.solved_levels),
            "num_parameters": parts.num_parameters,
            "hidden_size": run.hidden_size,
            "num_steps": run.num_steps,
            "clip_norm": run.clip_norm,
        }
        self.facts = facts
        self.seeds = seeds
        self.earlier = self._earlier_launches()
        if not (folder / CONFIG).exists():
            own = OmegaConf.masked_copy(cfg, list(vars(run)))
            write_atomically(sealed_text(OmegaConf.to_yaml(own, resolve=True)), folder / CONFIG)

    def write(self, status: str, measuring_s: Mapping[str, float]) -> dict[str, Any]:
        """Write ``run.json``; returns the outcomes of all members on disk, by seed.

        Args:
            status: running, finished or failed.
            measuring_s: table -> seconds that this launch has spent on measuring it.
        """
        outcomes = runs.outcomes(self.folder)
        if status != "failed":
            forgive(self.folder, {*self.seeds, *runs.finished_seeds(outcomes)})
        if status != "failed":
            status = "finished" if runs.is_finished(self.folder, outcomes) else "running"
        timing = {"started_at_s": self.started_at, "wall_s": self.wall_s,
                  "measuring_s": dict(measuring_s)}  # fmt: skip
        this_launch = {"seeds": self.seeds, **self.facts, **timing}
        write_json(
            {**self.content, "status": status, "outcomes": outcomes, "launches": [*self.earlier, this_launch]},
            self.folder / RUN_SHEET,
        )
        remove_orphans(self.folder)
        return outcomes

    @property
    def wall_s(self) -> float:
        """Seconds that this launch has taken so far."""
        return time.monotonic() - self._start

    def _earlier_launches(self) -> list[dict[str, Any]]:
        try:
            return look_at_run_sheet(self.folder)[0].get("launches", [])
        except DamagedFileError as error:
            log.warning("  %s; it is set aside, and written anew", error.fact)
            put_aside(self.folder / RUN_SHEET)
            return []
