"""What becomes of the recurrent matrices: spectral radius, norm and departure from normality, and eigenvalues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from gradhorizon.analysis.quantities import drawing
from gradhorizon.analysis.quantities.declared import OPTIMIZER_STEP, Axis, Quantity, Reference
from gradhorizon.analysis.reading.cohort import MEMBER, Cohort

TABLES = ("recurrent_weights",)


def _one_per_matrix(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates([*MEMBER, "step", "phase", "layer", "direction", "matrix"])


def _with_modulus(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(modulus=np.hypot(rows["eigenvalue_real"], rows["eigenvalue_imag"]))


SECTIONS = (
    Quantity(
        number=55,
        title="Recurrent weights",
        note="Of each recurrent matrix W: largest modulus of an eigenvalue, largest singular value, and Frobenius norm "
        "of WWᵀ − WᵀW, 0 if W is normal.",
        stem="recurrent_weights",
        table="recurrent_weights",
        x=OPTIMIZER_STEP,
        ys=(
            Axis(
                "spectral_radius", "spectral radius ρ(W) [–]", references=(Reference(1.0, "1, where lengths are kept"),)
            ),
            Axis("largest_singular_value", "σ_max(W) [–]", references=(Reference(1.0, "1, where lengths are kept"),)),
            Axis("commutator_norm", "commutator norm [–]"),
        ),
        facets=(("matrix", str),),
        keep=_one_per_matrix,
    ),
    Quantity(
        number=56,
        title="Eigenvalues of the recurrent weights",
        note="Modulus of each recurrent matrix's eigenvalues by rank, 0 the largest.",
        stem="recurrent_eigenvalues",
        table="recurrent_weights",
        x=Axis("eigenvalue_index", "rank of the eigenvalue [–]"),
        ys=(Axis("modulus", "modulus |μ| [–]", references=(Reference(1.0, "1, where lengths are kept"),)),),
        facets=(("matrix", str),),
        keep=_with_modulus,
    ),
)


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write all figures; returns their paths."""
    return drawing.write(SECTIONS, cohort, out)
