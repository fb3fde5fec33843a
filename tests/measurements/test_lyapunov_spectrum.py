"""The Lyapunov spectrum against closed forms, the sum rule and products of exact Jacobians."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import polygamma, psi
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.initialization import gaussian
from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements import lyapunov_spectrum, tangent_maps
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.tasks.task import Batch
from gradhorizon.theory import gru_growth_rates, lstm_growth_rates
from tests import oracles_gradients
from tests.measurements.networks import NETWORKS, SquaredError, linear_network, random_probe
from tests.synthetic_cells import ClockedReader, PerStepLayer

TWINS: dict[str, Callable[[], Network]] = {
    **NETWORKS,
    "clocked": lambda: Network(partial(ClockedReader, hidden_size=2), 2, 2),
}


def read(probe: Probe, num_exponents: int | None = None, **options: Any) -> pd.DataFrame:
    return LyapunovSpectrum(LogSpaced(), num_exponents, **options).read(probe)


def medians(probe: Probe, num_exponents: int | None = None, **options: Any) -> np.ndarray:
    return read(probe, num_exponents, **options)["exponent_median_nats_per_step"].to_numpy()


def one_layer(cell: Callable[..., Recurrent], hidden_size: int = 3) -> Network:
    return Network(partial(cell, hidden_size=hidden_size), 2, 2).double()


class GivenJacobians(Recurrent):
    """h_t = M_t h_{t−1}, the matrix M_t being the step's input."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x.unflatten(-1, (self.hidden_size, self.hidden_size))

    def recur(self, projected_t: Tensor, state: State) -> State:
        return ((projected_t @ state[0].unsqueeze(-1)).squeeze(-1),)


def probe_of(jacobians: Tensor) -> Probe:
    """A probe whose recurrence has the given Jacobians, shape (B, N, S, S)."""
    batch_size, num_steps, size, _ = jacobians.shape
    network = Network(partial(GivenJacobians, hidden_size=size), size**2, size).double()
    targets = torch.zeros(batch_size, 1, size, dtype=torch.float64)
    return Probe(network, SquaredError(num_steps, size), Batch(jacobians.flatten(2), targets, (num_steps,)))


# The slow twin: the exact Jacobian of one sample and step at a time, multiplied out, one decomposition at the end.


def slow_jacobians(cell: Recurrent, own_inputs: list[Tensor]) -> list[np.ndarray]:
    state, found = cell.initial_state(1), []
    for t, x_t in enumerate(own_inputs):
        blocks = torch.autograd.functional.jacobian(lambda *parts, x=x_t, t=t: cell.step(x, parts, t), state)
        shape = [part.numel() for part in state]
        rows = [
            torch.cat([block.reshape(n, m) for block, m in zip(row, shape, strict=True)], dim=1)
            for row, n in zip(blocks, shape, strict=True)
        ]
        found.append(torch.cat(rows).detach().numpy())
        state = tuple(part.detach() for part in cell.step(x_t, state, t))
    return found


def slow_exponents(jacobians: list[np.ndarray], frame: np.ndarray, transient_steps: int) -> np.ndarray:
    for jacobian in jacobians[:transient_steps]:
        frame = jacobian @ frame
    product = np.linalg.qr(frame).Q
    for jacobian in jacobians[transient_steps:]:
        product = jacobian @ product
    growth = np.log(np.abs(np.diag(np.linalg.qr(product).R))) / (len(jacobians) - transient_steps)
    return np.sort(growth)[::-1]


