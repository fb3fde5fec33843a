"""Runs folders with known truth, written through `gradhorizon.records` as a training run writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.measurements.parameter_gradients import ParameterGradients
from gradhorizon.records.files import write_json
from gradhorizon.records.tables import METRICS, Table
from gradhorizon.records.writing import MemberRecords

INPUT_GRADIENTS = InputGradients.table
PARAMETER_GRADIENTS = ParameterGradients.table
Profile = Callable[[np.ndarray], np.ndarray]


def config_of(
    cell: str, initialization: str, model: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, Any]:
    """A configuration as a launch resolves it, as far as analysis reads it.

    Args:
        cell: import path below ``gradhorizon.cells``.
        initialization: the same.
        model: further keys of the model.
        settings: arguments of the initialisation; a ``nonlinearity`` goes to the cell.
    """
    of_cell = {"nonlinearity": settings.pop("nonlinearity")} if "nonlinearity" in settings else {}
    built = {"_target_": f"gradhorizon.cells.{initialization}", "_partial_": True, **settings}
    node = {"_target_": f"gradhorizon.cells.{cell}", "_partial_": True, "hidden_size": 64, "initialization": built}
    readout = {"_target_": "gradhorizon.readouts.StateReadout", "_partial_": True}
    return {
        "num_layers": 1,
        "model": {"cell": node | of_cell, "bidirectional": False, "readout": readout, **(model or {})},
    }


def exponential(rate: float) -> Profile:
    """g(τ) = exp(rate · τ)."""
    return lambda lags: np.exp(rate * lags)


@dataclass(frozen=True)
class SyntheticRun:
    """One run: what its members measured and how they ended.

    Attributes:
        init: relative profile at step 0, or one per seed.
        trained: relative profile at the end, or one per seed.
        untold: what else makes its identity differ, which no recorded field tells.
        config: what config.yaml says, which makes its identity differ too; None for no such file.
        outcomes: one per seed: a step (solved then), None (budget exhausted), "diverged", "running" or "failed".
    """

    model: str = "lstm"
    task: str = "copy_arjovsky2016"
    seq_len: int = 50
    input_len: int = 70
    init: Profile | Sequence[Profile] = field(default_factory=lambda: exponential(-0.5))
    trained: Profile | Sequence[Profile] = field(default_factory=lambda: exponential(-0.01))
    outcomes: Sequence[int | str | None] = (400, 600, None)
    first_seed: int = 0
    color: str | None = "#0072B2"
    marker: str | None = "o"
    num_steps: int = 1000
    clip_norm: float | None = 1.0
    hidden_size: int = 64
    num_parameters: int = 17_000
    chance: Mapping[str, float] = field(default_factory=lambda: {"loss": 0.30, "accuracy": 0.125})
    solved_levels: Mapping[str, float] = field(default_factory=lambda: {"accuracy": 0.99})
    tables: Sequence[str] = ("metrics", "input_gradients", "parameter_gradients")
    experiment: str = "synthetic"
    results_version: int = 1
    untold: str = ""
    config: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Folder name."""
        return f"{self.model}-{self.task}-T{self.seq_len}-{self.identity}".replace("/", "_")

    @property
    def identity(self) -> str:
        """Ten hexadecimal digits."""
        key = f"{self.model}{self.task}{self.seq_len}{self.hidden_size}{self.clip_norm}{self.num_steps}{self.untold}"
        key += "" if self.config is None else json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(key.encode()).hexdigest()[:10]

    def write(self, root: Path) -> Path:
        """The run's folder below `root`, with run.json, member.json and records."""
        folder = root / self.experiment / self.name
        write_json(self._run_json(), folder / "run.json")
        if self.config is not None:
            (folder / "config.yaml").write_text(
                OmegaConf.to_yaml(OmegaConf.create(dict(self.config))), encoding="utf-8"
            )
        for index, outcome in enumerate(self.outcomes):
            self._write_member(folder / f"seed-{self.first_seed + index}", index, outcome)
        return folder

    def _run_json(self) -> dict[str, Any]:
        copied = (
            "experiment",
            "model",
            "task",
            "seq_len",
            "input_len",
            "color",
            "marker",
            "num_parameters",
            "hidden_size",
            "num_steps",
            "clip_norm",
            "results_version",
        )
        return {
            **{name: getattr(self, name) for name in copied},
            "run": self.name,
            "identity": self.identity,
            "chance": dict(self.chance),
            "solved_levels": dict(self.solved_levels),
            "status": next((one for one in ("failed", "running") if one in self.outcomes), "finished"),
        }

    def _write_member(self, folder: Path, index: int, outcome: int | str | None) -> None:
        seed = self.first_seed + index
        lead = {name: getattr(self, name) for name in ("experiment", "model", "task", "seq_len", "input_len")}
        records = MemberRecords(folder, {**lead, "run": self.name, "seed": seed})
        last_step = outcome if isinstance(outcome, int) else 300 if isinstance(outcome, str) else self.num_steps
        phase = "solved" if isinstance(outcome, int) else {"diverged": "diverged", None: "last"}.get(outcome, "train")
        generator = np.random.default_rng([seed, *self.model.encode()])
        self._append_gradients(records, index, 0, "init")
        self._append_gradients(records, index, last_step, phase)
        self._append_curves(records, generator, last_step, phase, outcome)
        records.merge()
        write_json({**self._member_json(seed, outcome, last_step), **records.listing.plain}, folder / "member.json")

    def _append_gradients(self, records: MemberRecords, index: int, step: int, phase: str) -> None:
        if "input_gradients" not in self.tables:
            return
        choice = self.init if step == 0 else self.trained
        profile = choice if callable(choice) else choice[index]
        lags = np.arange(self.input_len - 1, -1, -1)
        norms = profile(lags.astype(float))
        t = self.input_len - lags
        known = {"t": t, "lag": lags, "lag_from_start": t - 1}
        norm_names = [column.name for column in INPUT_GRADIENTS.columns if "gradient_norm" in column.name]
        frame = pd.DataFrame({**known, **dict.fromkeys(norm_names, norms)})
        records.append(INPUT_GRADIENTS, _with_counts(INPUT_GRADIENTS, frame), step, phase)

    def _append_curves(
        self, records: MemberRecords, generator: np.random.Generator, last_step: int, phase: str, outcome: object
    ) -> None:
        for step in [*range(0, last_step, 50), last_step]:
            row_phase = "init" if step == 0 else phase if step == last_step else "train"
            progress = step / last_step if isinstance(outcome, int) else 0.15 * step / self.num_steps
            if "metrics" in self.tables:
                records.append(METRICS, self._metrics(progress, generator), step, row_phase)
            if "parameter_gradients" in self.tables:
                records.append(PARAMETER_GRADIENTS, _parameter_gradients(generator, self.clip_norm), step, row_phase)

    def _metrics(self, progress: float, generator: np.random.Generator) -> pd.DataFrame:
        noise = 1 + 0.04 * generator.standard_normal()
        loss = self.chance["loss"] * (1 - 0.995 * progress**2) * noise
        accuracy = min(self.chance.get("accuracy", 0.0) + (1 - self.chance.get("accuracy", 0.0)) * progress**2, 1.0)
        rows = [
            (split, metric, value)
            for split in ("train", "validation")
            for metric, value in (("loss", loss), ("accuracy", accuracy))
        ]
        return pd.DataFrame(rows, columns=["split", "metric", "value"])

    def _member_json(self, seed: int, outcome: int | str | None, last_step: int) -> dict[str, Any]:
        unfinished = outcome in {"running", "failed"}
        kind = "solved" if isinstance(outcome, int) else outcome or "budget exhausted"
        launch = {
            "versions": {"torch": "2.13.0", "python": "3.11"},
            "commit": "ea5761f",
            "device": "cpu",
            "precision": "32",
            "num_threads": 1,
        }
        return {
            "seed": seed,
            "status": "running" if unfinished else "finished",
            "outcome": None if unfinished else kind,
            "outcome_step": None if unfinished else last_step,
            "step": last_step,
            "launch": launch,
        }


def _parameter_gradients(generator: np.random.Generator, clip_norm: float | None) -> pd.DataFrame:
    norm = float(np.exp(0.3 * generator.standard_normal()))
    clipped = min(norm, clip_norm) if clip_norm else norm
    row = {"parameter": "total", "norm_unclipped": norm, "norm_clipped": clipped}
    return _with_counts(PARAMETER_GRADIENTS, pd.DataFrame([row | {"clip_fraction": float(clipped < norm)}]))


def _with_counts(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with 0 in every column of `table` that no analysis reads."""
    return frame.assign(**{column.name: 0 for column in table.columns if column.name not in frame})
