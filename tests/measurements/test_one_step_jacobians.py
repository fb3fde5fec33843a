"""One-step Jacobians: two independent differentiations against a third, one sample and step at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gradhorizon.cells.cell import State
from gradhorizon.cells.lstm import LSTM
from gradhorizon.jacobians import one_step
from gradhorizon.jacobians.one_step import LeadingBlocks, StepJacobians, component_sizes, state_size
from gradhorizon.network import Network
from tests.measurements.networks import random_probe
from tests.measurements.spectra import ROOT_MODELS, TWINS, cell_of, first_layer, one_layer, slow_jacobians
from tests.models import build_network

NETWORKS: dict[str, Callable[[], Network]] = {
    **{name: TWINS[name] for name in ("one_unit", "own_output", "clocked")},
    **{name: partial(build_network, name, input_size=2, hidden_size=3) for name in ROOT_MODELS},
}


def random_maps(name: str, num_steps: int = 4) -> tuple[StepJacobians, Network, State]:
    """Of the first layer, from a random state, three samples."""
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    probe = random_probe(network, num_steps, batch_size=3)
    state = tuple(torch.randn_like(part) for part in probe.trace.layers[0].cell.initial_state(3))
    return first_layer(probe, state), probe.network, state


def pushed_matrices(maps: StepJacobians | LeadingBlocks) -> Tensor:
    """Every step's matrix, column by column, shape (N, B, S, S)."""
    basis = torch.eye(maps.size).double().unsqueeze(1).expand(-1, maps.batch_size, -1)
    return torch.stack([push(basis).permute(1, 2, 0) for push in maps.pushes()])


def pulled_matrices(maps: StepJacobians | LeadingBlocks) -> Tensor:
    return torch.cat(list(maps.matrices()), dim=1).transpose(0, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_both_differentiations_equal_the_jacobian_of_one_sample_and_step(name: str) -> None:
    maps, network, state = random_maps(name)
    cell = cell_of(network)
    inputs = random_probe(network, 4, batch_size=3).batch.inputs
    for b in range(3):
        own_state = tuple(part[b : b + 1] for part in state)
        expected = slow_jacobians(cell, [x_t[None] for x_t in inputs[b]], own_state)
        np.testing.assert_allclose(pushed_matrices(maps)[:, b], expected, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(pulled_matrices(maps)[:, b], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NETWORKS)
def test_large_states_are_pushed_step_by_step_to_the_same_matrices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, _, _ = random_maps(name)
    whole = pushed_matrices(maps)
    monkeypatch.setattr(one_step, "_MAX_DENSE_ENTRIES", 0)
    torch.testing.assert_close(pushed_matrices(maps), whole, rtol=1e-12, atol=1e-15)


def test_matrix_of_one_step_is_the_one_among_all() -> None:
    maps, _, _ = random_maps("lstm")
    torch.testing.assert_close(maps.matrix(3), pulled_matrices(maps)[2], rtol=1e-12, atol=1e-15)


def check_adjoint(left: Tensor, pushed: Tensor, pulled: Tensor, right: Tensor) -> None:
    """⟨u, Jv⟩ = ⟨Jᵀu, v⟩ for every vector, step and sample."""
    torch.testing.assert_close((left * pushed).sum(-1), (pulled * right).sum(-1), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", NETWORKS)
def test_pushed_and_pulled_vectors_are_adjoint(name: str) -> None:
    maps, _, _ = random_maps(name)
    left, right = torch.randn(2, 5, 3, maps.size, dtype=torch.float64)
    for t in range(1, 5):
        check_adjoint(left, maps.push(t, right), maps.pull(t, left), right)


@pytest.mark.parametrize("max_dense_entries", [0, 2**15])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_pushes_are_the_adjoints_of_all_matrices(
    name: str, max_dense_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_step, "_MAX_DENSE_ENTRIES", max_dense_entries)
    whole, _, _ = random_maps(name)
    for maps in (whole, LeadingBlocks(whole, component_sizes_of(name)[0])):
        left, right = torch.randn(2, 5, 3, maps.size, dtype=torch.float64)
        for push, matrix in zip(maps.pushes(), pulled_matrices(maps), strict=True):
            check_adjoint(left, push(right), torch.einsum("kbi,bij->kbj", left, matrix), right)


def component_sizes_of(name: str) -> list[int]:
    return component_sizes(cell_of(NETWORKS[name]()))


@pytest.mark.parametrize("name", NETWORKS)
def test_leading_blocks_hold_the_other_components(name: str) -> None:
    maps, _, _ = random_maps(name)
    size = component_sizes_of(name)[0]
    expected = pulled_matrices(maps)[..., :size, :size]
    blocks = LeadingBlocks(maps, size)
    torch.testing.assert_close(pulled_matrices(blocks), expected, rtol=0, atol=0)
    torch.testing.assert_close(pushed_matrices(blocks), expected, rtol=1e-12, atol=1e-15)


def test_sizes_of_a_state_of_two_shapes() -> None:
    cell = cell_of(TWINS["clocked"]())
    assert component_sizes(cell) == [4, 2]
    assert state_size(cell) == 6


def test_states_are_those_of_the_trajectory() -> None:
    probe = random_probe(one_layer(LSTM), input_len=5, num_cuts=9)
    trajectory = probe.trace.layers[0].trajectory
    for t, state in zip(trajectory.cuts, trajectory.states, strict=True):
        if t < 5:
            found = first_layer(probe).states[:, t]
            torch.testing.assert_close(found, torch.cat(state, dim=1).detach(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("max_entries", [1, 4 * 36 * 3])
def test_chunks_of_steps_change_nothing(max_entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = first_layer(random_probe(one_layer(LSTM), input_len=11))
    pushed, pulled = pushed_matrices(maps), pulled_matrices(maps)
    monkeypatch.setattr(one_step, "_MAX_ENTRIES", max_entries)
    torch.testing.assert_close(pushed_matrices(maps), pushed, rtol=1e-13, atol=1e-16)
    torch.testing.assert_close(pulled_matrices(maps), pulled, rtol=1e-13, atol=1e-16)


class LargestAllocation(TorchDispatchMode):
    """Bytes of the largest storage that an operation returned, given ones apart."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given.untyped_storage().data_ptr()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        has_storage = isinstance(returned, Tensor) and not torch._is_zerotensor(returned)
        if has_storage and returned.untyped_storage().data_ptr() != self.given:
            self.num_bytes = max(self.num_bytes, returned.untyped_storage().nbytes())
        return returned


def test_pushed_vectors_need_no_room_for_other_steps() -> None:
    """A tangent of a view of all states would be as large as all of them: here 3 · 128 kB, and slow to be zeroed."""
    cell = LSTM(1, 4).double()
    states = StepJacobians(cell, torch.zeros(1, 2000, 1).double()).states
    projected, columns = torch.zeros(1, 16, dtype=torch.float64), torch.ones(3, 1, 8, dtype=torch.float64)
    with LargestAllocation(states) as largest:
        one_step._pushed(cell, projected, states[:, 7], columns)
    assert 0 < largest.num_bytes < 20_000