def slow_table(probe: Probe, num_exponents: int | None, num_samples: int, transient_steps: int) -> pd.DataFrame:
    jacobians: dict[tuple[int, str], list[list[np.ndarray]]] = {}
    for b in range(num_samples):
        x = [x_t[None] for x_t in probe.batch.inputs[b]]
        outputs = oracles_gradients.run_one_sample(probe.network, x, probe.batch.loss_steps)[2]
        for index, layer in enumerate(probe.network.layers):
            for name, cell in layer.items():  # type: ignore[operator]
                direction = name.removesuffix("_cell")
                own_inputs = oracles_gradients.inputs_of_layer(probe, x, outputs, index, direction)
                own_inputs = [x_t.detach() for x_t in own_inputs]
                jacobians.setdefault((index, direction), []).append(slow_jacobians(cell, own_inputs))
    tables = [_slow_rows(*place, found, num_exponents, transient_steps) for place, found in jacobians.items()]
    return pd.concat(tables, ignore_index=True)


def _slow_rows(
    layer: int, direction: str, jacobians: list[list[np.ndarray]], num_exponents: int | None, transient_steps: int
) -> pd.DataFrame:
    size = len(jacobians[0][0])
    count = num_exponents or size
    frames = [np.eye(size)] if count == size else list(tangent_maps.random_frames(size, count).numpy())
    spectra = [np.array([slow_exponents(own, frame, transient_steps) for own in jacobians]) for frame in frames]
    return pd.DataFrame(
        {
            "layer": layer,
            "direction": direction,
            "exponent": range(1, count + 1),
            "exponent_median_nats_per_step": np.quantile(spectra[0], 0.5, axis=0),
            "exponent_p10_nats_per_step": np.quantile(spectra[0], 0.1, axis=0),
            "exponent_p90_nats_per_step": np.quantile(spectra[0], 0.9, axis=0),
            "num_samples": len(jacobians),
            "num_non_finite": 0,
            "num_below_resolution": 0,
            "window_steps": len(jacobians[0]) - transient_steps,
            "transient_steps": transient_steps,
            "state_size": size,
            "sum_rule_residual_nats_per_step": 0.0 if count == size else np.nan,
            "frame_residual_nats_per_step": np.nan if count == size else np.abs(spectra[0] - spectra[1]).max(),
        }
    )


@cache
def measured_and_expected(name: str, *options: Any) -> tuple[Probe, pd.DataFrame]:
    torch.manual_seed(1)
    probe = random_probe(TWINS[name]().double(), 6)
    return probe, slow_table(probe, *options)


def check_slow_twin(name: str, num_exponents: int | None, num_samples: int = 3, transient_steps: int = 2) -> None:
    probe, expected = measured_and_expected(name, num_exponents, num_samples, transient_steps)
    found = read(probe, num_exponents, num_samples=num_samples, transient_steps=transient_steps)
    residual = "sum_rule_residual_nats_per_step"
    # A residual that should vanish has no relative error.
    np.testing.assert_allclose(found[residual], expected[residual], rtol=0, atol=1e-8)
    pd.testing.assert_frame_equal(
        found.drop(columns=residual), expected.drop(columns=residual), rtol=1e-9, atol=0, check_dtype=False
    )


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
    monkeypatch.setattr(tangent_maps, "_MAX_DENSE_SIZE", 0)
    check_slow_twin(name, num_exponents)


def test_spectrum_does_not_depend_on_how_the_steps_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = random_probe(one_layer(LSTM), input_len=11)
    whole = read(probe).filter(like="exponent")
    monkeypatch.setattr(tangent_maps, "_MAX_ENTRIES", 4 * 4 * 36)
    np.testing.assert_allclose(read(probe).filter(like="exponent"), whole, rtol=1e-12)


@pytest.mark.parametrize("transient_steps", [0, 1, 5])
def test_window_begins_after_the_transient(transient_steps: int) -> None:
    check_slow_twin("lstm", 2, transient_steps=transient_steps)


original = tangent_maps.tangent_maps


def in_the_wrong_order(cell: Recurrent, x: Tensor, state: State) -> Iterator[tangent_maps.Push]:
    return reversed(list(original(cell, x, state)))


def over_the_hidden_state_alone(cell: Recurrent, x: Tensor, state: State) -> Iterator[tangent_maps.Push]:
    for push in original(cell, x, state):
        yield partial(_restricted, push, cell.hidden_size)


