"""The diagonal linear recurrence against powers of its eigenvalues, and the ring that they are drawn from."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gradhorizon.cells.diagonal_linear import DiagonalLinear, ring
from tests.models import random_state

pytestmark = pytest.mark.usefixtures("float64")


def _cell(
    hidden_size: int = 4, r_min: float = 0.0, r_max: float = 1.0, max_phase: float = 2 * math.pi
) -> DiagonalLinear:
    return DiagonalLinear(3, hidden_size, partial(ring, r_min=r_min, r_max=r_max, max_phase=max_phase))


def _eigenvalues(cell: DiagonalLinear) -> np.ndarray:
    log_decay, phase = (parameter.numpy(force=True) for parameter in (cell.log_decay, cell.phase))
    return np.exp(-np.exp(log_decay) + 1j * phase)


def _complex(pair: tuple[Tensor, ...]) -> np.ndarray:
    real, imag = (part.numpy(force=True) for part in pair)
    return real + 1j * imag


def test_state_is_the_sum_of_powers_of_the_eigenvalues() -> None:
    cell, x = _cell(), torch.randn(2, 30, 3)
    state = random_state(cell, 2)
    weight = cell.weight_ih.numpy(force=True)
    driven = x.numpy() @ (weight[:4] + 1j * weight[4:]).T
    powers = _eigenvalues(cell) ** np.arange(30)[::-1, np.newaxis]
    expected = _eigenvalues(cell) ** 30 * _complex(state) + (powers * driven).sum(axis=1)
    np.testing.assert_allclose(_complex(cell.segment(x, state)[1]), expected, rtol=1e-12, atol=0)


def test_layer_above_sees_the_real_part() -> None:
    cell, x = _cell(), torch.randn(2, 6, 3)
    outputs, (real, imag) = cell.segment(x, cell.initial_state(2))
    assert torch.equal(outputs[:, -1], real)
    assert (imag != 0).all()


@pytest.mark.parametrize("lag", [1, 50, 400])
def test_gradient_of_a_unit_is_turned_back_and_shrinks_by_the_power_of_its_modulus(lag: int) -> None:
    cell = _cell(r_min=0.5, r_max=1.0)
    state = random_state(cell, 2)
    _, last = cell.segment(torch.randn(2, lag, 3), state)
    cotangent = tuple(torch.randn_like(part) for part in last)
    found = _complex(torch.autograd.grad(last, state, cotangent))
    expected = np.conj(_eigenvalues(cell)) ** lag * _complex(cotangent)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=0)


def test_parameter_gradients_are_the_derivatives_of_the_power() -> None:
    cell, lag = _cell(), 20
    state = random_state(cell, 1)
    _, (real, _) = cell.segment(torch.zeros(1, lag, 3), state)
    log_decay, phase = torch.autograd.grad(real.sum(), (cell.log_decay, cell.phase))
    power = lag * _eigenvalues(cell) ** lag * _complex(state)[0]
    decay = np.exp(cell.log_decay.numpy(force=True))
    np.testing.assert_allclose(log_decay.numpy(), (-decay * power).real, rtol=1e-11, atol=0)
    np.testing.assert_allclose(phase.numpy(), (1j * power).real, rtol=1e-11, atol=0)


def test_jacobian_is_normal_and_each_modulus_is_a_singular_value_twice() -> None:
    cell = _cell(5)
    state = tuple(part.detach()[0] for part in random_state(cell, 1))

    def after(flat: Tensor) -> Tensor:
        parts = tuple(part.unsqueeze(0) for part in flat.chunk(2))
        return torch.cat(cell.step(torch.randn(1, 3), parts), dim=1)[0]

    jacobian = torch.autograd.functional.jacobian(after, torch.cat(state))
    torch.testing.assert_close(jacobian @ jacobian.T, jacobian.T @ jacobian, rtol=1e-12, atol=1e-15)
    expected = np.sort(np.abs(_eigenvalues(cell)).repeat(2))[::-1]
    np.testing.assert_allclose(torch.linalg.svdvals(jacobian).numpy(), expected, rtol=1e-12, atol=0)


def test_eigenvalues_are_those_of_the_recurrence() -> None:
    cell = _cell()
    np.testing.assert_allclose(cell.eigenvalues().numpy(force=True), _eigenvalues(cell), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("r_min", "r_max", "max_phase"), [(0.0, 1.0, 2 * math.pi), (0.9, 0.99, 0.3)])
def test_ring_is_uniform_in_area_and_phase(r_min: float, r_max: float, max_phase: float) -> None:
    found = _eigenvalues(_cell(2000, r_min=r_min, r_max=r_max, max_phase=max_phase))
    area = (np.abs(found) ** 2 - r_min**2) / (r_max**2 - r_min**2)
    phase = np.mod(np.angle(found), 2 * np.pi) / max_phase
    assert stats.kstest(area, "uniform").pvalue > 1e-3
    assert stats.kstest(phase, "uniform").pvalue > 1e-3
    assert abs(stats.spearmanr(area, phase).statistic) < 4 / math.sqrt(2000)


def test_circle_has_one_modulus() -> None:
    np.testing.assert_allclose(np.abs(_eigenvalues(_cell(50, r_min=0.99, r_max=0.99))), 0.99, rtol=1e-14, atol=0)


@pytest.mark.parametrize("r_min", [0.0, 0.999999])
def test_ring_up_to_the_unit_circle_stays_below_it_with_finite_parameters(r_min: float) -> None:
    cell = _cell(100_000, r_min=r_min, r_max=1.0)
    assert all(torch.isfinite(parameter).all() for parameter in cell.to(torch.float32).parameters())
    assert (torch.exp(cell.log_decay) > 0).all()


def test_input_weights_have_variance_one_half_over_the_input_size() -> None:
    weight = _cell(400).weight_ih.numpy(force=True)
    assert stats.kstest(weight.ravel(), "norm", args=(0.0, 6**-0.5)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("r_min", "r_max"), [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1), (1.0, 1.0), (0.0, 0.0), (math.nan, 0.5), (0.5, math.nan)]
)
def test_radii_that_make_no_ring_are_refused(r_min: float, r_max: float) -> None:
    with pytest.raises(ValueError, match=f"a ring needs .* got r_min = {r_min}, r_max = {r_max}"):
        _cell(r_min=r_min, r_max=r_max)


@pytest.mark.parametrize("max_phase", [-0.1, 7.0, math.nan])
def test_phase_beyond_a_full_turn_is_refused(max_phase: float) -> None:
    with pytest.raises(ValueError, match=f"`max_phase` must lie between 0 and 2π radians, got {max_phase}"):
        _cell(max_phase=max_phase)


def test_cell_names_no_recurrent_matrix_since_its_recurrence_is_diagonal() -> None:
    assert _cell().recurrent_weights() == {}
