"""The run's own files: ``config.yaml``, written once, and ``run.json``, which says what ran and how it ended."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gradhorizon.composition.variants import variant
from gradhorizon.records.files import remove_orphans, write_atomically
from gradhorizon.records.guards import check_owned
from gradhorizon.records.layout import CONFIG, RUN_SHEET
from gradhorizon.records.listing import FILES
from gradhorizon.records.plain import open_file
from gradhorizon.records.seals import Entry, sealed_text
from gradhorizon.runs.failures import forgive
from gradhorizon.runs.identity import RESULTS_VERSION
from gradhorizon.runs.look import Look
from gradhorizon.runs.members import finished_seeds, outcomes_of
from gradhorizon.runs.summary import run_sheet_locked, summarize
from gradhorizon.training.build import Setup


class RunFiles:
    """The run's own files, ``config.yaml`` and ``run.json``.

    Args:
        cfg: the composed configuration.
        seen: what the launch has found.
        setup: what the configuration describes.
        seeds: members that this launch trains.
    """

    def __init__(self, cfg: DictConfig, seen: Look, setup: Setup, seeds: list[int]) -> None:
        run, folder = seen.run, seen.folder
        self.folder = folder
        self.content: dict[str, Any] = {
            "experiment": run.experiment_name,
            "run": folder.name,
            "identity": seen.identity,
            "variant": variant(HydraConfig.get().overrides.task if HydraConfig.initialized() else []),
            "results_version": RESULTS_VERSION,
            "model": run.model["label"],
            "color": run.model.get("color"),
            "marker": run.model.get("marker"),
            "task": setup.task_name,
            "seq_len": setup.task.seq_len,
            "input_len": setup.task.input_len,
            "chance": dict(setup.task.chance),
            "solved_levels": dict(setup.task.solved_levels),
            "num_parameters": setup.num_parameters,
            "hidden_size": run.hidden_size,
            "num_steps": run.num_steps,
            "clip_norm": run.clip_norm,
        }
        self.seeds = seeds
        with run_sheet_locked(folder):
            if not (folder / CONFIG).exists():
                own = OmegaConf.masked_copy(cfg, list(vars(run)))
                write_atomically(sealed_text(OmegaConf.to_yaml(own, resolve=True)), folder / CONFIG)
        with open_file(folder / CONFIG) as file:
            self.content[FILES] = {CONFIG: Entry.of(file.read()).plain}

    def write(self, status: str) -> dict[str, Any]:
        """Write ``run.json``; returns the outcomes of all members on disk, by seed.

        Args:
            status: running, finished or failed.

        Raises:
            MemberHeldError: a member of this launch is no longer its own; nothing is written.
            RecordsError: it cannot be written.
        """
        check_owned(self.folder / RUN_SHEET)
        if status != "failed":
            forgive(self.folder, {*self.seeds, *finished_seeds(outcomes_of(self.folder))})
        outcomes = summarize(self.folder, self.content, status, self.seeds)
        remove_orphans(self.folder)
        return outcomes
