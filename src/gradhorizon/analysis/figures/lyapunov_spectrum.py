"""Lyapunov exponents of each layer along the task's input, by rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.theory_lines import TheoryLine
from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import Axis, Quantity, Reference
from gradhorizon.analysis.reading.cohort import Cohort
from gradhorizon.theory import newman_exponents

TABLES = ("lyapunov_spectrum",)


def _gaussian_product(_: str, config: Mapping[str, Any]) -> TheoryLine | None:
    cell = config.get("model", {}).get("cell", {})
    if cell.get("_target_") != "gradhorizon.cells.gaussian_product.GaussianProduct":
        return None
    size = int(cell["hidden_size"])
    exponents = newman_exponents(size, cell.get("deviation") or size**-0.5)
    return TheoryLine("Newman (1986), exact", lambda ranks: exponents[np.asarray(ranks, dtype=int) - 1])


def resolved(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with −∞ for an exponent that is too small to be resolved in any sample, so that a median counts it."""
    value = rows["exponent_median_nats_per_step"]
    is_below = value.isna() & (rows["num_below_resolution"] > 0) & (rows["num_non_finite"] == 0)
    return rows.assign(exponent_median_nats_per_step=value.where(~is_below, -np.inf))


SECTIONS = (
    Quantity(
        number=40,
        title="Lyapunov spectrum",
        note="Finite-time Lyapunov exponents over the full state of a layer, along the task's input. "
        "−∞: below resolution.",
        stem="lyapunov_spectrum",
        table="lyapunov_spectrum",
        x=Axis("exponent", "rank of the exponent [–]"),
        ys=(Axis("exponent_median_nats_per_step", "exponent λ [nats/step]", references=(Reference(0.0, "λ = 0"),)),),
        keep=resolved,
        theory=_gaussian_product,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
