"""Runs whose members recorded given spectra, written as a training run writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from gradhorizon.records.parquet import write_parquet
from gradhorizon.records.tables import Table
from tests.records_on_disk import list_as_found
from tests.synthetic_runs import SyntheticRun

LATER = 99.0
"""Exponent recorded after training, which a study of initialisation must not see."""


def write_spectra(
    root: Path,
    spectra: Mapping[Table, Sequence[Sequence[float]]],
    config: Mapping[str, Any] | None = None,
    state_size: int | None = None,
    **values: float,
) -> Path:
    """One run; `spectra` holds one spectrum per seed for each table, and `values` fills further columns.

    The configuration's dotted paths are expanded; without any, no ``config.yaml`` is written.
    """
    num_seeds = len(next(iter(spectra.values())))
    run = SyntheticRun(outcomes=(None,) * num_seeds, tables=(), untold=str((config, state_size, spectra)))
    folder = run.write(root)
    for key, value in (config or {}).items():
        node = OmegaConf.load(folder / "config.yaml") if (folder / "config.yaml").is_file() else OmegaConf.create()
        OmegaConf.update(node, key, value)
        OmegaConf.save(node, folder / "config.yaml")
    for table, of_seeds in spectra.items():
        for seed, exponents in enumerate(of_seeds):
            frame = _frame(table, np.asarray(exponents, dtype=float), state_size or len(exponents), values)
            lead: dict[str, Any] = {"experiment": run.experiment, "run": run.name, "model": run.model, "task": run.task,
                    "seq_len": run.seq_len, "input_len": run.input_len, "seed": seed}  # fmt: skip
            path = folder / f"seed-{seed}" / "records" / f"{table.name}.parquet"
            write_parquet(table.to_arrow(frame.assign(**lead)), path)
            list_as_found(folder / f"seed-{seed}", seed)
    return folder


def _frame(table: Table, exponents: np.ndarray, state_size: int, values: Mapping[str, float]) -> pd.DataFrame:
    rows = pd.DataFrame({"exponent": np.arange(1, len(exponents) + 1), "exponent_median_nats_per_step": exponents})
    rows = rows.assign(direction="forward", state_size=state_size, window_steps=100, **values)
    rows = rows.assign(**{column.name: 0 for column in table.columns if column.name not in rows})
    later = rows.assign(exponent_median_nats_per_step=LATER)
    return pd.concat([rows.assign(step=0, phase="init"), later.assign(step=1, phase="last")], ignore_index=True)
