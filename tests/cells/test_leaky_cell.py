"""The example of a user's own cell."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from gradhorizon.cells.cell import Recurrent
from gradhorizon.cells.unroll import unroll
from gradhorizon.kernels.gate import check_kernel

pytestmark = pytest.mark.usefixtures("float64")

PATH = Path(__file__).parents[2] / "examples" / "leaky_cell" / "leaky_cell.py"


@pytest.fixture
def leaky_rnn() -> type[Recurrent]:
    spec = importlib.util.spec_from_file_location("leaky_cell", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cell: type[Recurrent] = module.LeakyRNN
    return cell


def test_leaky_cell_forgets_at_its_leak_without_recurrent_weights(leaky_rnn: type[Recurrent]) -> None:
    cell = leaky_rnn(2, 3, time_constant=20.0)  # type: ignore[call-arg]
    with torch.no_grad():
        cell.recurrent_weights()["weight_hh"].zero_()
    trajectory = unroll(cell, torch.randn(1, 50, 2), cuts=(0, 30), output_steps=[50])
    found = torch.autograd.grad(trajectory.outputs.sum(), [state[0] for state in trajectory.states])
    torch.testing.assert_close(found[0], torch.full((1, 3), 0.95**50), rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], torch.full((1, 3), 0.95**20), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_leaky_cell_passes_the_kernel_gate(leaky_rnn: type[Recurrent], dtype: torch.dtype) -> None:
    check_kernel(leaky_rnn(2, 3), "cpu", dtype)


def test_leaky_cell_refuses_a_time_constant_below_one_step(leaky_rnn: type[Recurrent]) -> None:
    with pytest.raises(ValueError, match=r"`time_constant` must be at least 1 step, got 0\.5"):
        leaky_rnn(2, 3, time_constant=0.5)  # type: ignore[call-arg]
