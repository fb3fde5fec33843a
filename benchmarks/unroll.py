r"""Cost of `gradhorizon.cells.unroll` in a training step, beside ``torch.nn.LSTM`` and the loop that people write.

A step is forward, backward and Adam of one LSTM with an affine readout of its last output; all variants start from
the same weights and see the same batch. With cuts, every cut's state keeps its gradient.

Notation: T steps, B batch, H hidden size, D input size, O outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.table import Result, as_table, run_alone
from benchmarks.timing import interleaved, ratio, threads
from gradhorizon.cells.lstm import LSTM
from gradhorizon.cells.unroll import unroll
from gradhorizon.measurements.probe import log_spaced_lags

INPUT_SIZE = 10
OUTPUT_SIZE = 9
NUM_CUTS = 32
SIZES = ((200, 64, 128), (100, 50, 128), (200, 32, 32))
TARGETS = {"32 cuts": 1.05, "no cuts": 1.02}


def measure(
    rounds: int = 40, num_threads: int = 1, sizes: tuple[tuple[int, int, int], ...] = SIZES, loop_rounds: int = 10
) -> pd.DataFrame:
    """Ratios to the step of a bare ``torch.nn.LSTM``.

    Args:
        rounds: interleaved repetitions.
        num_threads: CPU threads.
        sizes: (T, B, H) of each setting; targets hold for the first, the others are reported beside it.
        loop_rounds: repetitions of the slow loop over ``LSTMCell``.
    """
    results: list[Result] = []
    with threads(num_threads):
        for size in sizes:
            results += _results(size, rounds, loop_rounds, TARGETS if size == sizes[0] else {})
    return as_table(results)


def _results(
    size: tuple[int, int, int], rounds: int, loop_rounds: int, targets: Mapping[str, float]
) -> Iterator[Result]:
    setting = "T{} B{} H{}".format(*size)
    steps = training_steps(*size)
    loop = steps.pop("LSTMCell loop")
    seconds = interleaved(steps, rounds, warm_up=3)
    for name in ("32 cuts", "no cuts"):
        label = f"training step through unroll, {name} / torch.nn.LSTM"
        yield Result(label, setting, ratio(seconds, name, "bare"), targets.get(name))
    label = "training step, torch.nn.LSTM / itself: what is noise"
    yield Result(label, setting, ratio(seconds, "bare again", "bare"))
    seconds = interleaved({"loop": loop, "bare": steps["bare"]}, loop_rounds)
    label = "training step, LSTMCell loop with retain_grad / torch.nn.LSTM"
    yield Result(label, setting, ratio(seconds, "loop", "bare"))


def training_steps(num_steps: int, batch_size: int, hidden_size: int) -> dict[str, Callable[[], Tensor]]:
    """Name -> one training step, which returns the loss.

    Args:
        num_steps: T.
        batch_size: B.
        hidden_size: H.
    """
    torch.manual_seed(0)
    x = torch.randn(batch_size, num_steps, INPUT_SIZE)
    targets = torch.randint(OUTPUT_SIZE, (batch_size,))
    cell = LSTM(INPUT_SIZE, hidden_size)
    readout = nn.Linear(hidden_size, OUTPUT_SIZE)
    cuts = distinct_cuts(num_steps, NUM_CUTS)
    variants: dict[str, tuple[nn.Module, Callable[..., Tensor]]] = {
        "bare": (cell.rnn, _bare),
        "bare again": (cell.rnn, _bare),
        "no cuts": (cell, partial(_unrolled, cuts=())),
        "32 cuts": (cell, partial(_unrolled, cuts=cuts)),
        "LSTMCell loop": (_as_lstm_cell(cell), _loop),
    }
    return {
        name: _training_step(copy.deepcopy(module), copy.deepcopy(readout), last_output, x, targets)
        for name, (module, last_output) in variants.items()
    }


def distinct_cuts(num_steps: int, count: int) -> list[int]:
    """`count` cuts at distinct log-spaced lags, ascending, fewer only where there are no more steps."""
    asked = count
    while len(lags := log_spaced_lags(num_steps, asked)) < min(count, num_steps + 1):
        asked += 1
    return [num_steps - lag for lag in reversed(lags)]


def _training_step(
    module: nn.Module,
    readout: nn.Module,
    last_output: Callable[..., Tensor],
    x: Tensor,
    targets: Tensor,
) -> Callable[[], Tensor]:
    optimizer = torch.optim.Adam([*module.parameters(), *readout.parameters()])

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(readout(last_output(module, x)), targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _bare(lstm: nn.LSTM, x: Tensor) -> Tensor:
    return lstm(x)[0][:, -1]


def _unrolled(cell: LSTM, x: Tensor, cuts: list[int] | tuple[()]) -> Tensor:
    trajectory = unroll(cell, x, cuts=cuts, output_steps=[x.shape[1]])
    for state in trajectory.states:
        for part in state:
            part.retain_grad()
    return trajectory.outputs[:, 0]


def _loop(cell: nn.LSTMCell, x: Tensor) -> Tensor:
    h = c = x.new_zeros(x.shape[0], cell.hidden_size)
    for x_t in x.unbind(1):
        h, c = cell(x_t, (h, c))
        h.retain_grad()
        c.retain_grad()
    return h


def _as_lstm_cell(cell: LSTM) -> nn.LSTMCell:
    single = nn.LSTMCell(cell.input_size, cell.hidden_size)
    weights = {name.removesuffix("_l0"): value for name, value in cell.rnn.state_dict().items()}
    single.load_state_dict(weights)
    return single


if __name__ == "__main__":
    run_alone(measure, __doc__)
