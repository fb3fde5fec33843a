"""Initialisations: exact where they are exact, their distribution where they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gradhorizon.cells.cell import Initialization, Recurrent
from gradhorizon.cells.elman import Elman, identity, unbiased_gaussian
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.initialization import gaussian, orthogonal, uniform
from gradhorizon.cells.lstm import LSTM, chrono, forget_bias

CELLS: list[type[Recurrent]] = [Elman, LSTM, GRU]


def _build(cell: type[Recurrent], hidden_size: int, initialization: Initialization) -> Recurrent:
    return cell(4, hidden_size, initialization=initialization)  # type: ignore[call-arg]


def _total_bias(cell: LSTM) -> tuple[Tensor, ...]:
    total: Tensor = cell.rnn.all_weights[0][2] + cell.rnn.all_weights[0][3]
    return total.detach().chunk(4)


def _p_value(draws: Tensor, distribution: str, arguments: tuple[float, ...]) -> float:
    return float(stats.kstest(draws.detach().flatten().numpy(), distribution, args=arguments).pvalue)


@pytest.mark.parametrize("cell", CELLS)
def test_uniform_draws_every_parameter_within_one_over_root_hidden_size(cell: type[Recurrent]) -> None:
    for parameter in _build(cell, 64, uniform).parameters():
        assert _p_value(parameter, "uniform", (-1 / 8, 1 / 4)) > 1e-3


@pytest.mark.parametrize("cell", CELLS)
def test_uniform_is_the_default(cell: type[Recurrent]) -> None:
    torch.manual_seed(5)
    default = cell(4, 6)
    torch.manual_seed(5)
    explicit = _build(cell, 6, uniform)
    for one, other in zip(default.parameters(), explicit.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("cell", CELLS)
def test_gaussian_draws_recurrent_entries_of_variance_gain_squared_over_hidden_size(cell: type[Recurrent]) -> None:
    for weight in _build(cell, 64, partial(gaussian, gain=1.5)).recurrent_weights().values():
        assert _p_value(weight, "norm", (0.0, 1.5 / 8)) > 1e-3


def test_unbiased_gaussian_is_gaussian_with_biases_of_zero() -> None:
    torch.manual_seed(5)
    expected = Elman(4, 64, initialization=partial(gaussian, gain=1.5)).rnn.all_weights[0]
    torch.manual_seed(5)
    weight_ih, weight_hh, *biases = Elman(4, 64, initialization=partial(unbiased_gaussian, gain=1.5)).rnn.all_weights[0]
    assert torch.equal(weight_ih, expected[0])
    assert torch.equal(weight_hh, expected[1])
    assert all((bias == 0).all() for bias in biases)


def test_spectral_radius_of_a_large_gaussian_matrix_is_near_its_gain() -> None:
    weight = Elman(1, 400, initialization=partial(gaussian, gain=1.3)).recurrent_weights()["weight_hh"]
    assert float(torch.linalg.eigvals(weight.detach()).abs().max()) == pytest.approx(1.3, rel=0.05)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden_size", [1, 7])
def test_orthogonal_makes_every_recurrent_matrix_a_multiple_of_an_orthogonal_one(
    cell: type[Recurrent], hidden_size: int
) -> None:
    for weight in _build(cell, hidden_size, partial(orthogonal, gain=0.9)).recurrent_weights().values():
        torch.testing.assert_close(weight @ weight.T, 0.81 * torch.eye(hidden_size), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", [LSTM, GRU])
def test_orthogonal_draws_another_matrix_for_each_gate(cell: type[Recurrent]) -> None:
    first, second, *_ = _build(cell, 7, orthogonal).recurrent_weights().values()
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("initialization", [partial(gaussian, gain=0.9), orthogonal])
def test_at_one_seed_variants_share_all_but_the_recurrent_matrix(initialization: Initialization) -> None:
    torch.manual_seed(5)
    default = dict(Elman(4, 6).named_parameters())
    torch.manual_seed(5)
    variant = dict(Elman(4, 6, initialization=initialization).named_parameters())
    shared = {name for name in default if torch.equal(default[name], variant[name])}
    assert set(default) - shared == {"rnn.weight_hh_l0"}


def test_identity_is_exact_and_its_biases_are_zero() -> None:
    weight_ih, weight_hh, *biases = Elman(400, 6, "relu", identity).rnn.all_weights[0]
    assert torch.equal(weight_hh, torch.eye(6))
    assert all((bias == 0).all() for bias in biases)
    assert _p_value(weight_ih, "norm", (0.0, 0.001)) > 1e-3


def test_scaled_identity_is_exact() -> None:
    weight_hh = Elman(2, 6, "relu", partial(identity, scale=0.5)).recurrent_weights()["weight_hh"]
    assert torch.equal(weight_hh, 0.5 * torch.eye(6))


@pytest.mark.usefixtures("float64")
def test_irnn_without_input_copies_a_nonnegative_state_and_its_gradient_exactly() -> None:
    cell = Elman(2, 6, "relu", identity)
    state = torch.rand(3, 6, requires_grad=True)
    outputs, (h,) = cell.segment(torch.zeros(3, 200, 2), (state,))
    weights = torch.randn_like(h)
    assert torch.equal(h, state)
    assert torch.equal(torch.autograd.grad((weights * outputs[:, -1]).sum(), state)[0], weights)


@pytest.mark.parametrize("value", [1.0, 0.0, -2.5])
def test_forget_bias_is_the_total_over_both_bias_vectors(value: float) -> None:
    _, forget, _, _ = _total_bias(LSTM(3, 8, partial(forget_bias, value=value)))
    assert (forget == value).all()


def test_forget_gate_without_input_and_state_is_the_sigmoid_of_the_forget_bias() -> None:
    cell = LSTM(3, 8, partial(forget_bias, value=2.0))
    gates = cell.gates(cell.project(torch.zeros(1, 1, 3))[:, 0], cell.initial_state(1))
    torch.testing.assert_close(gates["forget_gate"], torch.full((1, 8), 2.0).sigmoid())


def test_at_one_seed_forget_bias_changes_the_forget_bias_alone() -> None:
    torch.manual_seed(5)
    default = LSTM(3, 8)
    torch.manual_seed(5)
    variant = LSTM(3, 8, forget_bias)
    assert torch.equal(default.rnn.all_weights[0][1], variant.rnn.all_weights[0][1])
    changed = [not torch.equal(*pair) for pair in zip(_total_bias(default), _total_bias(variant), strict=True)]
    assert changed == [False, True, False, False]


def test_chrono_time_scales_are_uniform_and_the_input_bias_is_opposite() -> None:
    opposite, forget, _, _ = _total_bias(LSTM(3, 500, partial(chrono, seq_len=101)))
    assert torch.equal(opposite, -forget)
    assert _p_value(forget.exp(), "uniform", (1.0, 99.0)) > 1e-3


def test_chrono_at_the_shortest_length_stays_between_its_bounds() -> None:
    _, forget, _, _ = _total_bias(LSTM(3, 64, partial(chrono, seq_len=3)))
    assert (forget >= 0).all()
    assert (forget.exp() <= 2.0 + 1e-6).all()


@pytest.mark.parametrize("seq_len", [2, 0, -5])
def test_chrono_refuses_a_length_without_time_scales(seq_len: int) -> None:
    with pytest.raises(ValueError, match=f"`seq_len` must be at least 3 for chrono .*, got {seq_len}"):
        LSTM(3, 4, partial(chrono, seq_len=seq_len))


@pytest.mark.parametrize("initialization", [gaussian, orthogonal, unbiased_gaussian])
@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan")])
def test_gain_that_is_not_positive_is_refused(initialization: Callable[..., None], gain: float) -> None:
    with pytest.raises(ValueError, match="`gain` must be positive, got"):
        Elman(3, 4, initialization=partial(initialization, gain=gain))


def test_unknown_nonlinearity_is_refused() -> None:
    with pytest.raises(ValueError, match="`nonlinearity` must be tanh or relu, got 'sigmoid'"):
        Elman(3, 4, "sigmoid")


def test_initialisation_reaches_the_weights_that_the_fused_kernel_reads() -> None:
    (kernel,) = Elman(2, 3, "relu", identity).children()
    assert isinstance(kernel, nn.RNN)
    outputs, _ = kernel(torch.zeros(1, 5, 2), torch.ones(1, 1, 3))
    assert torch.equal(outputs, torch.ones(1, 5, 3))
