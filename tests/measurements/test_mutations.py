"""Mistakes that gradient measurements are known for, made on purpose: an oracle of the measurement notices each.

A mutation changes what `read` is given into what the mistaken code would have seen. Nothing private is touched, so that
it stays the same mistake however a measurement is written; the same way without a mistake leaves every oracle content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import Tensor

from gradhorizon.jacobians.one_step import StepJacobians
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.state_gradients import StateGradients
from gradhorizon.network import LayerTrace
from tests.measurements.networks import linear_network, random_probe
from tests.measurements.spectra import GivenJacobians
from tests.measurements.test_conf_measurement import _fails, measurement_class, oracles

Mutation = Callable[[Probe], Probe]


def with_layers(change: Callable[[LayerTrace], LayerTrace]) -> Mutation:
    """Each layer's trace changed, in a probe of its own that has measured nothing yet."""

    def mutate(probe: Probe) -> Probe:
        other = Probe(probe.network, probe.task, probe.batch, probe.num_cuts)
        other.trace = replace(other.trace, layers=tuple(change(layer) for layer in other.trace.layers))
        return other

    return mutate


def with_jacobians(change: Callable[[Tensor, LayerTrace], Tensor]) -> Mutation:
    """Each layer replaced by a recurrence of its own one-step Jacobians, shape (B, N, S, S), after a change."""

    def given(layer: LayerTrace) -> LayerTrace:
        maps = StepJacobians(layer.cell, layer.inputs.detach())
        jacobians = change(torch.cat(list(maps.matrices()), dim=1), layer)
        cell = GivenJacobians(jacobians.shape[-1] ** 2, jacobians.shape[-1]).double()
        return replace(layer, cell=cell, inputs=jacobians.flatten(2))

    return with_layers(given)


def reversed_in_time(jacobians: Tensor, _: LayerTrace) -> Tensor:
    """QR decompositions of J_1 … J_N."""
    return jacobians.flip(1)


def transposed(jacobians: Tensor, _: LayerTrace) -> Tensor:
    """J_{t*−τ+1} … J_{t*} has the singular values of its transpose, the right order of the wrong factors."""
    return jacobians.mT


def over_the_hidden_state_alone(jacobians: Tensor, layer: LayerTrace) -> Tensor:
    """An LSTM's ∂h_t/∂h_{t−1}, as if no other component carried anything."""
    is_hidden = (torch.arange(jacobians.shape[-1]) < layer.cell.hidden_size).to(jacobians)
    return is_hidden.unsqueeze(-1) * jacobians * is_hidden


def with_stacked_states(layer: LayerTrace) -> LayerTrace:
    """Gradients are taken with respect to a stacked copy of the states, which the recurrence did not consume."""
    components = zip(*layer.trajectory.states, strict=True)
    copies = [torch.stack(parts, dim=1).unbind(1) for parts in components]
    return replace(layer, trajectory=replace(layer.trajectory, states=tuple(zip(*copies, strict=True))))


def with_batch_mean_gradient(probe: Probe) -> Probe:
    """Every sample is given the batch-mean gradient, whose norm no sample has."""
    other = Probe(probe.network, probe.task, probe.batch, probe.num_cuts)
    other.input_gradient = other.input_gradient.mean(dim=0, keepdim=True).expand_as(other.input_gradient)
    return other


MISTAKES: dict[str, tuple[str, Mutation]] = {
    "product of Jacobians in the wrong order": ("state_jacobians", with_jacobians(transposed)),
    "exponents of Jacobians in the wrong order": ("lyapunov_spectrum", with_jacobians(reversed_in_time)),
    "exponents over the hidden state alone": ("lyapunov_spectrum", with_jacobians(over_the_hidden_state_alone)),
    "Jacobian over the hidden state alone": ("state_jacobians", with_jacobians(over_the_hidden_state_alone)),
    "gradient of a stacked copy": ("state_gradients", with_layers(with_stacked_states)),
    "norm of the batch-mean gradient": ("input_gradients", with_batch_mean_gradient),
}
WITHOUT_MISTAKE: dict[str, Mutation] = {
    "state_jacobians": with_jacobians(lambda jacobians, _: jacobians),
    "lyapunov_spectrum": with_jacobians(lambda jacobians, _: jacobians),
    "state_gradients": with_layers(lambda layer: layer),
    "input_gradients": with_layers(lambda layer: layer),
}


def mutated(name: str, mutate: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measurement_class(name)
    truth = measured.read  # type: ignore[attr-defined]

    def read(self: ProbeMeasurement, probe: Probe) -> pd.DataFrame:
        return truth(self, mutate(probe))

    monkeypatch.setattr(measured, "read", read)


@pytest.mark.parametrize(("name", "mutate"), MISTAKES.values(), ids=list(MISTAKES))
def test_an_oracle_notices_the_mistake(name: str, mutate: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutated(name, mutate, monkeypatch)
    assert any(_fails(oracle) for oracle in oracles(name))


@pytest.mark.parametrize(("name", "mutate"), WITHOUT_MISTAKE.items(), ids=list(WITHOUT_MISTAKE))
def test_every_oracle_is_content_without_a_mistake(
    name: str, mutate: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutated(name, mutate, monkeypatch)
    assert [oracle.__name__ for oracle in oracles(name) if _fails(oracle)] == []


def test_gradient_of_a_stacked_copy_looks_like_perfect_vanishing() -> None:
    probe = random_probe(linear_network(1.0), input_len=20)
    measurement = StateGradients(LogSpaced())
    true, false = (measurement.read(given) for given in (probe, with_layers(with_stacked_states)(probe)))
    is_earlier = (true["part"] == "total") & (true["lag"] > 0)
    assert (true.loc[is_earlier, "relative_gradient_norm_median"] > 0.999).all()
    assert (false.loc[is_earlier, "relative_gradient_norm_median"] == 0).all()
