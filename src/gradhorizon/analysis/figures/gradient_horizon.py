"""How far back the gradient reaches in the course of training: gradient horizon against optimizer steps."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import OPTIMIZER_STEP, Axis, Quantity
from gradhorizon.analysis.reading.cohort import MEMBER, Cohort
from gradhorizon.analysis.reading.tables import Tables

TABLES = ("input_gradients",)


def _horizons(cohort: Cohort) -> pd.DataFrame:
    """Horizons of every member at every probe; none where init and end are all, which the scaling figure shows."""
    rows = Tables(cohort).horizons()
    return rows if (rows.groupby(MEMBER)["step"].nunique() > 2).any() else rows.iloc[:0]  # noqa: PLR2004


SECTIONS = (
    Quantity(
        number=5,
        title="Gradient horizon in training",
        note="First lag from which the relative input gradient stays under 1/1000, and slope of its logarithm, at each "
        "probe. Bidirectional networks: distance to the nearest end that is read. A solved member is frozen and keeps "
        "its values.",
        stem="gradient_horizon",
        table="input_gradients",
        x=OPTIMIZER_STEP,
        ys=(
            Axis("horizon_steps", "gradient horizon [steps]", censored="is_censored"),
            Axis("growth_rate_nats_per_step", "growth rate λ [nats/step]"),
        ),
        rows=_horizons,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
