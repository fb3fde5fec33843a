r"""Cost of the loop over time that every cell without a kernel runs: steps taken by index, and split once per segment.

A pass is forward and backward of one layer from the sum of its last output. The backward pass of ``tensor[:, t]``
fills a tensor of all T steps for each of them, that of ``unbind`` one for all; gradients have the same bits (a test
holds it). Beside it: the loop against the kernel of the same cell, and four times the length against one (4 is linear
in T).

Notation: T steps, B batch, H hidden size, D input size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor

from benchmarks.table import Result, as_table, run_alone
from benchmarks.timing import interleaved, ratio, threads
from gradhorizon.cells.cell import Recurrent, State, select_step
from gradhorizon.cells.diagonal_linear import DiagonalLinear
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM

INPUT_SIZE = 2
BATCH_SIZE = 32
KERNELS: tuple[type[Recurrent], ...] = (GRU, LSTM)
SETTINGS: tuple[tuple[type[Recurrent], int], ...] = ((GRU, 100), (LSTM, 100), (DiagonalLinear, 1024))


def measure(
    rounds: int = 20,
    num_threads: int = 1,
    hidden_size: int = 64,
    settings: tuple[tuple[type[Recurrent], int], ...] = SETTINGS,
) -> pd.DataFrame:
    """Ratios of a pass by index, of the kernel and of a longer sequence to a pass of the default loop.

    Args:
        rounds: interleaved repetitions.
        num_threads: CPU threads.
        hidden_size: H.
        settings: cell and T of each setting.
    """
    results: list[Result] = []
    with threads(num_threads):
        for cell_class, num_steps in settings:
            results += _results(cell_class, num_steps, hidden_size, rounds)
    return as_table(results)


def _results(cell_class: type[Recurrent], num_steps: int, hidden_size: int, rounds: int) -> Iterator[Result]:
    torch.manual_seed(0)
    cell = cell_class(INPUT_SIZE, hidden_size)
    setting = f"{cell_class.__name__} T{num_steps} B{BATCH_SIZE} H{hidden_size}"
    x, longer = (torch.randn(BATCH_SIZE, length, INPUT_SIZE) for length in (num_steps, 4 * num_steps))
    passes = {
        "by index": _pass(cell, segment_by_index, x),
        "loop": _pass(cell, Recurrent.segment, x),
        "loop, 4 T": _pass(cell, Recurrent.segment, longer),
    }
    if cell_class in KERNELS:
        passes["kernel"] = _pass(cell, cell_class.segment, x)
    seconds = interleaved(passes, rounds, warm_up=2)
    yield Result("steps by index / default loop", setting, ratio(seconds, "by index", "loop"))
    yield Result("default loop over 4 T / over T", setting, ratio(seconds, "loop, 4 T", "loop"))
    if "kernel" in passes:
        yield Result("default loop / kernel", setting, ratio(seconds, "loop", "kernel"))


def segment_by_index(cell: Recurrent, x: Tensor, state: State) -> tuple[Tensor, State]:
    """What `Recurrent.segment` returns, with every step taken as ``tensor[:, t]``."""
    projected = cell.project(x)
    outputs = []
    for step in range(x.shape[1]):
        projected_t = select_step(projected, step)
        state = cell.recur(projected_t, state)
        outputs.append(cell.output(projected_t, state))
    return torch.stack(outputs, dim=1), state


def _pass(
    cell: Recurrent, segment: Callable[[Recurrent, Tensor, State], tuple[Tensor, State]], x: Tensor
) -> Callable[[], None]:
    def run() -> None:
        cell.zero_grad()
        segment(cell, x, cell.initial_state(len(x)))[0][:, -1].sum().backward()

    return run


if __name__ == "__main__":
    run_alone(measure, __doc__)
