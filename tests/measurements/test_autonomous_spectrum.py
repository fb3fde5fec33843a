"""The spectrum without input against closed forms, random-network theory and products of exact Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.cells.elman import Elman, unbiased_gaussian
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements.autonomous_spectrum import AutonomousSpectrum, random_states
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.theory import mean_field_tanh_growth_rate
from tests.measurements.networks import NETWORKS, SquaredError, random_probe
from tests.measurements.spectra import (
    TWINS,
    cell_of,
    check_equal,
    henon_network,
    one_layer,
    slow_jacobians,
    slow_table,
)
from tests.synthetic_cells import PerStepLayer


def read(probe: Probe, num_exponents: int | None = None, **options: Any) -> pd.DataFrame:
    options = {"num_steps": 60, "transient_steps": 10, **options}
    return AutonomousSpectrum(LogSpaced(), num_exponents, **options).read(probe)


def medians(network: Network, num_exponents: int | None = None, **options: Any) -> np.ndarray:
    return read(random_probe(network), num_exponents, **options)["exponent_median_nats_per_step"].to_numpy()


def random_tanh_network(gain: float, hidden_size: int) -> Network:
    torch.manual_seed(0)
    return one_layer(partial(Elman, initialization=partial(unbiased_gaussian, gain=gain)), hidden_size)


def slow_states(cell: Recurrent, num_trajectories: int) -> list[State]:
    """Of one trajectory each: N(0, 1), component by component, from a generator of seed 0."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_trajectories, *shape) for shape in cell.state_shapes.values()]
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tuple(part[b : b + 1] for part in parts) for b in range(num_trajectories)]


def check_slow_twin(network: Network, num_exponents: int | None = None) -> None:
    num_steps, transient_steps, num_trajectories = 4, 2, 3
    jacobians = {}
    for index, layer in enumerate(network.layers):
        for name, cell in layer.items():  # type: ignore[operator]
            no_input = [torch.zeros(1, cell.input_size, dtype=torch.float64)] * num_steps
            states = slow_states(cell, num_trajectories)
            jacobians[index, name.removesuffix("_cell")] = [slow_jacobians(cell, no_input, state) for state in states]
    found = read(
        random_probe(network),
        num_exponents,
        num_steps=num_steps,
        transient_steps=transient_steps,
        num_trajectories=num_trajectories,
    )
    check_equal(found, *slow_table(jacobians, num_exponents, transient_steps))


@pytest.mark.oracle("slow twin: exact Jacobians of one trajectory and step, multiplied out, of a network in chaos")
def test_table_equals_the_slow_twin() -> None:
    check_slow_twin(random_tanh_network(3.0, 4))
    check_slow_twin(random_tanh_network(3.0, 4), 2)


@pytest.mark.parametrize("num_exponents", [None, 1])
@pytest.mark.parametrize("name", [name for name in TWINS if "attention" not in name])
def test_every_network_equals_the_slow_twin(name: str, num_exponents: int | None) -> None:
    torch.manual_seed(1)
    check_slow_twin(TWINS[name]().double(), num_exponents)


# Closed forms.


