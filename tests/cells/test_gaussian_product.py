"""The product of Gaussian matrices: its distribution, its clock, and the exponents that Newman found."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import polygamma, psi
from torch import Tensor

from gradhorizon.cells.cell import State
from gradhorizon.cells.gaussian_product import GaussianProduct
from gradhorizon.cells.unroll import unroll
from gradhorizon.jacobians.exponents import finite_time_exponents
from gradhorizon.jacobians.one_step import StepJacobians
from gradhorizon.kernels.gate import check_kernel
from tests.conditioning import recurrence_errors

pytestmark = pytest.mark.usefixtures("float64")


def _matrices(cell: GaussianProduct, num_steps: int, first_step: int = 0) -> Tensor:
    return cell.project(torch.zeros(1, num_steps, cell.input_size), first_step)[1][0]


def _assert_as_near_as_rounding_leaves_it(found: Tensor, expected: Tensor, errors: np.ndarray) -> None:
    assert (np.abs((found - expected).numpy(force=True)) <= errors).all()


def _errors(cell: GaussianProduct, x: Tensor, state: Tensor) -> np.ndarray:
    """Of the last state, sample by sample."""
    matrices, num_terms = _matrices(cell, x.shape[1]).numpy(), cell.hidden_size + cell.input_size
    additions = (x.abs() @ cell.weight_ih.abs().T).numpy()
    samples = zip(additions, state.numpy(), strict=True)
    return np.stack([recurrence_errors(matrices, added, initial, num_terms) for added, initial in samples])


def _loop(cell: GaussianProduct, x: Tensor, state: State) -> Tensor:
    """Last state by plain sums over entries, in NumPy, from the matrices and the input weights alone."""
    matrices, weight_ih = _matrices(cell, x.shape[1]).numpy(), cell.weight_ih.numpy()
    found = []
    for sample, initial in zip(x.numpy(), state[0].numpy(), strict=True):
        s = initial
        for matrix, x_t in zip(matrices, sample, strict=True):
            s = np.array([sum(row * s) + sum(own * x_t) for row, own in zip(matrix, weight_ih, strict=True)])
        found.append(s)
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize("deviation", [None, 0.7])
def test_entries_are_independent_normal_numbers_of_the_given_deviation(deviation: float | None) -> None:
    entries = _matrices(GaussianProduct(2, 16, deviation), 30)
    scaled = entries / (0.25 if deviation is None else deviation)
    assert stats.kstest(scaled.flatten().numpy(), "norm").pvalue > 1e-3
    later_given_earlier = np.corrcoef(scaled[:-1].flatten().numpy(), scaled[1:].flatten().numpy())[0, 1]
    assert abs(later_given_earlier) < 4 / np.sqrt(scaled[1:].numel())


def test_state_follows_the_equation_entry_by_entry() -> None:
    cell = GaussianProduct(2, 3)
    x, state = torch.randn(2, 9, 2), (torch.randn(2, 3),)
    found, expected = cell.segment(x, state)[1][0], _loop(cell, x, state)
    _assert_as_near_as_rounding_leaves_it(found, expected, _errors(cell, x, state[0]))


def test_gradient_is_the_product_of_the_matrices_in_reverse() -> None:
    cell = GaussianProduct(2, 4)
    trajectory = unroll(cell, torch.randn(1, 12, 2), cuts=[5], output_steps=[12])
    weights = torch.randn(4)
    (found,) = torch.autograd.grad(trajectory.outputs[0, 0] @ weights, trajectory.states[0][0])
    expected = weights
    transposed = _matrices(cell, 12)[5:].flip(0).mT
    for matrix in transposed:
        expected = matrix @ expected
    errors = recurrence_errors(transposed.numpy(), np.zeros((7, 4)), weights.numpy(), num_terms=4)
    _assert_as_near_as_rounding_leaves_it(found[0], expected, errors)


@pytest.mark.parametrize("cuts", [(), (1,), (3, 4, 11)])
def test_matrices_do_not_depend_on_the_segments(cuts: tuple[int, ...]) -> None:
    cell, x = GaussianProduct(2, 4), torch.randn(2, 20, 2)
    found, expected = (unroll(cell, x, cuts=own).final_state[0] for own in (cuts, ()))
    _assert_as_near_as_rounding_leaves_it(found, expected, _errors(cell, x, torch.zeros(2, 4)))
    segments = zip((0, *cuts), (*cuts, 20), strict=True)
    assert torch.equal(torch.cat([_matrices(cell, end - start, start) for start, end in segments]), _matrices(cell, 20))


def test_every_step_has_a_matrix_of_its_own_that_the_clock_alone_decides() -> None:
    cell = GaussianProduct(2, 3)
    matrices = _matrices(cell, 6)
    assert len({tuple(matrix.flatten().tolist()) for matrix in matrices}) == 6
    assert torch.equal(_matrices(cell, 2, first_step=4), matrices[4:])


def test_every_sample_sees_the_same_matrices_without_a_copy() -> None:
    matrices = GaussianProduct(2, 3).project(torch.randn(5, 7, 2))[1]
    assert matrices.stride()[0] == 0


def test_copies_and_restored_cells_draw_the_same_matrices_and_others_do_not() -> None:
    cell, other = GaussianProduct(2, 3), GaussianProduct(2, 3)
    copied = copy.deepcopy(cell)
    assert torch.equal(_matrices(copied, 4), _matrices(cell, 4))
    assert not torch.equal(_matrices(other, 4), _matrices(cell, 4))
    other.load_state_dict(cell.state_dict())
    x = torch.randn(2, 4, 2)
    assert torch.equal(other(x), cell(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cell_in_another_precision_rounds_the_same_matrices(dtype: torch.dtype) -> None:
    cell = GaussianProduct(2, 3)
    rounded = _matrices(cell, 4).to(dtype)
    assert torch.equal(cell.to(dtype).project(torch.zeros(1, 4, 2, dtype=dtype))[1][0], rounded)


def test_projecting_draws_nothing_from_the_global_generator() -> None:
    cell = GaussianProduct(2, 3)
    before = torch.get_rng_state()
    _matrices(cell, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_trained() -> None:
    cell = GaussianProduct(2, 3)
    assert list(cell.parameters()) == []
    assert sorted(cell.state_dict()) == ["seed", "weight_ih"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cell_passes_the_kernel_gate(dtype: torch.dtype) -> None:
    check_kernel(GaussianProduct(2, 5), "cpu", dtype)


def test_exponents_are_newmans_within_their_exact_sampling_error() -> None:
    # ln R_ii of a Gaussian step is ln σ + ½ ln χ² with S − i + 1 degrees of freedom, independent in i and in t.
    size, num_steps, deviation = 6, 1000, 0.3
    cell = GaussianProduct(2, size, deviation)
    maps = StepJacobians(cell, torch.zeros(1, num_steps, 2))
    measured = finite_time_exponents(maps, torch.eye(size).unsqueeze(0))[0, 0].numpy()
    half_degrees = (size - np.arange(size)) / 2
    expected = np.log(deviation) + 0.5 * (np.log(2) + psi(half_degrees))
    standard_error = np.sqrt(0.25 * polygamma(1, half_degrees) / num_steps)
    assert np.abs((measured - expected) / standard_error).max() < 4


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan")])
def test_deviation_that_is_not_positive_is_refused(deviation: float) -> None:
    with pytest.raises(ValueError, match="`deviation` must be positive, got"):
        GaussianProduct(2, 3, deviation)
