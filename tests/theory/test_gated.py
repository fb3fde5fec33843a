"""Closed forms of gates and their biases against cells that meet their assumptions, and against drawn biases."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from gradhorizon import theory
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.cells.lstm import chrono as chrono_initialization
from tests.theory.profiles import through_time


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


@pytest.mark.parametrize("bias", [-800.0, -2.0, 0.0, 1.0, 40.0])
def test_decay_of_forget_bias_is_the_log_of_its_gate(bias: float) -> None:
    found = theory.expected_decay_of_forget_bias(bias)
    expected = bias if bias < -700 else -np.log1p(np.exp(-bias))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_time_scale_of_forget_bias_is_that_of_its_gate() -> None:
    bias = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(theory.time_scale_of_forget_bias(bias), 1 / (1 - 1 / (1 + np.exp(-bias))), rtol=1e-12)


def chrono_gates(num_units: int, seq_len: int) -> np.ndarray:
    """Forget gates of a chrono-initialised cell that sees its biases alone."""
    cell = LSTM(1, num_units, initialization=partial(chrono_initialization, seq_len=seq_len))
    _, _, bias_ih, bias_hh = cell.rnn.all_weights[0]
    return torch.sigmoid((bias_ih + bias_hh).chunk(4)[1].detach().double()).numpy()


@pytest.mark.parametrize("seq_len", [3, 50, 1000])
def test_chrono_profile_is_the_mean_over_drawn_biases(seq_len: int, generator: np.random.Generator) -> None:
    gates = 1 / (1 + 1 / generator.uniform(1, seq_len - 1, size=400_000))
    for lag in (1, 10, 100):
        found = theory.chrono_profile([lag], seq_len)[0]
        np.testing.assert_allclose(found, np.sqrt((gates ** (2.0 * lag)).mean()), rtol=0.02)


def test_chrono_profile_is_that_of_the_initialised_cell() -> None:
    found = np.sqrt((chrono_gates(1000, 30)[:, None] ** (2.0 * np.arange(30))).mean(axis=0))
    np.testing.assert_allclose(found, theory.chrono_profile(np.arange(30), 30), rtol=0.1)


def test_chrono_profile_of_a_degenerate_length_is_refused() -> None:
    with pytest.raises(ValueError, match="`seq_len` must be at least 3 for chrono"):
        theory.chrono_profile([0], 2)


@pytest.mark.parametrize("seq_len", [3, 30, 1000])
def test_chrono_time_scales_are_those_of_the_initialised_cell(seq_len: int) -> None:
    num_units, probabilities = 500, np.array([0.1, 0.25, 0.5, 0.9])
    time_scales = np.sort(1 / (1 - chrono_gates(num_units, seq_len)))
    found = theory.chrono_time_scale_quantiles(seq_len, probabilities)
    # Counted, not interpolated: units below a quantile are binomial.
    num_below = np.searchsorted(time_scales, found)
    error = np.sqrt(num_units * probabilities * (1 - probabilities))
    assert (np.abs(num_below - num_units * probabilities) < 5 * error).all()


def test_chrono_time_scales_reach_from_two_steps_to_the_whole_sequence() -> None:
    time_scales = 1 / (1 - chrono_gates(500, 100))
    low, high = theory.chrono_time_scale_quantiles(100, [0.0, 1.0])
    assert low <= time_scales.min() < low + 2
    assert high - 2 < time_scales.max() <= high


def test_chrono_time_scales_of_a_degenerate_length_are_refused() -> None:
    with pytest.raises(ValueError, match="`seq_len` must be at least 3 for chrono"):
        theory.chrono_time_scale_quantiles(2, [0.5])


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_probability_outside_the_unit_interval_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=r"`probabilities` must lie in \[0, 1\]"):
        theory.chrono_time_scale_quantiles(30, [0.5, probability])