def _restricted(push: tangent_maps.Push, hidden_size: int, frame: Tensor) -> Tensor:
    is_hidden = (torch.arange(frame.shape[1]) < hidden_size).to(frame).unsqueeze(-1)
    return is_hidden * push(is_hidden * frame)


@pytest.mark.parametrize("mutation", [in_the_wrong_order, over_the_hidden_state_alone])
def test_wrong_jacobian_products_are_noticed(mutation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tangent_maps, "tangent_maps", mutation)
    with pytest.raises(AssertionError):
        check_slow_twin("lstm", 2)


@pytest.mark.parametrize("mutation", [in_the_wrong_order, over_the_hidden_state_alone])
def test_wrong_jacobian_products_change_a_closed_form(
    mutation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_product_of_two()
    check_forget_gates()
    monkeypatch.setattr(tangent_maps, "tangent_maps", mutation)
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


def test_complex_pair_of_eigenvalues_counts_twice() -> None:
    found = medians(linear(0.75 * np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])))
    np.testing.assert_allclose(found, np.log(0.75), rtol=1e-6)  # the weight was rounded to float32


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


@pytest.mark.parametrize("cell", [Elman, LSTM, GRU])
def test_sum_of_all_exponents_is_the_mean_log_determinant(cell: type[Recurrent]) -> None:
    residual = read(random_probe(one_layer(cell, 5), input_len=100))["sum_rule_residual_nats_per_step"]
    assert (residual < 1e-8).all()


def test_sum_rule_notices_a_wrong_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = random_probe(one_layer(GRU), input_len=30)
    doubled = [partial(_doubled, push) for push in original(*_first_layer(probe))]
    monkeypatch.setattr(tangent_maps, "tangent_maps", lambda *_: iter(doubled))
    np.testing.assert_allclose(read(probe)["sum_rule_residual_nats_per_step"], 3 * np.log(2), rtol=1e-9)


def _doubled(push: tangent_maps.Push, frame: Tensor) -> Tensor:
    return 2 * push(frame)


def _first_layer(probe: Probe) -> tuple[Recurrent, Tensor, State]:
    trace = probe.trace.layers[0]
    return trace.cell, trace.inputs.detach(), trace.cell.initial_state(len(trace.inputs))


def test_chaotic_network_has_a_positive_exponent_over_thousands_of_steps() -> None:
    torch.manual_seed(0)
    network = Network(partial(Elman, hidden_size=32, initialization=partial(gaussian, gain=3.0)), 2, 2)
    probe = random_probe(network, input_len=2200, batch_size=1)
    probe.batch.inputs.zero_()
    rows = read(probe, 2, transient_steps=100)
    assert (rows["num_non_finite"] == 0).all()
    assert 0.1 < rows["exponent_median_nats_per_step"].iloc[0] < np.log(3)


def test_exponents_start_from_the_given_state() -> None:
    """Of a tanh unit of weight 1 without input, whose first factor is 1 − tanh² of the state that it starts from."""
    cell = Elman(1, 1).double()
    with torch.no_grad():
        for parameter, value in zip(cell.rnn.all_weights[0], (0.0, 1.0, 0.0, 0.0), strict=True):
            parameter.fill_(value)
    state = torch.tensor([[0.0], [0.5], [2.0]], dtype=torch.float64)
    found = tangent_maps.finite_time_exponents(cell, torch.zeros(3, 1, 1).double(), torch.eye(1), (state,))
    torch.testing.assert_close(found, torch.log(1 - state.tanh().square()), rtol=1e-9, atol=1e-12)


# Pushed vectors and exact Jacobians.


