"""How far back the gradient reaches in the state: through time, directly and in total, against lag."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import LAG, Axis, Quantity, Reference, spaced
from gradhorizon.analysis.reading.cohort import CELL, Cohort
from gradhorizon.analysis.statistics.growth import HORIZON_LEVEL

TABLES = ("state_gradients",)
_WHOLE = "all"


def _drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Every part of the whole state, and what came back through time of each component where there are several."""
    components = rows.groupby(CELL)["component"].transform("nunique")
    is_own = (components > 2) & (rows["part"] == "through_time")  # noqa: PLR2004, the one, and all
    is_whole = rows["component"] == _WHOLE
    kept = pd.concat([rows[is_whole], rows[is_own & ~is_whole]])
    return kept[kept["lag"] >= 0].replace({"component": {_WHOLE: "whole state"}})


SECTIONS = (
    Quantity(
        number=10,
        title="State gradients",
        note="Norm of ∂L(t*)/∂s(t) relative to that of the whole state at lag 0, where t lies τ before the direction's "
        "last read step. Through time: what came back through the recurrence, exactly 0 at lag 0; direct: what step t "
        "itself fed upward; total: both.",
        stem="state_gradients",
        table="state_gradients",
        x=LAG,
        ys=(
            Axis(
                "relative_gradient_norm_median",
                "relative gradient [–]",
                "log",
                references=(Reference(HORIZON_LEVEL, "horizon level, 1/1000"),),
            ),
        ),
        facets=(("component", str), ("part", spaced)),
        keep=_drawn,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
