r"""Runs per hour of the launchers, beside each other: many short runs on the cores of one machine.

Every sweep is a command of its own, from its start to its end, imports and the preloading of `local` included, over
runs that differ in their data alone and take three to five seconds each. `basic` trains one after the other, at
whichever number of threads is faster for it; `joblib` and `local` train one per core with a thread each.

*Overhead per run*: what a slot of `local` spends on a run beyond the run's own wall time (from the first line of its
``run.json`` to the last), starting a fresh process, composing and building included, the preloading left out.

Notation: H hidden size, R runs of a sweep.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from benchmarks.table import Result, as_table, run_alone
from benchmarks.timing import Spread, interleaved, ratio
from gradhorizon.records.files import read_json
from gradhorizon.records.layout import MEMBER_SHEET, member_name

BASIC_TARGET, JOBLIB_TARGET = 1.5, 1.0
OVERHEAD_TARGET_S = 0.5
RUN_TARGET_S = 4.0
CALIBRATION_STEPS = 300
FIXED = (
    "-m", "model=lstm", "task=adding_arjovsky2016", "seq_len=50", "num_seeds=1", "logger=none", "device=cpu",
    "val_size=100", "stop_when_solved=false", "trainer.log_every_steps=50",
)  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """One finished sweep.

    Attributes:
        runs_wall_s: wall time of each run, as its ``run.json`` has it.
        from_first_start_s: from the first run's start to the end of the command.
    """

    runs_wall_s: tuple[float, ...]
    from_first_start_s: float


def measure(
    rounds: int = 2, num_threads: int = 1, num_runs: int = 40, hidden_sizes: tuple[int, ...] = (32, 64)
) -> pd.DataFrame:
    """Throughput of `local` over that of the others, and its overhead per run.

    Args:
        rounds: interleaved repetitions of every sweep.
        num_threads: CPU threads of each worker of joblib and local.
        num_runs: R.
        hidden_sizes: H of each setting.
    """
    return as_table([row for size in hidden_sizes for row in _setting(rounds, num_threads, num_runs, size)])


def _setting(rounds: int, num_threads: int, num_runs: int, hidden_size: int) -> Iterator[Result]:
    cores = os.cpu_count() or 1
    slots = max(1, cores // num_threads)
    num_steps = calibrated_steps(hidden_size)
    basic_threads = min((1, cores), key=lambda count: _basic_wall_s(hidden_size, num_steps, count))
    sweeps: list[Sweep] = []
    launchers = {
        "basic": ("hydra/launcher=basic", f"num_threads={basic_threads}"),
        "joblib": ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={slots}", f"num_threads={num_threads}"),
        "local": ("hydra/launcher=local", f"hydra.launcher.slots={slots}", f"num_threads={num_threads}"),
    }

    def run(name: str) -> None:
        done = sweep(hidden_size, num_steps, num_runs, launchers[name])
        if name == "local":
            sweeps.append(done)

    seconds = interleaved({name: partial(run, name) for name in launchers}, rounds, warm_up=0)
    run_s = float(np.median([wall_s for done in sweeps for wall_s in done.runs_wall_s]))
    setting = f"H{hidden_size}, {num_runs} runs of {run_s:.1f} s, {slots} slots"
    label = f"runs per hour, local / basic ({basic_threads} thread{'s' * (basic_threads != 1)})"
    yield Result(label, setting, ratio(seconds, "basic", "local"), BASIC_TARGET, is_floor=True)
    yield Result("runs per hour, local / joblib", setting, ratio(seconds, "joblib", "local"), JOBLIB_TARGET,
                 is_floor=True)  # fmt: skip
    overheads = np.array([overhead_s(done, slots) for done in sweeps])
    found = Spread(*(float(of(overheads)) for of in (np.median, np.median, np.min, np.max)))
    yield Result("local: overhead per run after preloading", setting, found, OVERHEAD_TARGET_S, unit="s")


def overhead_s(done: Sweep, slots: int) -> float:
    """Seconds that a slot spent on each run beyond the run's own wall time.

    Args:
        done: the sweep.
        slots: how many runs went side by side.

    Example:
        >>> overhead_s(Sweep(runs_wall_s=(3.0, 3.0), from_first_start_s=4.0), slots=2)
        1.0
    """
    return done.from_first_start_s * slots / len(done.runs_wall_s) - float(np.mean(done.runs_wall_s))


def calibrated_steps(hidden_size: int) -> int:
    """Optimizer steps that make a run of `hidden_size` take about `RUN_TARGET_S` on one thread."""
    done = sweep(hidden_size, CALIBRATION_STEPS, 1, ("hydra/launcher=basic", "num_threads=1"))
    return max(1, round(CALIBRATION_STEPS * RUN_TARGET_S / done.runs_wall_s[0]))


def _basic_wall_s(hidden_size: int, num_steps: int, num_threads: int) -> float:
    done = sweep(hidden_size, num_steps, 3, ("hydra/launcher=basic", f"num_threads={num_threads}"))
    return min(done.runs_wall_s)


def sweep(hidden_size: int, num_steps: int, num_runs: int, launcher: tuple[str, ...]) -> Sweep:
    """Train a sweep in a process of its own.

    Args:
        hidden_size: H.
        num_steps: optimizer steps of each run.
        num_runs: R.
        launcher: overrides that choose the launcher.

    Raises:
        subprocess.CalledProcessError: a run failed.
    """
    data_seeds = ",".join(map(str, range(num_runs)))
    sizes = (f"hidden_size={hidden_size}", f"num_steps={num_steps}", f"val_every_steps={num_steps}")
    with TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "gradhorizon",
            *FIXED,
            *sizes,
            *launcher,
            f"data_seed={data_seeds}",
        ]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603, our own program
        end_s = time.time()
        sheets = Path(folder).glob(f"runs/default/*/{member_name(0)}/{MEMBER_SHEET}")
        launches = [read_json(path)["launches"][-1] for path in sheets]
    first_s = min(launch["started_at_s"] for launch in launches)
    return Sweep(tuple(launch["wall_s"] for launch in launches), end_s - first_s)


if __name__ == "__main__":
    run_alone(measure, __doc__)
