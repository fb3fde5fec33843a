r"""Cost of the further measurements, each beside what it replaces or what it is read along with.

- *Lyapunov exponents*: seconds per sample and step beside a loop that takes ``torch.autograd.functional.jacobian`` of
  one sample's step and one QR decomposition of the pushed frame. The loop runs over a few steps of one sample, ours
  over all steps of all samples. With their residual: as the measurement reads them, which says how far to trust them.
- *Temporal contributions*: one reading of 32 bins, over the backward pass of the same float64 probe. The forward pass
  with its trace is the probe's, and shared.
- *The recurring suite*: input gradients, state gradients, gates and 8 leading exponents on 8 samples from one probe of
  32 samples, float64 copy included, in training steps.

Notation: T as the task's paper prints it, B batch, H hidden size, S size of the full state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch

from benchmarks.probe import default_measurements, read_probe, training_step
from benchmarks.table import Result, as_table, run_alone
from benchmarks.timing import interleaved, ratio, spread, threads
from gradhorizon.cells.cell import Recurrent
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.jacobians.exponents import finite_time_exponents, random_frames
from gradhorizon.jacobians.one_step import StepJacobians
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.temporal_contributions import TemporalContributions
from gradhorizon.network import Network
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016

LEADING_TARGET, FULL_TARGET = 100.0, 5.0
CONTRIBUTIONS_TARGET_PASSES = 2.0
SUITE_TARGET_STEPS = 10.0
LEADING = 8


def measure(
    rounds: int = 15,
    num_threads: int = 1,
    state_size: int = 256,
    spectrum_len: int = 40,
    hidden_size: int = 128,
    seq_len: int = 200,
    suite_len: int = 100,
) -> pd.DataFrame:
    """Ratios of each measurement to what it is held against.

    Args:
        rounds: interleaved repetitions.
        num_threads: CPU threads.
        state_size: S of the spectra.
        spectrum_len: T of the spectra.
        hidden_size: H of the contributions and of the suite.
        seq_len: T of the contributions.
        suite_len: T of the suite.
    """
    with threads(num_threads):
        results = [
            *_spectra(rounds, state_size, spectrum_len),
            *_contributions(rounds, hidden_size, seq_len),
            *_suite(rounds, hidden_size, suite_len),
        ]
    return as_table(results)


def _spectra(rounds: int, state_size: int, seq_len: int) -> Iterator[Result]:
    for cell_type, per_unit in ((LSTM, 2), (GRU, 1)):
        probe = _probe(cell_type, state_size // per_unit, seq_len, batch_size=LEADING)
        cell, x = probe.trace.layers[0].cell, probe.trace.layers[0].inputs.detach()
        for count, samples, target in ((LEADING, LEADING, LEADING_TARGET), (state_size, 2, FULL_TARGET)):
            spectrum = LyapunovSpectrum(LogSpaced(), num_exponents=count, num_samples=samples)
            frame = random_frames(state_size, count, 1)
            num_steps = 2
            callables: dict[str, Callable[[], object]] = {
                "exponents": partial(exponents, cell, x[:samples], frame),
                "reading": partial(spectrum.read, probe),
                "loop": partial(jacobian_loop, cell, x[:1, :num_steps], count),
            }
            seconds = interleaved(callables, max(1, rounds // 3))
            share = samples * x.shape[1] / num_steps
            setting = f"{cell_type.__name__} S{state_size} T{seq_len} B{samples}"
            for name, least in (("exponents", target), ("reading", None)):
                found = spread(seconds, partial(_speedup, name, share))
                what = f"{count} exponents" + (" with their residual" if name == "reading" else "")
                label = f"loop of autograd Jacobian and QR / {what}, per sample-step"
                yield Result(label, setting, found, least, is_floor=True)


def _speedup(name: str, share: float, seconds: Mapping[str, float]) -> float:
    return seconds["loop"] * share / seconds[name]


def exponents(cell: Recurrent, x: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Exponents of every sample as the measurement takes them, shape (F, B, K).

    Args:
        cell: the recurrence.
        x: inputs, shape (B, N, D).
        frames: orthonormal, shape (F, S, K).
    """
    return finite_time_exponents(StepJacobians(cell, x), frames)


