"""The Lyapunov spectrum against closed forms, the sum rule and products of exact Jacobians."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import polygamma, psi
from torch import Tensor

from gradhorizon import cells
from gradhorizon.cells.cell import Recurrent
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.jacobians import one_step
from gradhorizon.jacobians.exponents import finite_time_exponents, mean_log_determinants
from gradhorizon.jacobians.one_step import Push, StepJacobians
from gradhorizon.measurements import exponent_rows
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.tasks.task import Batch
from gradhorizon.theory import gru_growth_rates, lstm_growth_rates
from tests.measurements.networks import NETWORKS, SquaredError, linear_network, random_probe
from tests.measurements.spectra import (
    ROOT_MODELS,
    TWINS,
    cell_of,
    check_equal,
    first_layer,
    henon_network,
    jacobians_along_inputs,
    one_layer,
    probe_of,
    slow_table,
)
from tests.models import build_cell, build_network
from tests.synthetic_cells import PerStepLayer


def read(probe: Probe, num_exponents: int | None = None, **options: Any) -> pd.DataFrame:
    return LyapunovSpectrum(LogSpaced(), num_exponents, **options).read(probe)


def medians(probe: Probe, num_exponents: int | None = None, **options: Any) -> np.ndarray:
    return read(probe, num_exponents, **options)["exponent_median_nats_per_step"].to_numpy()


@cache
def measured_and_expected(
    name: str, num_exponents: int | None, num_samples: int, transient_steps: int
) -> tuple[Probe, pd.DataFrame, pd.DataFrame]:
    torch.manual_seed(1)
    probe = random_probe(TWINS[name]().double(), 6)
    return probe, *slow_table(jacobians_along_inputs(probe, num_samples), num_exponents, transient_steps)


def check_slow_twin(name: str, num_exponents: int | None, num_samples: int = 3, transient_steps: int = 2) -> None:
    probe, *expected = measured_and_expected(name, num_exponents, num_samples, transient_steps)
    check_equal(read(probe, num_exponents, num_samples=num_samples, transient_steps=transient_steps), *expected)


@pytest.mark.oracle("slow twin: exact Jacobians of one sample and step, multiplied out, from two random frames")
def test_leading_exponents_equal_the_slow_twin() -> None:
    check_slow_twin("deep", 3)


@pytest.mark.parametrize("name", TWINS)
def test_full_spectrum_of_every_network_equals_the_slow_twin(name: str) -> None:
    check_slow_twin(name, None)


@pytest.mark.parametrize("num_exponents", [None, 2])
@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "own_output", "clocked"])
def test_large_states_equal_the_slow_twin(
    name: str, num_exponents: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_step, "_MAX_DENSE_ENTRIES", 0)
    check_slow_twin(name, num_exponents)


def test_spectrum_does_not_depend_on_how_the_steps_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = random_probe(one_layer(LSTM), input_len=11)
    whole = read(probe).filter(like="exponent")
    monkeypatch.setattr(one_step, "_MAX_ENTRIES", 4 * 4 * 36)
    np.testing.assert_allclose(read(probe).filter(like="exponent"), whole, rtol=1e-12)


@pytest.mark.parametrize("transient_steps", [0, 1, 5])
def test_window_begins_after_the_transient(transient_steps: int) -> None:
    check_slow_twin("lstm", 2, transient_steps=transient_steps)


original = StepJacobians.pushes


def in_the_wrong_order(self: StepJacobians) -> Iterator[Push]:
    return reversed(list(original(self)))


def over_the_hidden_state_alone(self: StepJacobians) -> Iterator[Push]:
    for push in original(self):
        yield partial(_restricted, push)


def _restricted(push: Push, vectors: Tensor) -> Tensor:
    is_hidden = (torch.arange(vectors.shape[-1]) < 3).to(vectors)
    return is_hidden * push(is_hidden * vectors)


@pytest.mark.parametrize("mutation", [in_the_wrong_order, over_the_hidden_state_alone])
def test_wrong_jacobian_products_are_noticed(mutation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepJacobians, "pushes", mutation)
    with pytest.raises(AssertionError):
        check_slow_twin("lstm", 2)


@pytest.mark.parametrize("mutation", [in_the_wrong_order, over_the_hidden_state_alone])
def test_wrong_jacobian_products_change_a_closed_form(
    mutation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_product_of_two()
    check_forget_gates()
    monkeypatch.setattr(StepJacobians, "pushes", mutation)
    with pytest.raises(AssertionError):
        check_product_of_two() if mutation is in_the_wrong_order else check_forget_gates()


def check_product_of_two() -> None:
    """J_2 J_1 sends e_1 to e_2 and keeps areas; J_1 J_2 would stretch it to (1, 1)."""
    shear = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    jacobians = torch.stack([shear, swap @ shear])[None]
    np.testing.assert_allclose(medians(probe_of(jacobians)), [0.0, 0.0], atol=1e-12)


# Closed forms.


@torch.no_grad()
def without_recurrent_weights(cell: type[LSTM | GRU]) -> Network:
    network = one_layer(cell)
    network.layers[0]["forward_cell"].rnn.weight_hh_l0.zero_()  # type: ignore[index]
    return network


@torch.no_grad()
def gate_along_inputs(probe: Probe, row: int) -> np.ndarray:
    """σ(W x + b) of the second block of rows (forget gate, update gate), shape (N, B, H)."""
    weight_ih, _, bias_ih, bias_hh = probe.trace.layers[0].cell.rnn.all_weights[0]  # type: ignore[index,union-attr]
    blocks = (part.chunk(len(part) // 3)[row] for part in (weight_ih, bias_ih, bias_hh))
    weight, own_bias, recurrent_bias = blocks
    return torch.sigmoid(probe.batch.inputs @ weight.T + own_bias + recurrent_bias).movedim(1, 0).numpy()


def check_forget_gates() -> None:
    torch.manual_seed(2)
    probe = random_probe(without_recurrent_weights(LSTM), input_len=50)
    rows = read(probe)
    expected = np.median(np.sort(lstm_growth_rates(gate_along_inputs(probe, 1)))[:, ::-1], axis=0)
    np.testing.assert_allclose(rows["exponent_median_nats_per_step"][:3], expected, rtol=1e-9)
    assert rows["num_below_resolution"].tolist() == [0, 0, 0, 4, 4, 4]
    assert rows["exponent_median_nats_per_step"][3:].isna().all()
    assert rows["sum_rule_residual_nats_per_step"].isna().all()


@pytest.mark.oracle("closed form: an LSTM without recurrent weights has the exponents mean ln f, the others none")
def test_lstm_without_recurrent_weights_has_the_exponents_of_its_forget_gates() -> None:
    check_forget_gates()


def test_random_frames_find_the_forget_gates_within_a_constant_over_the_window() -> None:
    network = without_recurrent_weights(LSTM)
    cell = network.layers[0]["forward_cell"]  # type: ignore[index]
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.rnn.bias_ih_l0[3:6] = torch.tensor([-1.0, 1.0, 4.0])
    expected = np.log(1 / (1 + np.exp([-4.0, -1.0, 1.0])))
    errors = [np.abs(medians(random_probe(network, steps), 3) - expected).max() for steps in (60, 240)]
    assert errors[0] > 1e-9
    np.testing.assert_allclose(errors[1], errors[0] / 4, rtol=1e-6)


def test_gru_without_recurrent_weights_has_the_exponents_of_its_update_gates() -> None:
    probe = random_probe(without_recurrent_weights(GRU), input_len=50)
    expected = np.median(np.sort(gru_growth_rates(gate_along_inputs(probe, 1)))[:, ::-1], axis=0)
    np.testing.assert_allclose(medians(probe), expected, rtol=1e-9)


@pytest.mark.parametrize("num_exponents", [None, 2])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_scaled_orthogonal_recurrence_has_the_logarithm_of_its_scale(scale: float, num_exponents: int | None) -> None:
    found = medians(random_probe(linear_network(scale, 2), input_len=80), num_exponents)
    np.testing.assert_allclose(found, np.log(scale), rtol=1e-9, atol=1e-9 if scale == 1 else 0)


def linear(weight: Any) -> Probe:
    network = linear_network(1.0, len(weight))
    with torch.no_grad():
        network.layers[0]["forward_cell"].weight_hh.copy_(torch.as_tensor(weight))  # type: ignore[index]
    batch = Batch(torch.randn(4, 32, len(weight)), torch.zeros(4, 1, len(weight)), (32,))
    return Probe(network.double(), SquaredError(32, len(weight)), batch)


def test_diagonal_recurrence_has_the_logarithms_of_its_factors_in_order() -> None:
    found = medians(linear(np.diag([0.25, -0.875, 0.5])))
    np.testing.assert_allclose(found, np.log([0.875, 0.5, 0.25]), rtol=1e-9)


TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])
TURNS = {
    "complex pair": (0.75 * np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]]), [0.75, 0.75]),
    "antisymmetric": (np.kron(np.diag([0.5, 0.8]), TURN), [0.8, 0.8, 0.5, 0.5]),
    # h + ε (A − γ I) h with ε = 0.1, γ = 0.5 and A antisymmetric
    "damped antisymmetric": (
        0.95 * np.eye(4) + 0.1 * np.kron(np.diag([2.0, 3.0]), TURN),
        np.hypot(0.95, [0.3, 0.3, 0.2, 0.2]),
    ),
    "complex pair and a real eigenvalue": (
        np.block([[0.75 * TURN, np.zeros((2, 1))], [np.zeros((1, 2)), np.array([[1.25]])]]),
        [1.25, 0.75, 0.75],
    ),
}


@pytest.mark.parametrize("name", TURNS)
def test_complex_pair_of_eigenvalues_counts_twice(name: str) -> None:
    weight, moduli = TURNS[name]
    np.testing.assert_allclose(medians(linear(weight)), np.log(moduli), rtol=1e-9)


def test_state_of_one_unit_has_the_mean_logarithm_of_its_derivative() -> None:
    probe = random_probe(one_layer(Elman, 1), input_len=40)
    weight_ih, weight_hh, bias_ih, bias_hh = (part.numpy(force=True) for part in cell_of(probe.network).parameters())
    h, logarithms = np.zeros((4, 1)), []
    for x in probe.batch.inputs.numpy().swapaxes(0, 1):
        h = np.tanh(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh)
        logarithms.append(np.log(np.abs((1 - h**2) * weight_hh)))
    np.testing.assert_allclose(medians(probe), np.median(np.mean(logarithms, axis=0)), rtol=1e-9)


@pytest.mark.parametrize("num_exponents", [None, 2])
def test_single_step_equals_the_slow_twin(num_exponents: int | None) -> None:
    probe = random_probe(NETWORKS["bidirectional"]().double(), 1)
    check_equal(read(probe, num_exponents), *slow_table(jacobians_along_inputs(probe, 4), num_exponents, 0))


def test_henon_map_has_its_known_exponents_and_dimension() -> None:
    """λ = 0.4192, −1.6231 and D = 1.258, Sprott (2003), Chaos and Time-Series Analysis; their sum is ln 0.3 exactly."""
    rows = read(random_probe(henon_network(), input_len=3000, batch_size=1), transient_steps=100)
    found = rows["exponent_median_nats_per_step"]
    np.testing.assert_allclose(found.sum(), np.log(0.3), rtol=1e-9)
    np.testing.assert_allclose(found, [0.4192, -1.6231], atol=0.02)
    np.testing.assert_allclose(rows["kaplan_yorke_dimension_median"], 1.2583, atol=0.01)
    np.testing.assert_allclose(rows["entropy_rate_median_nats_per_step"], found[0], rtol=1e-12)


@pytest.mark.oracle("closed form: given diagonal Jacobians have the dimension and entropy that pencil and paper give")
def test_dimension_and_entropy_of_given_diagonals() -> None:
    """λ = (ln 3, −ln 9) has D = 1.5 and (ln 2, −ln 8) has D = 4/3; leading exponents alone leave both open."""
    spectra = torch.tensor([[3.0, 1 / 9], [2.0, 1 / 8], [2.0, 1 / 8]], dtype=torch.float64)
    jacobians = torch.diag_embed(spectra).unsqueeze(1).expand(-1, 6, 2, 2)
    rows = read(probe_of(jacobians))
    for name, dimension, rate in (
        ("median", 4 / 3, np.log(2)),
        ("p90", 4 / 3 + 0.8 / 6, np.log(2) + 0.8 * np.log(1.5)),
    ):
        np.testing.assert_allclose(rows[f"kaplan_yorke_dimension_{name}"], dimension, rtol=1e-9)
        np.testing.assert_allclose(rows[f"entropy_rate_{name}_nats_per_step"], rate, rtol=1e-9)
    assert (rows[["num_undefined_dimensions", "num_undefined_entropy_rates"]] == 0).all(axis=None)
    leading = read(probe_of(jacobians), 1)
    assert (leading[["num_undefined_dimensions", "num_undefined_entropy_rates"]] == 3).all(axis=None)
    assert leading.filter(regex="dimension_|entropy_rate_m").isna().all(axis=None)


@pytest.mark.oracle("closed form: a reflection keeps every length, exactly")
def test_reflection_has_exponents_and_residual_of_exactly_zero() -> None:
    rows = read(linear(np.diag([1.0, -1.0])))
    assert (rows["exponent_median_nats_per_step"] == 0).all()
    assert (rows["sum_rule_residual_nats_per_step"] == 0).all()
    assert rows["frame_residual_nats_per_step"].isna().all()


def test_independent_gaussian_jacobians_have_the_exponents_of_newman() -> None:
    """λ_i = ln σ + ½ [ln 2 + ψ((S − i + 1)/2)], Newman (1986); its error is that of a mean of N·B logs of χ²."""
    size, num_steps, batch_size, deviation = 4, 200, 16, 0.3
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(batch_size, num_steps, size, size, generator=generator, dtype=torch.float64)
    degrees = size - np.arange(size)
    expected = np.log(deviation) + 0.5 * (np.log(2) + psi(degrees / 2))
    error = 0.5 * np.sqrt(polygamma(1, degrees / 2) / (num_steps * batch_size))
    found = medians(probe_of(deviation * draws), num_samples=16)
    assert (np.abs(found - expected) < 5 * error).all()
    assert (np.abs(found - expected) < 0.05).all()


def shipped_cells() -> set[str]:
    """Modules of `gradhorizon.cells` that define a recurrence, and lend none to modules from elsewhere."""
    modules = {name for _, name, _ in pkgutil.iter_modules(cells.__path__)} - {"adapters", "called"}
    names = [f"gradhorizon.cells.{name}" for name in modules]
    found = [own for name in names for own in vars(importlib.import_module(name)).values() if isinstance(own, type)]
    return {own.__module__ for own in found if issubclass(own, Recurrent) and not inspect.isabstract(own)}


def test_models_cover_every_shipped_cell() -> None:
    assert {type(build_cell(name)).__module__ for name in ROOT_MODELS} == shipped_cells()


@pytest.mark.parametrize("name", [*ROOT_MODELS, "rnn_relu"])
def test_sum_of_all_exponents_is_the_mean_log_determinant(name: str) -> None:
    torch.manual_seed(4)
    network = build_network(name, input_size=2, hidden_size=5).double()
    if getattr(cell_of(network), "nonlinearity", None) == "relu":
        with torch.no_grad():
            cell_of(network).rnn.weight_hh_l0.abs_()  # with the bias no unit is off, which would make a step singular
            cell_of(network).rnn.bias_ih_l0.fill_(50.0)
    rows = read(random_probe(network, input_len=60))
    assert (rows["num_below_resolution"] == 0).all()
    assert (rows["sum_rule_residual_nats_per_step"] < 1e-8).all()


def test_sum_rule_notices_a_wrong_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = random_probe(one_layer(GRU), input_len=30)
    monkeypatch.setattr(StepJacobians, "pushes", doubled)
    np.testing.assert_allclose(read(probe)["sum_rule_residual_nats_per_step"], 3 * np.log(2), rtol=1e-9)


def doubled(self: StepJacobians) -> Iterator[Push]:
    return (partial(_doubled, push) for push in original(self))


def _doubled(push: Push, vectors: Tensor) -> Tensor:
    return 2 * push(vectors)


def test_exponents_start_from_the_given_state() -> None:
    """Of a tanh unit of weight 1 without input, whose first factor is 1 − tanh² of the state that it starts from."""
    cell = Elman(1, 1).double()
    with torch.no_grad():
        for parameter, value in zip(cell.rnn.all_weights[0], (0.0, 1.0, 0.0, 0.0), strict=True):
            parameter.fill_(value)
    state = torch.tensor([[0.0], [0.5], [2.0]], dtype=torch.float64)
    maps = StepJacobians(cell, torch.zeros(3, 1, 1).double(), (state,))
    found = finite_time_exponents(maps, torch.ones(1, 1, 1))
    torch.testing.assert_close(found[0], torch.log(1 - state.tanh().square()), rtol=1e-9, atol=1e-12)


def test_determinants_do_not_depend_on_how_the_steps_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = first_layer(random_probe(one_layer(LSTM), input_len=11))
    whole = mean_log_determinants(maps, transient_steps=2)
    monkeypatch.setattr(one_step, "_MAX_ENTRIES", 4 * 4 * 36)
    torch.testing.assert_close(mean_log_determinants(maps, transient_steps=2), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("qr_every_steps", [2, 3, 100])
def test_rarer_decompositions_give_the_same_exponents(qr_every_steps: int) -> None:
    probe = random_probe(NETWORKS["lstm"](), input_len=10)
    found = medians(probe, 2, transient_steps=1, qr_every_steps=qr_every_steps)
    np.testing.assert_allclose(found, medians(probe, 2, transient_steps=1), rtol=1e-9)


# What has no finite number.


def test_dead_relu_units_are_below_resolution() -> None:
    network = one_layer(partial(Elman, nonlinearity="relu"), 4)
    with torch.no_grad():
        network.layers[0]["forward_cell"].rnn.bias_ih_l0[:] = torch.tensor([50.0, -1e6, 60.0, -1e6])  # type: ignore[index]
    rows = read(random_probe(network, input_len=20))
    assert rows["num_below_resolution"].tolist() == [0, 0, 4, 4]
    assert rows["exponent_median_nats_per_step"].notna().tolist() == [True, True, False, False]
    assert rows["frame_residual_nats_per_step"].notna().all()


def test_recurrence_that_forgets_all_has_no_exponent() -> None:
    rows = read(probe_of(torch.zeros(2, 5, 3, 3, dtype=torch.float64)), 2)
    assert (rows["num_below_resolution"] == 2).all()
    assert rows[["exponent_median_nats_per_step", "frame_residual_nats_per_step"]].isna().all(axis=None)


def test_one_singular_step_in_the_window_is_enough_and_one_before_it_is_not() -> None:
    jacobians = 0.5 * torch.eye(2, dtype=torch.float64).expand(1, 6, 2, 2).clone()
    jacobians[:, 2, 1, 1] = 1e-20
    assert read(probe_of(jacobians), transient_steps=2)["num_below_resolution"].tolist() == [0, 1]
    assert read(probe_of(jacobians), transient_steps=3)["num_below_resolution"].tolist() == [0, 0]


def test_one_broken_sample_leaves_the_others_as_they_are() -> None:
    jacobians = torch.eye(2, dtype=torch.float64).expand(3, 6, 2, 2).clone()
    jacobians[1, 4, 0, 0] = torch.inf
    rows = read(probe_of(jacobians))
    assert (rows["num_non_finite"] == 1).all()
    assert (rows["exponent_p90_nats_per_step"] == 0).all()


def test_infinite_growth_is_counted_as_non_finite() -> None:
    rows = read(probe_of(torch.full((1, 3, 1, 1), torch.inf, dtype=torch.float64)))
    assert rows["num_non_finite"].tolist() == [1]


def test_sample_that_breaks_after_a_singular_step_is_counted_as_non_finite_alone() -> None:
    jacobians = torch.stack([torch.zeros(2, 2), torch.full((2, 2), torch.nan)]).double()[None]
    rows = read(probe_of(jacobians))
    assert rows["num_non_finite"].tolist() == [1, 1]
    assert rows["num_below_resolution"].tolist() == [0, 0]


def test_products_far_beyond_float64_are_measured() -> None:
    jacobians = torch.diag(torch.tensor([1e100, 1e90], dtype=torch.float64)).expand(1, 50, 2, 2)
    np.testing.assert_allclose(medians(probe_of(jacobians)), np.log([1e100, 1e90]), rtol=1e-12)


# Nothing else is changed, and nothing is accepted that cannot be measured.


def test_spectrum_goes_on_after_reading_the_gradients_of_the_same_probe() -> None:
    probe = random_probe(NETWORKS["lstm"]())
    expected = read(probe, 2)
    assert probe.state_gradients
    pd.testing.assert_frame_equal(read(probe, 2), expected, rtol=0, atol=0)


def test_large_states_get_two_random_frames_in_place_of_the_sum_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exponent_rows, "MAX_SUM_RULE_SIZE", 2)
    rows = read(random_probe(NETWORKS["gru"]()))
    assert rows["sum_rule_residual_nats_per_step"].isna().all()
    assert (rows["frame_residual_nats_per_step"] > 0).all()


def test_more_exponents_than_the_state_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_exponents` must be at most the state size, got 7 for the 6 entries"):
        read(random_probe(NETWORKS["lstm"]()), 7)


@pytest.mark.parametrize("transient_steps", [7, 8])
def test_transient_as_long_as_the_sequence_is_refused(transient_steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1 step after the transient"):
        read(random_probe(NETWORKS["lstm"]()), 2, transient_steps=transient_steps)


def test_network_and_task_that_cannot_be_measured_are_refused_before_training() -> None:
    check = partial(LyapunovSpectrum(LogSpaced(), 7, transient_steps=4).check, task=SquaredError(4))
    with pytest.raises(ValueError, match=r"`num_exponents` must be at most the state size, got 7 for the 6 entries"):
        check(NETWORKS["deep"]())
    with pytest.raises(ValueError, match=r"at least 1 step after the transient, got `transient_steps`=4 and 4 steps"):
        check(one_layer(LSTM, 4))
    check(one_layer(LSTM, 4), task=SquaredError(5))
    check(Network(partial(PerStepLayer, hidden_size=3), 2, 2))
