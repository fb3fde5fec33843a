"""Size and condition of the Jacobian of the last read state with respect to an earlier one, against lag."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import LAG, Axis, Quantity, Reference
from gradhorizon.analysis.reading.cohort import Cohort

TABLES = ("state_jacobians",)


def _causal(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["lag"] >= 0]


SECTIONS = (
    Quantity(
        number=50,
        title="State Jacobians",
        note="Decimal logarithms of the Jacobian M of the state at the direction's last read step with respect to the "
        "state τ steps earlier: ‖M‖_F/√S, largest and smallest singular value (a lower bound and NaN under random "
        "projections), and condition σ_max/σ_min. −∞: exactly 0.",
        stem="state_jacobians",
        table="state_jacobians",
        x=LAG,
        ys=(
            Axis("log10_frobenius_norm_median", "log₁₀ ‖M‖_F/√S [–]", references=(Reference(0.0, "unchanged size"),)),
            Axis("log10_sigma_max_median", "log₁₀ σ_max [–]", references=(Reference(0.0, "unchanged size"),)),
            Axis("log10_sigma_min_median", "log₁₀ σ_min [–]", references=(Reference(0.0, "unchanged size"),)),
            Axis("log10_condition_median", "log₁₀ condition [–]"),
        ),
        keep=_causal,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
