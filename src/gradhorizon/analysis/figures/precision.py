"""What a number format loses of the input gradient: its error, the entries it drops, and the lag of underflow."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import LAG, OPTIMIZER_STEP, Axis, Quantity, Reference
from gradhorizon.analysis.reading.cohort import MEMBER, Cohort

TABLES = ("precision",)
_ROUNDOFF = (
    Reference(2.0**-24, "unit roundoff 2⁻²⁴ of float32", "float32"),
    Reference(2.0**-8, "2⁻⁸ of bfloat16", "bfloat16"),
    Reference(2.0**-11, "2⁻¹¹ of float16", "float16"),
)


def _reduced(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the formats that the device can run, without the reference."""
    rows = rows[rows["is_supported"].astype(bool) & (rows["dtype"] != "float64")]
    scaled = rows["dtype"] + rows["loss_scale"].map(" · loss × {:g}".format)
    return rows.assign(
        format=rows["dtype"].where(rows["loss_scale"] == 1, scaled),
        lost=rows["fraction_zero"] + rows["fraction_subnormal"],
    )


def _one_per_format(rows: pd.DataFrame) -> pd.DataFrame:
    return _reduced(rows).drop_duplicates([*MEMBER, "step", "phase", "format"])


SECTIONS = (
    Quantity(
        number=80,
        title="Precision",
        note="Input gradient of the loss at t* in a number format against float64: relative error ‖g − g₆₄‖/‖g₆₄‖, 1 "
        "where all is lost; and fraction of its entries that are 0 or subnormal.",
        stem="precision",
        table="precision",
        x=LAG,
        ys=(
            Axis("relative_error_median", "relative error [–]", "log", references=_ROUNDOFF),
            Axis("lost", "0 or subnormal [–]", limits=(-0.03, 1.03)),
        ),
        facets=(("format", str),),
        keep=_reduced,
    ),
    Quantity(
        number=81,
        title="Lag of underflow",
        note="First lag from which on at least half of the samples have nothing but zero or subnormal entries.",
        stem="underflow_lag",
        table="precision",
        x=OPTIMIZER_STEP,
        ys=(Axis("underflow_lag_steps", "lag of underflow [steps]", censored="is_underflow_censored"),),
        facets=(("format", str),),
        keep=_one_per_format,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
