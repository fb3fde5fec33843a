"""A probe touches nothing, and reads the same bits twice."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from gradhorizon.measurements.gates import Gates
from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import log_spaced_lags
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.state_gradients import StateGradients
from gradhorizon.network import Network
from tests.measurements.networks import NETWORKS, linear_network, random_probe

MEASUREMENTS: list[Callable[[LogSpaced], ProbeMeasurement]] = [InputGradients, StateGradients, Gates]


def measure_everything(network: Network) -> list[pd.DataFrame]:
    probe = random_probe(network, loss_steps=(3, 7))
    return [build(LogSpaced()).read(probe) for build in MEASUREMENTS]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]()


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in tensors.items()}


def test_measuring_leaves_parameters_bit_identical(network: Network) -> None:
    before = bits(network.state_dict())
    measure_everything(network)
    assert bits(network.state_dict()) == before


def test_measuring_leaves_absent_gradients_absent(network: Network) -> None:
    measure_everything(network)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_measuring_leaves_gradients_bit_identical(network: Network) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    before = bits(gradients)  # type: ignore[arg-type]
    measure_everything(network)
    assert all(parameter.grad is gradients[name] for name, parameter in network.named_parameters())
    assert bits(gradients) == before  # type: ignore[arg-type]


def test_measuring_leaves_random_states_bit_identical(network: Network) -> None:
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    measure_everything(network)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert pickle.dumps(np.random.get_state()) == before[1]  # noqa: NPY002


@pytest.mark.parametrize("is_training", [True, False])
def test_measuring_leaves_the_mode_alone(network: Network, is_training: bool) -> None:
    network.train(is_training)
    measure_everything(network)
    assert all(module.training is is_training for module in network.modules())


def test_measuring_leaves_the_dtype_alone(network: Network) -> None:
    before = {name: parameter.dtype for name, parameter in network.named_parameters()}
    measure_everything(network)
    assert {name: parameter.dtype for name, parameter in network.named_parameters()} == before
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["deep_own_output", "lstm"])
def test_measuring_inside_a_validation_hook_gives_the_same_bits(name: str, mode: Callable[[], Any]) -> None:
    network = NETWORKS[name]()
    expected = measure_everything(network)
    with mode():
        found = measure_everything(network)
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other, rtol=0, atol=0)


def test_two_probes_of_one_network_have_the_same_bits(network: Network) -> None:
    first, second = random_probe(network), random_probe(network)
    assert torch.equal(first.input_gradient, second.input_gradient)
    for one, other in zip(first.state_gradients, second.state_gradients, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.through_time, other.through_time, strict=True))


def test_probe_is_in_float64_whatever_the_network_is_in() -> None:
    assert random_probe(NETWORKS["lstm"]()).input_gradient.dtype == torch.float64


def test_training_on_leaves_a_probe_as_it_was() -> None:
    network = NETWORKS["lstm"]()
    probe = random_probe(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.count_nonzero(probe.input_gradient) == probe.input_gradient.numel()


def test_lags_hold_the_probed_step_its_predecessor_and_the_initial_state() -> None:
    assert random_probe(linear_network(1.0), input_len=100, num_cuts=5).lags == [0, 1, 3, 10, 32, 100]


def test_cuts_end_at_the_probed_step_and_not_at_the_last_one() -> None:
    probe = random_probe(linear_network(1.0), input_len=9, loss_steps=(2, 6))
    assert max(cut.t for cut in probe.state_gradients) == 6
    assert {cut.t + cut.lag for cut in probe.state_gradients} == {6}


@pytest.mark.parametrize(("longest", "expected"), [(0, [0]), (1, [0, 1]), (2, [0, 1, 2])])
def test_shortest_sequences_have_all_lags(longest: int, expected: list[int]) -> None:
    assert log_spaced_lags(longest, 8) == expected


def test_one_sample_is_not_touched_by_another() -> None:
    probe = random_probe(NETWORKS["bidirectional_attention"](), batch_size=3)
    (gradient,) = torch.autograd.grad(probe.losses[0].sum(), probe.trace.encoded)
    assert torch.count_nonzero(gradient[1:]) == 0
    assert torch.count_nonzero(gradient[0]) == gradient[0].numel()


def test_causal_network_feels_no_input_after_the_probed_step() -> None:
    gradient = random_probe(NETWORKS["attention"](), loss_steps=(2, 4)).input_gradient
    assert torch.count_nonzero(gradient[:, 4:]) == 0
