"""Spectral summaries of recurrent matrices against matrices whose spectrum is known."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from gradhorizon.measurements.recurrent_weights import RecurrentWeights
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from tests.conditioning import EPSILON
from tests.measurements.networks import NETWORKS, LinearCell, SquaredError, random_probe
from tests.synthetic_cells import ClockedReader


class Named(LinearCell):
    """The linear recurrence that names its matrix."""

    def recurrent_weights(self) -> dict[str, Tensor]:
        return {"weight_hh": self.weight_hh}


def read(network: Network) -> pd.DataFrame:
    return RecurrentWeights(LogSpaced()).read(random_probe(network, 3))


def of_matrix(weight: Tensor) -> pd.DataFrame:
    network = Network(partial(Named, hidden_size=len(weight)), len(weight), 2).double()
    with torch.no_grad():
        network.cells()[0].weight_hh.copy_(weight)  # type: ignore[operator]
    network.encoder = torch.nn.Linear(2, len(weight)).double()
    return read(network)


def rows_of(eigenvalues: list[complex], radius: float, singular_value: float, commutator: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": 0,
            "direction": "forward",
            "matrix": "weight_hh",
            "spectral_radius": radius,
            "largest_singular_value": singular_value,
            "commutator_norm": commutator,
            "eigenvalue_index": range(len(eigenvalues)),
            "eigenvalue_real": [complex(value).real for value in eigenvalues],
            "eigenvalue_imag": [complex(value).imag for value in eigenvalues],
            "num_entries": len(eigenvalues) ** 2,
            "num_non_finite_entries": 0,
        }
    )


CLOSED_FORMS = {
    "diagonal": (torch.diag(torch.tensor([0.5, -2.0, 1.0])), rows_of([-2, 1, 0.5], 2, 2, 0)),
    "rotation by a quarter": (3 * torch.tensor([[0.0, -1.0], [1.0, 0.0]]), rows_of([3j, -3j], 3, 3, 0)),
    # W Wᵀ − Wᵀ W = diag(1, 0, …, 0, −1)
    "nilpotent shift": (torch.diag(torch.ones(3), 1), rows_of([0, 0, 0, 0], 0, 1, np.sqrt(2))),
    # [[a, b], [0, a]]: W Wᵀ − Wᵀ W = diag(b², −b²)
    "shear": (torch.tensor([[2.0, 3.0], [0.0, 2.0]]), rows_of([2, 2], 2, 4, 9 * np.sqrt(2))),
    "zero": (torch.zeros(2, 2), rows_of([0, 0], 0, 0, 0)),
    "one unit": (torch.tensor([[-0.25]]), rows_of([-0.25], 0.25, 0.25, 0)),
}


def check_closed_form(name: str) -> None:
    weight, expected = CLOSED_FORMS[name]
    pd.testing.assert_frame_equal(of_matrix(weight.double()), expected, rtol=1e-12, atol=1e-14, check_dtype=False)


@pytest.mark.oracle("closed forms: a Jordan block, and a scaled rotation with imaginary eigenvalues")
def test_shear_and_rotation_have_their_spectrum() -> None:
    check_closed_form("shear")
    check_closed_form("rotation by a quarter")


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_matrix_with_a_known_spectrum_has_it(name: str) -> None:
    check_closed_form(name)


def test_scaled_orthogonal_matrix_has_all_moduli_at_its_scale_and_is_normal() -> None:
    orthogonal = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64)).Q
    rows = of_matrix(0.9 * orthogonal)
    moduli = np.hypot(rows["eigenvalue_real"], rows["eigenvalue_imag"])
    np.testing.assert_allclose(moduli, 0.9, rtol=1e-12)
    np.testing.assert_allclose(rows[["spectral_radius", "largest_singular_value"]], 0.9, rtol=1e-12)
    np.testing.assert_allclose(rows["commutator_norm"], 0.0, atol=1e-13)


def test_eigenvalues_come_by_modulus_and_sum_to_the_trace() -> None:
    weight = torch.randn(30, 30, dtype=torch.float64)
    rows = of_matrix(weight)
    moduli = np.hypot(rows["eigenvalue_real"], rows["eigenvalue_imag"])
    # Every `hypot` rounds in its own way. A decomposition is exact for W + E, ‖E‖ ≤ S ε ‖W‖, and |tr E| ≤ S ‖E‖.
    assert (np.diff(moduli) <= 2 * EPSILON * moduli[0]).all()
    np.testing.assert_allclose(moduli[0], rows["spectral_radius"][0], rtol=2 * EPSILON)
    error = 30**2 * EPSILON * rows["largest_singular_value"][0]
    np.testing.assert_allclose(rows["eigenvalue_real"].sum(), weight.trace(), rtol=0, atol=error)
    np.testing.assert_allclose(rows["eigenvalue_imag"].sum(), 0.0, rtol=0, atol=error)


def test_every_layer_direction_and_matrix_has_one_row_per_unit() -> None:
    rows = read(NETWORKS["bidirectional"]())
    sizes = rows.groupby(["layer", "direction", "matrix"]).size()
    gates = [f"weight_hh_{name}" for name in ("candidate", "reset", "update")]
    assert sizes.index.tolist() == [
        (i, side, gate) for i in (0, 1) for side in ("backward", "forward") for gate in gates
    ]
    assert set(sizes) == {3}


def test_cell_that_names_no_matrix_gives_no_rows() -> None:
    rows = read(Network(partial(ClockedReader, hidden_size=2), 2, 2).double())
    assert rows.empty
    assert list(rows.columns) == [column.name for column in RecurrentWeights.table.columns]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_entries_are_counted_not_raised(bad: float) -> None:
    weight = torch.eye(3).double()
    weight[0, 1] = bad
    rows = of_matrix(weight)
    assert rows["num_non_finite_entries"].tolist() == [1] * 3
    assert rows.filter(regex="radius|singular|commutator|eigenvalue_(real|imag)").isna().to_numpy().all()


def test_commutator_of_a_matrix_with_an_infinite_entry_is_no_number_either() -> None:
    # Here both products are infinite with opposite signs, so that their difference is infinite and not NaN.
    rows = of_matrix(torch.tensor([[1.0, torch.inf], [1.0, -1.0]]).double())
    assert rows["commutator_norm"].isna().all()


class Stacked(Named):
    """A cell that gives the matrices of all its gates in one."""

    def recurrent_weights(self) -> dict[str, Tensor]:
        return {"weight_hh": torch.cat([self.weight_hh] * 3)}


def test_matrix_that_is_not_square_is_refused_before_training() -> None:
    network = Network(partial(Stacked, hidden_size=2), 2, 2)
    with pytest.raises(ValueError, match=r"Stacked.*square.*`weight_hh` of shape \(6, 2\)"):
        RecurrentWeights(LogSpaced()).check(network, SquaredError(3))


def test_matrix_whose_products_overflow_is_measured_without_raising() -> None:
    rows = of_matrix(torch.tensor([[1e200, 1e200], [0.0, 1e200]], dtype=torch.float64))
    np.testing.assert_allclose(rows["spectral_radius"], 1e200, rtol=1e-12)
    assert not np.isfinite(rows["commutator_norm"]).any()
