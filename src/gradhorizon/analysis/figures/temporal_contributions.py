"""Which lags the parameter gradient comes from, and how far back it has to be followed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import OPTIMIZER_STEP, Axis, Quantity, Reference
from gradhorizon.analysis.reading.cohort import MEMBER, Cohort

TABLES = ("temporal_contributions",)


def _one_per_probe(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates([*MEMBER, "step", "phase", "layer", "direction"])


SECTIONS = (
    Quantity(
        number=60,
        title="Temporal contributions",
        note="Of the batch-mean gradient g of the loss at t* for a layer's parameters: norm of each lag bin's share "
        "over ‖g‖ (wider bins hold more, and shares may cancel), and norm of all shares beyond a lag over ‖g‖, exactly "
        "0 at the longest.",
        stem="temporal_contributions",
        table="temporal_contributions",
        x=Axis("lag_to", "longest lag of the bin [steps]", "symlog"),
        ys=(
            Axis("share_of_norm", "share of the gradient [–]", "log"),
            Axis(
                "cumulative_relative_error",
                "missing beyond the lag [–]",
                "log",
                references=(Reference(0.1, "level of the effective horizon, 0.1"),),
            ),
        ),
    ),
    Quantity(
        number=61,
        title="Effective horizon",
        note="Smallest lag from which on the parameter gradient, truncated there, stays within a tenth of the whole; "
        "NaN where that is 0 or not finite.",
        stem="effective_horizon",
        table="temporal_contributions",
        x=OPTIMIZER_STEP,
        ys=(Axis("effective_horizon_steps", "effective horizon [steps]"),),
        keep=_one_per_probe,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