@pytest.mark.parametrize("name", [name for name in TWINS if "deep" not in name and "attention" not in name])
def test_pushed_vectors_and_exact_jacobians_are_one_map(name: str) -> None:
    cell, x, state = _first_layer(random_probe(TWINS[name]().double()))
    state = tuple(torch.randn_like(part) for part in state)
    size = tangent_maps.state_size(cell)
    pushed = next(tangent_maps.tangent_maps(cell, x, state))(torch.eye(size).double().expand(len(x), size, size))
    flat = torch.cat([part.flatten(1) for part in state], dim=1)
    projected = torch.utils._pytree.tree_map(lambda part: part[:, 0].detach(), cell.project(x))
    exact = tangent_maps.exact_jacobians(cell, projected, flat)
    torch.testing.assert_close(pushed, exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("cell", [Elman, LSTM, GRU])
def test_pushing_forward_is_the_adjoint_of_pulling_back(cell: type[Recurrent]) -> None:
    layer = cell(2, 3).double()
    x = torch.randn(2, 1, 2, dtype=torch.float64)
    state = tuple(torch.randn(2, *shape, dtype=torch.float64).requires_grad_() for shape in layer.state_shapes.values())
    u, v = (torch.randn(2, tangent_maps.state_size(layer), dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        pushed = next(tangent_maps.tangent_maps(layer, x, state))(v.unsqueeze(-1)).squeeze(-1)
    found = torch.autograd.grad(layer.step(x[:, 0], state), state, u.split(3, dim=1))
    torch.testing.assert_close((u * pushed).sum(), (torch.cat(found, dim=1) * v).sum(), rtol=1e-12, atol=0)


def test_determinants_do_not_depend_on_how_the_steps_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, x, _ = _first_layer(random_probe(one_layer(LSTM), input_len=11))
    whole = tangent_maps.mean_log_determinants(cell, x, transient_steps=2)
    monkeypatch.setattr(tangent_maps, "_MAX_ENTRIES", 4 * len(x) * 36)
    torch.testing.assert_close(
        tangent_maps.mean_log_determinants(cell, x, transient_steps=2), whole, rtol=1e-12, atol=0
    )


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


@pytest.mark.parametrize("num_exponents", [None, 2])
def test_nan_parameters_are_counted_not_raised(num_exponents: int | None) -> None:
    network = NETWORKS["lstm"]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    rows = read(random_probe(network), num_exponents)
    assert (rows["num_non_finite"] == 4).all()
    assert (rows["num_below_resolution"] == 0).all()
    assert rows.filter(like="nats_per_step").isna().all(axis=None)


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


def test_reading_leaves_network_and_random_state_bit_identical() -> None:
    probe = random_probe(NETWORKS["bidirectional"]())
    before = [parameter.detach().clone() for parameter in probe.network.parameters()]
    random_state = torch.get_rng_state()
    read(probe, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, probe.network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in probe.network.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("num_exponents", [None, 2])
def test_reading_twice_in_any_mode_gives_the_same_bits(mode: Callable[[], Any], num_exponents: int | None) -> None:
    network = NETWORKS["deep"]()
    expected = read(random_probe(network), num_exponents)
    with mode():
        found = read(random_probe(network), num_exponents)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0)


def test_spectrum_goes_on_after_reading_the_gradients_of_the_same_probe() -> None:
    probe = random_probe(NETWORKS["lstm"]())
    expected = read(probe, 2)
    assert probe.state_gradients
    pd.testing.assert_frame_equal(read(probe, 2), expected, rtol=0, atol=0)


def test_network_without_recurrence_gives_no_rows() -> None:
    rows = read(random_probe(Network(partial(PerStepLayer, hidden_size=3), 2, 2)))
    assert rows.empty
    assert list(rows.columns) == [column.name for column in LyapunovSpectrum.table.columns]


def test_large_states_get_two_random_frames_in_place_of_the_sum_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lyapunov_spectrum, "MAX_SUM_RULE_SIZE", 2)
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


@pytest.mark.parametrize(
    ("option", "value"),
    [("num_exponents", 0), ("num_samples", 0), ("transient_steps", -1), ("qr_every_steps", 0)],
)
def test_options_out_of_range_are_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"`{option}` must be at least {value + 1}, got {value}"):
        LyapunovSpectrum(LogSpaced(), **{option: value})
