"""Growth rates of products of the block ∂h/∂h of the first state component, by rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gradhorizon.analysis.figures import lyapunov_spectrum
from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.reading.cohort import Cohort

TABLES = ("hidden_block_spectrum",)
SECTIONS = (
    replace(
        lyapunov_spectrum.SECTIONS[0],
        number=41,
        title="Hidden block spectrum",
        note="Growth rates of products of the block ∂h(t)/∂h(t−1) of the first state component, the others held: "
        "Lyapunov exponents only of a state of one component. −∞: below resolution.",
        stem="hidden_block_spectrum",
        table="hidden_block_spectrum",
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
