"""The default loop of a cell: the same bits as taking every step by its index, and a backward pass linear in T."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.loop import segment_by_index
from gradhorizon.cells.cell import Recurrent, split_steps
from tests.models import MODELS, build_cell, random_state


@pytest.mark.parametrize("name", MODELS)
def test_steps_split_at_once_give_the_bits_of_steps_taken_by_index(name: str) -> None:
    torch.manual_seed(0)
    cell = build_cell(name)
    x, state = torch.randn(3, 20, 3, requires_grad=True), random_state(cell, 3)
    wanted = [x, *state, *cell.parameters()]
    found = Recurrent.segment(cell, x, state)[0]
    expected = segment_by_index(cell, x, state)[0]
    cotangent = torch.randn_like(expected)
    assert torch.equal(found, expected)
    gradients = (
        torch.autograd.grad(outputs, wanted, cotangent, materialize_grads=True) for outputs in (found, expected)
    )
    for own, other in zip(*gradients, strict=True):
        assert torch.equal(own, other)


def test_backward_pass_of_the_loop_fills_no_sequence_per_step() -> None:
    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        num_filled = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
            del types
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found.ndim > 1 and 64 in found.shape[:2]:
                self.num_filled += found.numel()
            return found

    cell = build_cell("diagonal_ring")
    x = torch.randn(2, 64, 3, requires_grad=True)
    loss = Recurrent.segment(cell, x, cell.initial_state(2))[0].sum()
    with Counting() as counting:
        loss.backward()
    assert 0 < counting.num_filled < 20 * x.numel()  # by index it is over 400 times


def test_projection_without_tensors_is_split_into_as_many_steps() -> None:
    assert split_steps((), 3) == [(), (), ()]


def test_nested_projection_keeps_its_structure() -> None:
    first, second = torch.randn(2, 3, 4), torch.randn(2, 3)
    steps = split_steps((first, (second,)), 3)
    assert all(
        torch.equal(step[0], first[:, t]) and torch.equal(step[1][0], second[:, t]) for t, step in enumerate(steps)
    )
