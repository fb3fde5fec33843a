"""JANET against PyTorch's GRU with its reset gate held open, and against the equation one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import select_step
from gradhorizon.cells.janet import Janet
from tests.models import random_state

pytestmark = pytest.mark.usefixtures("float64")


@torch.no_grad()
def _open_gru(cell: Janet) -> nn.GRU:
    """With β = 0 the equation is the GRU's where the reset gate is 1, and z is the gate that forgets."""
    gru = nn.GRU(cell.input_size, cell.hidden_size, batch_first=True)
    for weight in gru.parameters():
        weight.zero_()
    weight_ih, weight_hh, bias_ih, _ = gru.all_weights[0]
    for blocks, own in ((weight_ih, cell.weight_ih), (weight_hh, cell.weight_hh), (bias_ih, cell.bias)):
        blocks[cell.hidden_size :] = own
    bias_ih[: cell.hidden_size] = 1000.0
    return gru


def test_without_beta_it_is_a_gru_that_never_resets_in_outputs_and_gradients() -> None:
    cell = Janet(3, 5, beta=0.0)
    gru, x, (h,) = _open_gru(cell), torch.randn(2, 30, 3, requires_grad=True), random_state(cell, 2)
    found = cell.segment(x, (h,))[0]
    expected = gru(x, h.unsqueeze(0))[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    cotangent = torch.randn_like(found)
    own, other = (torch.autograd.grad(outputs, [x, h], cotangent) for outputs in (found, expected))
    for gradient, reference in zip(own, other, strict=True):
        assert torch.linalg.vector_norm(gradient - reference) < 1e-12 * torch.linalg.vector_norm(reference)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _slow_step(cell: Janet, x: list[float], h: list[float]) -> list[float]:
    def preactivation(row: int) -> float:
        into = zip(cell.weight_ih[row].tolist(), x, strict=True)
        back = zip(cell.weight_hh[row].tolist(), h, strict=True)
        return sum(w * value for w, value in into) + sum(w * value for w, value in back) + cell.bias[row].item()

    new = []
    for unit, old in enumerate(h):
        s, candidate = preactivation(unit), math.tanh(preactivation(cell.hidden_size + unit))
        new.append(_sigmoid(s) * old + (1 - _sigmoid(s - cell.beta)) * candidate)
    return new


@pytest.mark.parametrize("beta", [0.0, 1.0, -2.5])
def test_state_is_the_equation_worked_out_one_number_at_a_time(beta: float) -> None:
    cell = Janet(2, 3, beta=beta)
    x, (h,) = torch.randn(1, 7, 2), random_state(cell, 1)
    expected = h[0].tolist()
    for x_t in x[0].tolist():
        expected = _slow_step(cell, x_t, expected)
    torch.testing.assert_close(cell.segment(x, (h,))[1][0][0], torch.tensor(expected), rtol=1e-12, atol=0)


def _at_one_step(cell: Janet) -> tuple[Tensor, tuple[Tensor, ...]]:
    return select_step(cell.project(torch.randn(2, 1, 3)), 0), random_state(cell, 2)


def test_forget_gate_is_the_derivative_of_the_state_without_recurrent_weights() -> None:
    cell = Janet(3, 4)
    with torch.no_grad():
        cell.weight_hh.zero_()
    projected, state = _at_one_step(cell)
    (kept,) = torch.autograd.grad(cell.recur(projected, state)[0].sum(), state)
    torch.testing.assert_close(kept, cell.gates(projected, state)["forget_gate"])


def test_input_gate_is_what_a_saturated_candidate_adds() -> None:
    cell = Janet(3, 4)
    with torch.no_grad():
        cell.bias[4:] = 100.0
    projected, state = _at_one_step(cell)
    gates = cell.gates(projected, state)
    added = cell.recur(projected, state)[0] - gates["forget_gate"] * state[0]
    torch.testing.assert_close(added, gates["input_gate"])
