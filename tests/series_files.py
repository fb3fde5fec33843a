"""Data files for tests of tasks that read one, written once per process."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

LENGTH, NUM_TRAIN, STEPS_AHEAD = 600, 480, 3
_FOLDER = tempfile.TemporaryDirectory(prefix="series-")


@cache
def series() -> np.ndarray:
    """Two noisy oscillations of no two equal values, shape (600, 2)."""
    steps = np.arange(LENGTH)
    waves = np.stack([np.sin(steps / 5), 3 + 2 * np.cos(steps / 11)], axis=1)
    return waves + np.random.default_rng(0).normal(scale=0.3, size=waves.shape)


@cache
def series_path() -> str:
    """`series` as a Parquet file."""
    path = Path(_FOLDER.name) / "waves.parquet"
    pd.DataFrame(series(), columns=["one", "other"]).to_parquet(path)
    return str(path)
