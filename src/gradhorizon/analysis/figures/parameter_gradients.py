"""What the gradient of each parameter tensor does in training: its norm before clipping against optimizer steps."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import OPTIMIZER_STEP, Axis, Quantity
from gradhorizon.analysis.reading.cohort import Cohort

TABLES = ("parameter_gradients",)


def by_module(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in order of their tensors' modules, the total first.

    Args:
        rows: with the column ``parameter``.
    """
    module = rows["parameter"].str.replace(r"\.?[^.]*$", "", regex=True)
    module = module.str.replace(r"\d+", lambda number: number[0].zfill(6), regex=True)
    return rows.iloc[module.argsort(kind="stable")]


def _tensors(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of single tensors: the total is drawn among the training curves."""
    return by_module(rows[rows["parameter"] != "total"])


SECTIONS = (
    Quantity(
        number=20,
        title="Parameter gradients",
        note="Norm of the batch-mean training gradient of each parameter tensor, before clipping; of the members still "
        "training.",
        stem="parameter_gradients",
        table="parameter_gradients",
        x=OPTIMIZER_STEP,
        ys=(Axis("norm_unclipped", "gradient norm [loss per unit]", "log"),),
        facets=(("parameter", str),),
        keep=_tensors,
        ends_with_training=True,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
