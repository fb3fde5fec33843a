r"""Recurrent matrices by themselves: spectral radius, largest singular value, distance from normality, eigenvalues.

.. math:: \rho(W) = \max_i |\lambda_i(W)| \le \sigma_{\max}(W), \qquad \lVert W W^\top - W^\top W \rVert_F

The two sides of the inequality agree for a normal matrix, whose last number is 0. None of the three is a growth rate:
gates and nonlinearities come between the matrix and the Jacobian.

Notation: H hidden size, W one recurrent matrix.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Complex, Inexact

from gradhorizon.measurements.exponent_rows import recurrent_cells
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.summaries import LAYER_COLUMNS, stacked_rows, table_rows
from gradhorizon.network import Network
from gradhorizon.records.tables import Column, Table
from gradhorizon.tasks.task import Task


class RecurrentWeights(ProbeMeasurement):
    """Spectral radius, largest singular value, commutator norm and eigenvalues of every named recurrent matrix.

    Of a complex matrix Wᵀ is the conjugate transpose, and eigenvalues are as they are, not in pairs.

    Eigenvalues of a strongly non-normal H × H matrix are known to about ‖W‖ ε^(1/H) only, whoever computes them.

    Args:
        schedule: when it fires.
    """

    table: ClassVar[Table] = Table(
        "recurrent_weights",
        "spectral summaries of each recurrent matrix W, repeated on one row per eigenvalue",
        (
            *LAYER_COLUMNS,
            Column("matrix", "string", "name", "the cell's name of the matrix"),
            Column("spectral_radius", "float64", "dimensionless", "ρ(W), largest modulus of an eigenvalue"),
            Column("largest_singular_value", "float64", "dimensionless", "σ_max(W)"),
            Column("commutator_norm", "float64", "dimensionless", "Frobenius norm of WWᵀ − WᵀW; 0 if W is normal"),
            Column("eigenvalue_index", "int64", "dimensionless", "0 is the eigenvalue of largest modulus"),
            Column("eigenvalue_real", "float64", "dimensionless", "real part of the eigenvalue"),
            Column("eigenvalue_imag", "float64", "dimensionless", "imaginary part of the eigenvalue"),
            Column("num_entries", "int64", "entries", "entries of W"),
            Column("num_non_finite_entries", "int64", "entries", "entries infinite or NaN; with any, the rest is NaN"),
        ),
    )

    def check(self, network: Network, task: Task) -> None:  # noqa: ARG002, no task is fed
        """Refuse what has no eigenvalues, before any training.

        Args:
            network: built as it will be trained.
            task: the protocol.

        Raises:
            ValueError: a cell names a matrix that is not square.
        """
        for cell in recurrent_cells(network):
            for name, weight in cell.recurrent_weights().items():
                if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:  # noqa: PLR2004
                    raise ValueError(
                        f"{type(cell).__name__}.recurrent_weights must give square matrices, one per gate or "
                        f"candidate, got `{name}` of shape {tuple(weight.shape)}; name the gates' blocks one by one"
                    )

    def read(self, probe: Probe) -> pd.DataFrame:
        """One row per layer, direction, matrix and eigenvalue; no rows for cells that name no matrix."""
        frames = []
        for trace in probe.trace.layers:
            for name, weight in trace.cell.recurrent_weights().items():
                lead = {"layer": trace.layer, "direction": trace.direction, "matrix": name}
                frames.append(table_rows(self.table, {**lead, **matrix_columns(weight.numpy(force=True))}))
        return stacked_rows(self.table, frames)


def matrix_columns(weight: Inexact[np.ndarray, "H H"]) -> dict[str, Any]:
    """Column name -> values of one matrix, one row per eigenvalue, largest modulus first.

    Args:
        weight: W, shape (H, H), real or complex; NaN and infinite entries are counted.
    """
    num_non_finite = int((~np.isfinite(weight)).sum())
    size = len(weight)
    eigenvalues = np.full(size, complex(np.nan, np.nan)) if num_non_finite else _ordered_eigenvalues(weight)
    return {
        "spectral_radius": np.abs(eigenvalues[0]),
        "largest_singular_value": np.nan if num_non_finite else np.linalg.norm(weight, 2),
        "commutator_norm": np.nan if num_non_finite else _commutator_norm(weight),
        "eigenvalue_index": np.arange(size),
        "eigenvalue_real": eigenvalues.real,
        "eigenvalue_imag": eigenvalues.imag,
        "num_entries": weight.size,
        "num_non_finite_entries": num_non_finite,
    }


def _commutator_norm(weight: Inexact[np.ndarray, "H H"]) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.linalg.norm(weight @ weight.conj().T - weight.conj().T @ weight))


def _ordered_eigenvalues(weight: Inexact[np.ndarray, "H H"]) -> Complex[np.ndarray, " H"]:
    eigenvalues = np.linalg.eigvals(weight).astype(np.complex128)
    # Of a conjugate pair, whose moduli are one number, the upper half plane comes first.
    return eigenvalues[np.lexsort((-eigenvalues.imag, -np.abs(eigenvalues)))]
