"""How noisy the gradient of a parameter tensor is: its signal fraction and noise scale against optimizer steps."""

from __future__ import annotations

from pathlib import Path

from gradhorizon.analysis.figures.parameter_gradients import by_module
from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import OPTIMIZER_STEP, Axis, Quantity, Reference
from gradhorizon.analysis.reading.cohort import Cohort

TABLES = ("gradient_noise",)
SECTIONS = (
    Quantity(
        number=70,
        title="Gradient noise",
        note="Of the gradients g of the loss at t* of single samples, with mean G: |G|² over the mean of |g|² (below 0 "
        "where the unbiased estimate of |G|² is), and tr Σ / |G|², the batch size at which noise and signal are equal "
        "(NaN where that estimate is not positive).",
        stem="gradient_noise",
        table="gradient_noise",
        x=OPTIMIZER_STEP,
        ys=(
            Axis("signal_fraction", "signal fraction [–]", references=(Reference(0.0, "no signal"),)),
            Axis("noise_scale_samples", "noise scale [samples]", "log"),
        ),
        facets=(("parameter", str),),
        keep=by_module,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