@torch.no_grad()
def without_recurrent_weights(cell: type[LSTM | GRU]) -> tuple[Network, np.ndarray]:
    """A network, and the biases of the second block of rows (forget gate, update gate)."""
    network = one_layer(cell)
    cell_of(network).rnn.weight_hh_l0.zero_()
    total = cell_of(network).rnn.bias_ih_l0 + cell_of(network).rnn.bias_hh_l0
    return network, total.chunk(len(total) // 3)[1].numpy()


@pytest.mark.oracle("closed form: an LSTM without recurrent weights and input has the exponents ln σ(b), others none")
def test_lstm_without_recurrent_weights_forgets_at_its_bias() -> None:
    network, bias = without_recurrent_weights(LSTM)
    rows = read(random_probe(network))
    expected = np.sort(-np.log1p(np.exp(-bias)))[::-1]
    for name in ("median", "p10", "p90"):
        np.testing.assert_allclose(rows[f"exponent_{name}_nats_per_step"][:3], expected, rtol=1e-9)
    assert rows["num_below_resolution"].tolist() == [0, 0, 0, 2, 2, 2]
    assert (rows["kaplan_yorke_dimension_p90"] == 0).all()


def test_gru_without_recurrent_weights_keeps_what_its_update_bias_says() -> None:
    network, bias = without_recurrent_weights(GRU)
    np.testing.assert_allclose(medians(network), np.sort(-np.log1p(np.exp(-bias)))[::-1], rtol=1e-9)


@pytest.mark.parametrize("gain", [0.3, 0.6])
def test_tanh_network_at_rest_has_the_log_determinant_of_its_weights(gain: float) -> None:
    """Below g = 1 the state decays to 0, where every Jacobian is W itself."""
    network = random_tanh_network(gain, 20)
    expected = np.linalg.slogdet(cell_of(network).rnn.weight_hh_l0.numpy(force=True)).logabsdet
    found = medians(network, num_steps=400, transient_steps=300, num_trajectories=1)
    np.testing.assert_allclose(found.sum(), expected, rtol=1e-9)


@pytest.mark.parametrize("gain", [0.6, 0.9])
def test_tanh_network_at_rest_has_the_logarithms_of_its_eigenvalues_within_a_constant_over_the_window(
    gain: float,
) -> None:
    network = random_tanh_network(gain, 20)
    moduli = np.abs(np.linalg.eigvals(cell_of(network).rnn.weight_hh_l0.numpy(force=True)))
    found = medians(network, 4, num_steps=1000, transient_steps=400)
    np.testing.assert_allclose(found, np.sort(np.log(moduli))[::-1][:4], rtol=0, atol=0.01)


@pytest.mark.parametrize("gain", [2.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_large_random_tanh_network_has_the_exponent_of_mean_field_theory(gain: float) -> None:
    """Within 0.03 nats per step at H = 400, where a finite network lies below the limit, and far from ln g."""
    (found,) = medians(random_tanh_network(gain, 400), 1, num_steps=250, transient_steps=50, num_trajectories=1)
    assert -0.03 < found - mean_field_tanh_growth_rate(gain) < 0.01
    assert np.log(gain) - found > 0.1


@pytest.mark.slow
def test_chaotic_network_has_a_positive_exponent_over_ten_thousand_steps() -> None:
    options = {"num_steps": 10_000, "transient_steps": 200, "num_trajectories": 1}
    rows = read(random_probe(random_tanh_network(3.0, 64)), 2, **options)
    assert (rows["num_non_finite"] == 0).all()
    assert (rows["num_below_resolution"] == 0).all()
    assert 0.1 < rows["exponent_median_nats_per_step"][0] < np.log(3)
    assert (rows["frame_residual_nats_per_step"] < 0.01).all()


def test_henon_map_has_its_known_exponents_and_dimension() -> None:
    """λ = 0.4192, −1.6231 and D = 1.258, Sprott (2003), Chaos and Time-Series Analysis; their sum is ln 0.3 exactly."""
    options = {"num_steps": 1500, "transient_steps": 100}
    rows = read(random_probe(henon_network()), num_trajectories=32, **options)
    np.testing.assert_allclose(rows["exponent_median_nats_per_step"], [0.4192, -1.6231], atol=0.005)
    np.testing.assert_allclose(rows["kaplan_yorke_dimension_median"], 1.2583, atol=0.003)
    np.testing.assert_allclose(rows["entropy_rate_median_nats_per_step"], 0.4192, atol=0.005)
    alone = medians(henon_network(), num_trajectories=1, **options)
    np.testing.assert_allclose(alone.sum(), np.log(0.3), rtol=1e-9)


# What is read, and what is not.


def test_states_are_drawn_once_and_for_all() -> None:
    cell = one_layer(LSTM).layers[0]["forward_cell"]  # type: ignore[index]
    first, second = random_states(cell, 500), random_states(cell, 500)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    together = torch.stack(first)
    assert not torch.equal(first[0], first[1])
    assert abs(together.mean()) < 0.1
    assert abs(together.std() - 1) < 0.1


def test_probe_batch_is_not_read() -> None:
    probe = random_probe(NETWORKS["bidirectional"]())
    expected = read(probe)
    other = random_probe(NETWORKS["bidirectional"](), input_len=3, batch_size=1)
    other.network.load_state_dict(probe.network.state_dict())
    pd.testing.assert_frame_equal(read(other), expected, rtol=0, atol=0)


def test_input_changes_the_exponents_of_the_same_network() -> None:
    probe = random_probe(NETWORKS["lstm"](), input_len=60)
    driven = LyapunovSpectrum(LogSpaced(), None, transient_steps=10).read(probe)
    name = "exponent_median_nats_per_step"
    assert (driven[name] - read(probe)[name]).abs().min() > 1e-4


def test_network_that_escapes_is_counted_not_raised() -> None:
    network = one_layer(partial(Elman, nonlinearity="relu"))
    with torch.no_grad():
        cell_of(network).rnn.weight_hh_l0.fill_(1e6)
    rows = read(random_probe(network))
    assert (rows["num_non_finite"] == 2).all()
    assert (rows["num_undefined_dimensions"] == 2).all()


def test_dead_relu_units_are_below_resolution() -> None:
    network = one_layer(partial(Elman, nonlinearity="relu"), 4)
    with torch.no_grad():
        cell_of(network).rnn.bias_ih_l0[:] = torch.tensor([50.0, -1e6, 60.0, -1e6])
    rows = read(random_probe(network))
    assert rows["num_below_resolution"].tolist() == [0, 0, 2, 2]


# What cannot be measured.


def refused(network: Network) -> Callable[[], Any]:
    measurement = AutonomousSpectrum(LogSpaced(), 7)
    return lambda: measurement.check(network, SquaredError(3))


def test_more_exponents_than_the_state_has_are_refused_before_training() -> None:
    message = r"`num_exponents` must be at most the state size, got 7 for the 6 entries"
    with pytest.raises(ValueError, match=message):
        refused(NETWORKS["deep"]())()
    with pytest.raises(ValueError, match=message):
        read(random_probe(NETWORKS["deep"]()), 7)
    refused(one_layer(LSTM, 4))()
    refused(Network(partial(PerStepLayer, hidden_size=3), 2, 2))()


@pytest.mark.parametrize("num_steps", [200, 7])
def test_transient_as_long_as_the_trajectory_is_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match="at least 1 step after the transient"):
        AutonomousSpectrum(LogSpaced(), num_steps=num_steps)
