"""Closed forms against networks that meet their assumptions, and against simulation."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from gradhorizon import state_gradient_profile, theory
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.cells.lstm import chrono as chrono_initialization
from tests.measurements.networks import LinearCell


def through_time(cell: torch.nn.Module, inputs: torch.Tensor, component: str) -> np.ndarray:
    """Median norm of the through-time part at lags 1 … N."""
    rows = state_gradient_profile(cell, inputs, lambda h: h.sum(dim=1), cuts=range(inputs.shape[1]))
    chosen = rows[(rows["part"] == "through_time") & (rows["component"] == component)]
    return chosen.sort_values("lag")["gradient_norm_median"].to_numpy()


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
def test_scaled_orthogonal_growth_rate_is_that_of_a_linear_network(scale: float) -> None:
    norms = through_time(LinearCell(4, 4, scale), torch.randn(2, 30, 4), "h")
    np.testing.assert_allclose(np.diff(np.log(norms)), theory.scaled_orthogonal_growth_rate(scale), atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="`scale` must be positive"):
        theory.scaled_orthogonal_growth_rate(scale)


def test_identity_relu_growth_rate_is_that_of_active_units() -> None:
    cell = Elman(4, 4, nonlinearity="relu", initialization=set_identity)
    norms = through_time(cell, torch.rand(2, 30, 4), "h")
    np.testing.assert_allclose(np.diff(np.log(norms)), theory.identity_relu_growth_rate(), atol=1e-12)


@torch.no_grad()
def set_identity(cell: Elman) -> None:
    weight_ih, weight_hh, *biases = cell.rnn.all_weights[0]
    for eye in (weight_ih, weight_hh):
        torch.nn.init.eye_(eye)
    for bias in biases:
        bias.zero_()


@torch.no_grad()
def cut_recurrence(cell: LSTM | GRU) -> None:
    cell.rnn.all_weights[0][1].zero_()


def retention_gates(cell: LSTM | GRU, inputs: torch.Tensor) -> np.ndarray:
    """Forget or update gate by the textbook equation, W_hh = 0, steps first."""
    with torch.no_grad():
        projected = cell.double().project(inputs.double()) + cell.rnn.all_weights[0][3]
        return torch.sigmoid(projected.chunk(4 if isinstance(cell, LSTM) else 3, -1)[1]).transpose(0, 1).numpy()


def test_lstm_growth_rate_is_that_of_the_cell_state_without_recurrent_weights() -> None:
    cell, inputs = LSTM(2, 1), torch.randn(1, 40, 2)
    cut_recurrence(cell)
    norms = through_time(cell, inputs, "c")
    # The first step's gate multiplies s_0, whose gradient is lag N; the last step's gate separates t* from lag 1.
    expected = theory.lstm_growth_rates(retention_gates(cell, inputs)[:-1])[0, 0]
    np.testing.assert_allclose(np.log(norms[-1] / norms[0]) / 39, expected, rtol=1e-9)


def test_gru_growth_rate_is_that_of_the_state_without_recurrent_weights() -> None:
    cell, inputs = GRU(2, 1), torch.randn(1, 40, 2)
    cut_recurrence(cell)
    norms = through_time(cell, inputs, "h")
    expected = theory.gru_growth_rates(retention_gates(cell, inputs))[0, 0]
    np.testing.assert_allclose(np.log(norms[-1]) / 40, expected, rtol=1e-9)


def test_unit_that_is_cut_off_has_rate_minus_infinity() -> None:
    assert theory.diagonal_growth_rates(np.array([[0.0, 1.0], [1.0, 1.0]])).tolist() == [-np.inf, 0.0]


def test_diagonal_profile_of_complex_eigenvalues_has_their_modulus() -> None:
    found = theory.diagonal_profile(np.array([0.6 + 0.8j, 0.5j]), [0, 3])
    np.testing.assert_allclose(found, np.array([[1.0, 1.0], [1.0, 0.125]]), rtol=1e-15)


@pytest.mark.parametrize("bias", [-800.0, -2.0, 0.0, 1.0, 40.0])
def test_decay_of_forget_bias_is_the_log_of_its_gate(bias: float) -> None:
    found = theory.expected_decay_of_forget_bias(bias)
    expected = bias if bias < -700 else -np.log1p(np.exp(-bias))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_time_scale_of_forget_bias_is_that_of_its_gate() -> None:
    bias = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(theory.time_scale_of_forget_bias(bias), 1 / (1 - 1 / (1 + np.exp(-bias))), rtol=1e-12)


@pytest.mark.parametrize("seq_len", [3, 50, 1000])
def test_chrono_profile_is_the_mean_over_drawn_biases(seq_len: int, generator: np.random.Generator) -> None:
    gates = 1 / (1 + 1 / generator.uniform(1, seq_len - 1, size=400_000))
    for lag in (1, 10, 100):
        found = theory.chrono_profile([lag], seq_len)[0]
        np.testing.assert_allclose(found, np.sqrt((gates ** (2.0 * lag)).mean()), rtol=0.02)


def test_chrono_profile_is_that_of_the_initialised_cell() -> None:
    cell = LSTM(1, 1000, initialization=partial(chrono_initialization, seq_len=30))
    _, _, bias_ih, bias_hh = cell.rnn.all_weights[0]
    gates = torch.sigmoid((bias_ih + bias_hh).chunk(4)[1].detach().double()).numpy()
    found = np.sqrt((gates[:, None] ** (2.0 * np.arange(30))).mean(axis=0))
    np.testing.assert_allclose(found, theory.chrono_profile(np.arange(30), 30), rtol=0.1)


def test_chrono_profile_of_a_degenerate_length_is_refused() -> None:
    with pytest.raises(ValueError, match="`seq_len` must be at least 3 for chrono"):
        theory.chrono_profile([0], 2)


def simulated_growth_rate(gain: float, generator: np.random.Generator, size: int = 500, num_steps: int = 600) -> float:
    """λ₁ of h ← W tanh(h) from one tangent vector, after 200 steps of transient."""
    weights = generator.normal(scale=gain / np.sqrt(size), size=(size, size))
    h, tangent, logs = generator.normal(size=size), generator.normal(size=size), []
    for _ in range(num_steps):
        tangent = weights @ (tangent / np.cosh(h) ** 2)
        h = weights @ np.tanh(h)
        logs.append(np.log(np.linalg.norm(tangent)))
        tangent /= np.linalg.norm(tangent)
    return float(np.mean(logs[200:]))


@pytest.mark.parametrize("gain", [1.5, 2.0, 4.0])
def test_mean_field_growth_rate_is_approached_by_a_large_network(gain: float, generator: np.random.Generator) -> None:
    found = simulated_growth_rate(gain, generator)
    np.testing.assert_allclose(found, theory.mean_field_tanh_growth_rate(gain), atol=0.04)


@pytest.mark.parametrize("gain", [0.2, 0.9, 1.0])
def test_quiet_network_has_the_rate_of_its_linearisation(gain: float) -> None:
    assert theory.mean_field_tanh_growth_rate(gain) == np.log(gain)
    assert theory.mean_field_tanh_variance(gain) == 0


def test_mean_field_variance_is_a_fixed_point_of_monte_carlo_averages(generator: np.random.Generator) -> None:
    variance = theory.mean_field_tanh_variance(2.0)
    z = generator.normal(size=2_000_000)
    np.testing.assert_allclose(4 * np.mean(np.tanh(np.sqrt(variance) * z) ** 2), variance, rtol=2e-3)


def test_chaos_sets_in_continuously_at_gain_one() -> None:
    rates = [theory.mean_field_tanh_growth_rate(1 + excess) for excess in (1e-6, 1e-3, 0.1)]
    assert 0 < rates[0] < rates[1] < rates[2] < 0.1


def test_gain_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="`gain` must be positive, got 0"):
        theory.mean_field_tanh_growth_rate(0.0)


def test_theory_imports_no_torch() -> None:
    code = "import sys, gradhorizon.theory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