def jacobian_loop(cell: Recurrent, x: torch.Tensor, num_vectors: int) -> torch.Tensor:
    """Exponents of one sample by the obvious loop, shape (K,): a Jacobian by autograd and a QR decomposition a step.

    Args:
        cell: the recurrence.
        x: inputs of one sample, shape (1, N, D).
        num_vectors: K.
    """
    shapes = list(cell.state_shapes.values())
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = torch.cat([part.flatten() for part in cell.initial_state(1)])
    frame = torch.eye(len(flat), num_vectors, dtype=flat.dtype)
    sums = flat.new_zeros(num_vectors)
    for t in range(x.shape[1]):

        def advance(flat: torch.Tensor, t: int = t) -> torch.Tensor:
            parts = flat.split(sizes)
            state = tuple(part.view(1, *shape) for part, shape in zip(parts, shapes, strict=True))
            return torch.cat([part.flatten() for part in cell.step(x[:, t], state)])

        frame, triangle = torch.linalg.qr(torch.autograd.functional.jacobian(advance, flat) @ frame)
        sums += triangle.diagonal().abs().log()
        flat = advance(flat).detach()
    return sums.detach() / x.shape[1]


def _contributions(rounds: int, hidden_size: int, seq_len: int) -> Iterator[Result]:
    for cell_type in (LSTM, GRU, Elman):
        for batch_size in (32, 64):
            probe = _probe(cell_type, hidden_size, seq_len, batch_size)
            callables: dict[str, Callable[[], object]] = {
                "ours": partial(TemporalContributions(LogSpaced(), num_bins=32).read, probe),
                "backward": backward_pass(probe),
            }
            found = ratio(interleaved(callables, rounds, warm_up=2), "ours", "backward")
            setting = f"{cell_type.__name__} T{seq_len} B{batch_size} H{hidden_size}"
            yield Result("temporal contributions, 32 bins / backward pass", setting, found, CONTRIBUTIONS_TARGET_PASSES)


def backward_pass(probe: Probe) -> Callable[[], object]:
    """The backward pass of the probe's objective to all parameters, through the graph that the probe keeps."""
    objective = probe.losses[:, -1].mean()
    parameters = list(probe.network.parameters())
    return lambda: torch.autograd.grad(objective, parameters, retain_graph=True)


def _suite(rounds: int, hidden_size: int, seq_len: int) -> Iterator[Result]:
    task = AddingArjovsky2016(seq_len)
    suite = [*default_measurements(), LyapunovSpectrum(LogSpaced(), num_exponents=LEADING, num_samples=LEADING)]
    for cell_type in (LSTM, GRU, Elman):
        network = _network(cell_type, hidden_size, task)
        callables: dict[str, Callable[[], object]] = {
            "step": training_step(network, task, batch_size=50, reads_input_gradients=False),
            "suite": partial(read_probe, network, task, suite),
        }
        found = ratio(interleaved(callables, rounds, warm_up=2), "suite", "step")
        setting = f"{cell_type.__name__} {task.name} T{seq_len} B50 H{hidden_size}"
        yield Result("recurring suite with 8 exponents on 8 samples / step", setting, found, SUITE_TARGET_STEPS)


def _network(cell_type: Callable[..., Recurrent], hidden_size: int, task: AddingArjovsky2016) -> Network:
    torch.manual_seed(0)
    return Network(partial(cell_type, hidden_size=hidden_size), task.input_size, task.output_size)


def _probe(cell_type: Callable[..., Recurrent], hidden_size: int, seq_len: int, batch_size: int) -> Probe:
    task = AddingArjovsky2016(seq_len)
    batch = task.sample_held_out(np.random.default_rng(0), batch_size, task.input_len)
    probe = Probe(_network(cell_type, hidden_size, task), task, batch)
    _ = probe.losses  # what measurements share is there before one of them is timed
    return probe


if __name__ == "__main__":
    run_alone(measure, __doc__)
