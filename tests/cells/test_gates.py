"""Gates are recovered from what a step does, not from the formula that computed them."""

from __future__ import annotations

import pytest
import torch

from gradhorizon.cells.cell import Recurrent, select_step
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from tests.models import random_state

pytestmark = pytest.mark.usefixtures("float64")


def _without_recurrence(cell: Recurrent) -> None:
    with torch.no_grad():
        for weight in cell.recurrent_weights().values():
            weight.zero_()


def test_forget_gate_is_the_derivative_of_the_memory_cell() -> None:
    cell = LSTM(3, 4)
    projected = cell.project(torch.randn(2, 1, 3))[:, 0]
    h, c = random_state(cell, 2)
    _, new_c = cell.recur(projected, (h, c))
    torch.testing.assert_close(torch.autograd.grad(new_c.sum(), c)[0], cell.gates(projected, (h, c))["forget_gate"])


def test_output_gate_is_what_the_hidden_state_lets_through() -> None:
    cell = LSTM(3, 4)
    projected = cell.project(torch.randn(2, 1, 3))[:, 0]
    state = random_state(cell, 2)
    h, c = cell.recur(projected, state)
    torch.testing.assert_close(h / torch.tanh(c), cell.gates(projected, state)["output_gate"])


def test_input_gate_is_what_a_saturated_candidate_adds_to_an_empty_memory_cell() -> None:
    cell = LSTM(3, 4)
    with torch.no_grad():
        cell.rnn.all_weights[0][2].chunk(4)[2].fill_(100.0)
    projected = cell.project(torch.randn(2, 1, 3))[:, 0]
    state = (torch.randn(2, 4), torch.zeros(2, 4))
    torch.testing.assert_close(cell.recur(projected, state)[1], cell.gates(projected, state)["input_gate"])


def test_update_gate_is_the_derivative_of_the_state_without_recurrent_weights() -> None:
    cell = GRU(3, 4)
    _without_recurrence(cell)
    projected = cell.project(torch.randn(2, 1, 3))[:, 0]
    (h,) = random_state(cell, 2)
    (new_h,) = cell.recur(projected, (h,))
    torch.testing.assert_close(torch.autograd.grad(new_h.sum(), h)[0], cell.gates(projected, (h,))["update_gate"])


def test_reset_gate_scales_the_recurrent_part_of_the_candidate() -> None:
    cell = GRU(3, 4)
    projected = cell.project(torch.randn(2, 1, 3))[:, 0]
    (h,) = random_state(cell, 2)
    gates = cell.gates(projected, (h,))
    (new_h,) = cell.recur(projected, (h,))
    z = gates["update_gate"]
    candidate = torch.atanh((new_h - z * h) / (1 - z))
    recurrent = h @ cell.recurrent_weights()["weight_hh_candidate"].T + cell.rnn.all_weights[0][3].chunk(3)[2]
    torch.testing.assert_close((candidate - projected.chunk(3, dim=-1)[2]) / recurrent, gates["reset_gate"])


@pytest.mark.parametrize(
    ("cell", "gate"),
    [(LSTM, "input"), (LSTM, "forget"), (LSTM, "output"), (GRU, "reset"), (GRU, "update")],
)
def test_recurrent_matrix_of_a_gate_moves_that_gate_alone(cell: type[Recurrent], gate: str) -> None:
    network = cell(3, 4)
    projected = select_step(network.project(torch.randn(2, 1, 3)), 0)
    state = random_state(network, 2)
    before = network.gates(projected, state)
    with torch.no_grad():
        network.recurrent_weights()[f"weight_hh_{gate}"].add_(1.0)
    after = network.gates(projected, state)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {f"{gate}_gate"}


def test_elman_has_no_gates() -> None:
    cell = Elman(3, 4)
    assert cell.gates(cell.project(torch.randn(2, 1, 3))[:, 0], random_state(cell, 2)) == {}
