r"""Memory and time of the exact input-gradient profile of an LSTM over a million steps.

The probe itself is run: a copy of the network on sequences of the adding problem, read out at the last step, with the
inner activations of each segment recomputed in the backward pass. The biases are chrono's for that length, so that
there is a gradient to be measured: with PyTorch's own it is
exactly 0 beyond a lag of some 200 steps in float32 and 1 700 in float64.

Each dtype is measured in a process of its own: its peak resident memory less what was resident after the imports.

Notation: N steps, B batch, H hidden size, lag τ = N − t.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.table import Result, as_table, command_line, markdown, once, surroundings
from gradhorizon.cells.lstm import LSTM, chrono
from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016

DTYPES = ("float32", "float64")
TARGET_GIB = {"float32": 1.0}
BATCH_SIZE = 4
HIDDEN_SIZE = 64
RECOMPUTE_EVERY = 1000
BYTES_PER_GIB = 2**30


@dataclass(frozen=True)
class Profile:
    """What one process found.

    Attributes:
        peak_gib: peak resident memory above the imports.
        seconds: forward and backward pass and the rows of the profile.
        num_non_finite: entries of the gradient that are infinite or NaN.
        longest_lag: the longest lag, in steps, at which any entry is not 0.
        relative_at_longest_lag: median over samples of the norm at lag N − 1, over that at lag 0; dimensionless.
    """

    peak_gib: float
    seconds: float
    num_non_finite: int
    longest_lag: int
    relative_at_longest_lag: float


def measure(num_threads: int = 1, input_len: int = 1_000_000, recompute_every: int = RECOMPUTE_EVERY) -> pd.DataFrame:
    """Peak memory, seconds and reach per dtype.

    Args:
        num_threads: CPU threads.
        input_len: N.
        recompute_every: steps per segment.
    """
    results = []
    for dtype in DTYPES:
        found = in_own_process(dtype, num_threads, input_len, recompute_every)
        setting = f"N{input_len} B{BATCH_SIZE} H{HIDDEN_SIZE} {dtype}"
        name = f"exact input-gradient profile, segments of {recompute_every}"
        reach = f"{name}: longest lag with a gradient that is not exactly 0"
        relative = f"{name}: norm at lag N − 1 / at lag 0"
        results += [
            Result(f"{name}: peak memory", setting, once(found.peak_gib), TARGET_GIB.get(dtype), "GiB"),
            Result(f"{name}: time", setting, once(found.seconds), None, "s"),
            Result(reach, setting, once(found.longest_lag), None, "steps"),
            Result(relative, setting, once(found.relative_at_longest_lag)),
            Result(f"{name}: infinite or NaN entries", setting, once(found.num_non_finite), 0.0, "entries"),
        ]
    return as_table(results)


def in_own_process(dtype: str, num_threads: int, input_len: int, recompute_every: int) -> Profile:
    """The profile's cost and reach, from a fresh interpreter.

    Raises:
        subprocess.CalledProcessError: it failed; its own words are on standard error.
    """
    command = [
        sys.executable, "-m", "benchmarks.long_sequence", "--dtype", dtype, "--threads", str(num_threads),
        "--input-len", str(input_len), "--recompute-every", str(recompute_every),
    ]  # fmt: skip
    root = Path(__file__).parents[1]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)  # noqa: S603
    return Profile(**json.loads(done.stdout))


def measure_here(dtype: torch.dtype, input_len: int, recompute_every: int) -> Profile:
    """The profile's cost and reach in this process, whose peak must not have been higher before."""
    resident_gib = _resident_gib()
    start = time.perf_counter()
    probe = long_probe(dtype, input_len, recompute_every)
    rows = InputGradients(LogSpaced()).read(probe)
    seconds = time.perf_counter() - start
    peak_gib = _peak_gib() - resident_gib
    gradient = probe.input_gradient
    return Profile(
        peak_gib=peak_gib,
        seconds=seconds,
        num_non_finite=int((~gradient.isfinite()).sum()),
        longest_lag=longest_lag(gradient),
        relative_at_longest_lag=float(rows["relative_gradient_norm_median"].iloc[-1]),
    )


def long_probe(dtype: torch.dtype, input_len: int, recompute_every: int) -> Probe:
    """The project's probe of an LSTM with chrono biases on sequences of the adding problem, nothing computed yet."""
    torch.manual_seed(0)
    task = AddingArjovsky2016(input_len)
    cell = partial(LSTM, hidden_size=HIDDEN_SIZE, initialization=partial(chrono, seq_len=input_len))
    network = Network(cell, task.input_size, task.output_size, recompute_every=recompute_every)
    batch = task.sample_held_out(np.random.default_rng(0), BATCH_SIZE, input_len)
    return Probe(network, task, batch, dtype=dtype)


def longest_lag(gradient: Float[Tensor, "B N E"]) -> int:
    """The longest lag, in steps, at which an entry is not exactly 0; −1 if all are."""
    steps = (gradient != 0).any(dim=0).any(dim=-1).nonzero()
    return gradient.shape[1] - 1 - int(steps[0]) if len(steps) else -1


def _resident_gib() -> float:
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / BYTES_PER_GIB
    return _peak_gib()


def _peak_gib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / BYTES_PER_GIB


def main() -> None:
    """Print the table, or, with ``--dtype``, what one process found, as JSON."""
    parser = command_line(__doc__)
    parser.add_argument("--input-len", type=int, default=1_000_000, help="steps N (default: 1000000)")
    parser.add_argument("--recompute-every", type=int, default=RECOMPUTE_EVERY, help="steps per segment")
    parser.add_argument("--dtype", choices=DTYPES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.dtype is None:
        print(surroundings(arguments.threads))
        print(markdown(measure(arguments.threads, arguments.input_len, arguments.recompute_every)))
    else:
        torch.set_num_threads(arguments.threads)
        found = measure_here(getattr(torch, arguments.dtype), arguments.input_len, arguments.recompute_every)
        print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
