"""Lyapunov exponents of each layer without input, by rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gradhorizon.analysis.figures import lyapunov_spectrum
from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.reading.cohort import Cohort

TABLES = ("autonomous_spectrum",)
SECTIONS = (
    replace(
        lyapunov_spectrum.SECTIONS[0],
        number=42,
        title="Autonomous spectrum",
        note="Lyapunov exponents over the full state of a layer without input, after a transient, over random "
        "initial states. −∞: below resolution.",
        stem="autonomous_spectrum",
        table="autonomous_spectrum",
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
