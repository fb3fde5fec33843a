"""How gates act along the probe batch: their mean, and the time scale of those that retain, against lag."""

from __future__ import annotations

from pathlib import Path

from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import LAG, Axis, Quantity, spaced
from gradhorizon.analysis.reading.cohort import Cohort

TABLES = ("gates",)
SECTIONS = (
    Quantity(
        number=30,
        title="Gates",
        note="Mean of each gate over samples and units at the step that lies τ before the direction's last read step, "
        "and time scale 1/(1 − f) of the median value f of the gates that retain.",
        stem="gates",
        table="gates",
        x=LAG,
        ys=(
            Axis("mean", "mean of the gate [–]", limits=(-0.03, 1.03)),
            Axis("time_scale_median_steps", "time scale [steps]", "log"),
        ),
        facets=(("gate", spaced),),
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
