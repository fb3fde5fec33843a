"""Rows of measurements as a run hands them to its mirror, with chosen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def with_lead(columns: Mapping[str, Any], seed: int, step: int, phase: str) -> pd.DataFrame:
    """Rows with all lead columns."""
    lead: dict[str, Any] = {
        "experiment": "e",
        "run": "r",
        "model": "lstm",
        "task": "adding",
        "seq_len": 4,
        "input_len": 4,
    }
    return pd.DataFrame(dict(columns)).assign(**lead, seed=seed, step=step, phase=phase)


def input_gradient_rows(seed: int, step: int, phase: str, relative: Sequence[float]) -> pd.DataFrame:
    """Rows whose relative norm at lag τ is `relative`[τ], latest step last as a measurement may order them."""
    lags = list(range(len(relative)))[::-1]
    columns = {"lag": lags, "relative_gradient_norm_median": [relative[lag] for lag in lags]}
    return with_lead(columns, seed, step, phase)


def parameter_gradient_rows(seed: int, step: int, total: float, clip_fraction: float = 0.0) -> pd.DataFrame:
    """Rows of one tensor and the total."""
    columns = {
        "parameter": ["cell.weight", "total"],
        "norm_unclipped": [total / 2, total],
        "norm_clipped": [total / 4, total / 2],
        "clip_fraction": clip_fraction,
    }
    return with_lead(columns, seed, step, "train")
