"""The loop over time: cuts change no number, and the gradients read at them are those of the consumed states."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.cells.unroll import Trajectory, unroll
from tests.models import random_state
from tests.oracles import run_steps, through_time_and_direct
from tests.synthetic_cells import ClockedReader, LinearRecurrence

pytestmark = pytest.mark.usefixtures("float64")

CELLS = [Elman, LSTM, GRU, LinearRecurrence, ClockedReader]
N = 12
Build = Callable[[int, int], Recurrent]


def _assert_close(found: Tensor, expected: Tensor) -> None:
    assert torch.linalg.vector_norm(found - expected) <= 1e-11 * torch.linalg.vector_norm(expected)


def _objective(trajectory: Trajectory) -> Tensor:
    """A linear objective with weights that depend on the step alone, whichever outputs were kept."""
    steps = torch.tensor(trajectory.output_steps, dtype=torch.float64)
    features = torch.arange(1, trajectory.outputs.shape[-1] + 1, dtype=torch.float64)
    return (torch.cos(steps).unsqueeze(-1) * features * trajectory.outputs).sum()


@pytest.mark.parametrize("build", CELLS)
@pytest.mark.parametrize("cuts", [(0,), (N,), (5,), (0, 1, 2, 11, N), tuple(range(N + 1))])
@pytest.mark.parametrize("output_steps", [None, (N,), (1, 4, 5, 12), (6, 7, 8)])
def test_cuts_change_no_output_and_no_gradient(
    build: Build, cuts: tuple[int, ...], output_steps: tuple[int, ...] | None
) -> None:
    cell = build(3, 4)
    x = torch.randn(2, N, 3, requires_grad=True)
    state = random_state(cell, 2)
    wanted = [x, *state, *cell.parameters()]
    plain = unroll(cell, x, state, output_steps=output_steps)
    cut = unroll(cell, x, state, cuts=cuts, output_steps=output_steps)
    _assert_close(cut.outputs, plain.outputs)
    expected = torch.autograd.grad(_objective(plain), wanted)
    for one, other in zip(torch.autograd.grad(_objective(cut), wanted), expected, strict=True):
        _assert_close(one, other)


@pytest.mark.parametrize("build", CELLS)
def test_kept_outputs_are_those_of_the_step_loop(build: Build) -> None:
    cell = build(3, 4)
    x, state = torch.randn(2, N, 3), random_state(cell, 2)
    expected, last = run_steps(cell, x, state)
    found = unroll(cell, x, state, cuts=(3, 8), output_steps=(2, 3, 9, 12))
    _assert_close(found.outputs, expected[:, [1, 2, 8, 11]])
    for part, other in zip(found.final_state, last, strict=True):
        _assert_close(part, other)


@pytest.mark.parametrize("build", CELLS)
@pytest.mark.parametrize("t", [0, 1, 6, N - 1, N])
def test_gradient_at_a_cut_is_the_through_time_part_of_a_graph_cut_there(build: Build, t: int) -> None:
    cell = build(3, 4)
    x, state = torch.randn(2, N, 3), random_state(cell, 2)
    output_gradients = torch.randn(2, N, 4)
    expected, _ = through_time_and_direct(cell, x, state, output_gradients, t)
    trajectory = unroll(cell, x, state, cuts=(2, t, 9))
    objective = (output_gradients * trajectory.outputs).sum()
    consumed = trajectory.states[trajectory.cuts.index(t)]
    found = torch.autograd.grad(objective, consumed, materialize_grads=True, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        _assert_close(one, other)


@pytest.mark.parametrize("build", [Elman, LSTM, GRU])
def test_through_time_and_direct_parts_add_up_to_the_total_of_an_uncut_graph(build: Build) -> None:
    cell, t = build(3, 4), 6
    x, state = torch.randn(2, N, 3), random_state(cell, 2)
    output_gradients = torch.randn(2, N, 4)
    states, running = [], state
    for step in range(N):
        running = cell.step(x[:, step], running)
        states.append(running)
    uncut = sum((output_gradients[:, step] * states[step][0]).sum() for step in range(N))
    total = torch.autograd.grad(uncut, states[t - 1])  # type: ignore[arg-type]
    through_time, direct = through_time_and_direct(cell, x, state, output_gradients, t)
    trajectory = unroll(cell, x, state, cuts=(t,))
    objective = (output_gradients * trajectory.outputs).sum()
    found = torch.autograd.grad(objective, [*trajectory.states[0], trajectory.outputs])
    _assert_close(found[0] + found[-1][:, t - 1], total[0])
    _assert_close(found[-1][:, t - 1], direct[0])
    for one, other in zip(found[1:-1], through_time[1:], strict=True):
        _assert_close(one, other)


def test_state_at_the_end_is_consumed_by_nothing() -> None:
    cell = LSTM(3, 4)
    trajectory = unroll(cell, torch.randn(2, N, 3), cuts=(N,))
    found = torch.autograd.grad(trajectory.outputs.sum(), trajectory.states[0], allow_unused=True)
    assert [*found] == [None, None]


@pytest.mark.parametrize("spectral_radius", [0.3, 0.97, 1.02])
def test_state_gradient_of_a_scaled_orthogonal_recurrence_decays_by_the_spectral_radius_per_step(
    spectral_radius: float,
) -> None:
    cell = LinearRecurrence(2, 5, spectral_radius)
    trajectory = unroll(cell, torch.randn(3, 40, 2), cuts=range(40), output_steps=[40])
    weights = torch.randn(3, 5)
    objective = (weights * trajectory.outputs[:, 0]).sum()
    found = torch.autograd.grad(objective, [state[0] for state in trajectory.states])
    norms = torch.stack([torch.linalg.vector_norm(gradient, dim=-1) for gradient in found])
    lags = 40 - torch.arange(40.0).unsqueeze(1)
    expected = spectral_radius**lags * torch.linalg.vector_norm(weights, dim=-1)
    torch.testing.assert_close(norms, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("build", [Elman, LSTM, GRU])
def test_gradient_of_a_stacked_copy_is_the_direct_part_alone_and_looks_like_perfect_vanishing(build: Build) -> None:
    cell = build(3, 4)
    x = torch.randn(2, N, 3)
    trajectory = unroll(cell, x, cuts=range(N))
    stacked = trajectory.outputs
    objective = stacked[:, -1].square().sum()
    of_copy, *of_consumed = torch.autograd.grad(objective, [stacked, *(state[0] for state in trajectory.states)])
    assert (of_copy[:, :-1] == 0).all()
    assert all((gradient != 0).any() for gradient in of_consumed)


@pytest.mark.parametrize("build", CELLS)
@pytest.mark.parametrize("recompute_every", [1, 5, N, 100])
def test_recomputation_changes_no_gradient(build: Build, recompute_every: int) -> None:
    cell = build(3, 4)
    x, state = torch.randn(2, N, 3, requires_grad=True), random_state(cell, 2)

    def gradients(every: int | None) -> tuple[Tensor, ...]:
        trajectory = unroll(cell, x, state, cuts=(2, 7), recompute_every=every)
        consumed = [part for kept in trajectory.states for part in kept]
        return torch.autograd.grad(_objective(trajectory), [x, *state, *consumed, *cell.parameters()])

    for one, other in zip(gradients(recompute_every), gradients(None), strict=True):
        _assert_close(one, other)


@pytest.mark.parametrize("build", [Elman, LSTM, GRU, ClockedReader])
def test_recomputation_stores_a_fraction_of_the_bytes(build: Build) -> None:
    cell = build(1, 16)
    x = torch.randn(2, 400, 1)

    def stored_bytes(every: int | None) -> int:
        stored: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trajectory = unroll(cell, x, output_steps=[400], recompute_every=every)
        assert trajectory.outputs.requires_grad
        return sum(stored.values())

    assert stored_bytes(20) < 0.15 * stored_bytes(None)


@pytest.mark.parametrize("build", [Elman, LSTM, GRU, ClockedReader])
def test_recomputation_keeps_a_fraction_of_the_graph_too(build: Build) -> None:
    cell = build(1, 4)
    x = torch.randn(1, 400, 1, requires_grad=True)

    def num_nodes(every: int | None) -> int:
        seen, waiting = set(), [unroll(cell, x, output_steps=[400], recompute_every=every).outputs.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [parent for parent, _ in node.next_functions]
        return len(seen)

    assert num_nodes(20) < 10 * 400 / 20


def test_without_cuts_it_is_one_call_of_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, lengths = LSTM(3, 4), []
    segment = cell.segment

    def spy(x: Tensor, state: State, first_step: int) -> tuple[Tensor, State]:
        lengths.append(x.shape[1])
        return segment(x, state, first_step)

    monkeypatch.setattr(cell, "segment", spy)
    unroll(cell, torch.randn(2, N, 3))
    unroll(cell, torch.randn(2, N, 3), cuts=(4, 0, N))
    assert lengths == [N, 4, N - 4]


def test_unsorted_and_repeated_cuts_are_those_sorted_once() -> None:
    trajectory = unroll(Elman(3, 4), torch.randn(2, N, 3), cuts=(7, 0, 7, 3), output_steps=(9, 2, 9))
    assert (trajectory.cuts, trajectory.output_steps) == ((0, 3, 7), (2, 9))
    assert len(trajectory.states) == 3
    assert trajectory.outputs.shape == (2, 2, 4)


def test_cut_at_zero_is_the_given_initial_state() -> None:
    cell = LSTM(3, 4)
    state = random_state(cell, 2)
    trajectory = unroll(cell, torch.randn(2, N, 3), state, cuts=(0,))
    found = torch.autograd.grad(trajectory.outputs.sum(), [*trajectory.states[0], *state])
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


def test_nothing_requires_grad_where_grad_is_off() -> None:
    with torch.no_grad():
        trajectory = unroll(LSTM(3, 4), torch.randn(2, N, 3), cuts=(0, 5, N), recompute_every=4)
    assert not trajectory.outputs.requires_grad
    assert not any(part.requires_grad for state in trajectory.states for part in state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cuts": (-1,)}, "`cuts` must lie in 0 … 12, got -1 … -1"),
        ({"cuts": (3, 13)}, "`cuts` must lie in 0 … 12, got 3 … 13"),
        ({"output_steps": (0, 5)}, "`output_steps` must lie in 1 … 12, got 0 … 5"),
        ({"output_steps": (13,)}, "`output_steps` must lie in 1 … 12, got 13 … 13"),
        ({"output_steps": ()}, "`output_steps` must name at least one step"),
        ({"recompute_every": 0}, "`recompute_every` must be at least 1 step, got 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unroll(Elman(3, 4), torch.randn(2, N, 3), **arguments)  # type: ignore[arg-type]


def test_sequence_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="must have at least one step"):
        unroll(Elman(3, 4), torch.randn(2, 0, 3))


@given(data=st.data(), input_len=st.integers(1, 7), every=st.one_of(st.none(), st.integers(1, 8)))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_cuts_and_output_steps_keep_the_outputs(data: st.DataObject, input_len: int, every: int | None) -> None:
    cuts = data.draw(st.lists(st.integers(0, input_len)))
    steps = data.draw(st.lists(st.integers(1, input_len), min_size=1))
    cell = ClockedReader(1, 2)
    x = torch.randn(1, input_len, 1)
    found = unroll(cell, x, cuts=cuts, output_steps=steps, recompute_every=every).outputs
    expected = run_steps(cell, x, cell.initial_state(1))[0][:, [t - 1 for t in sorted(set(steps))]]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
