r"""Cost of measuring, in training steps: input gradients read along with a step, and the float64 probe.

A step is forward, backward and Adam of an LSTM network in float32. Read along: the inputs require grad in that same
backward pass, and their norms per sample and input step are taken in float64. Probe: a float64 copy of the network on
the probe batch, with the rows of all probe measurements that are on by default.

Notation: T as the task's paper prints it, B training batch, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from benchmarks.table import Result, as_table, run_alone
from benchmarks.timing import interleaved, ratio, threads
from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements.gates import Gates
from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.state_gradients import StateGradients
from gradhorizon.network import Network
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.tasks.copy_arjovsky2016 import CopyArjovsky2016
from gradhorizon.tasks.task import Task

TASKS: tuple[type[Task], ...] = (AddingArjovsky2016, CopyArjovsky2016)
READ_ALONG_TARGET = 1.15
PROBE_TARGET_STEPS = 6.0
PROBE_BATCH_SIZE = 32


def measure(
    rounds: int = 30, num_threads: int = 1, seq_len: int = 100, batch_size: int = 50, hidden_size: int = 128
) -> pd.DataFrame:
    """Ratios to a training step.

    Args:
        rounds: interleaved repetitions.
        num_threads: CPU threads.
        seq_len: T.
        batch_size: B.
        hidden_size: H.
    """
    results = []
    with threads(num_threads):
        for task_type in TASKS:
            task = task_type(seq_len)
            network = _network(task, hidden_size)
            seconds = interleaved(
                {
                    "step": training_step(network, task, batch_size, reads_input_gradients=False),
                    "read along": training_step(network, task, batch_size, reads_input_gradients=True),
                    "probe": partial(read_probe, network, task, default_measurements()),
                },
                rounds,
                warm_up=2,
            )
            setting = f"{task.name} T{seq_len} B{batch_size} H{hidden_size}"
            along = ratio(seconds, "read along", "step")
            results.append(Result("float32 step with input gradients / step", setting, along, READ_ALONG_TARGET))
            label = f"float64 probe of {PROBE_BATCH_SIZE} samples / step"
            results.append(Result(label, setting, ratio(seconds, "probe", "step"), PROBE_TARGET_STEPS))
    return as_table(results)


def default_measurements() -> list[ProbeMeasurement]:
    """The probe measurements that ``conf/train.yaml`` switches on."""
    return [InputGradients(LogSpaced()), StateGradients(LogSpaced()), Gates(LogSpaced())]


def read_probe(network: Network, task: Task, measurements: Sequence[ProbeMeasurement]) -> list[pd.DataFrame]:
    """Rows of all `measurements` from one probe, its float64 copy included."""
    batch = task.sample_held_out(np.random.default_rng(0), PROBE_BATCH_SIZE, task.input_len)
    probe = Probe(network, task, batch)
    return [measurement.read(probe) for measurement in measurements]


def training_step(
    network: Network, task: Task, batch_size: int, reads_input_gradients: bool
) -> Callable[[], torch.Tensor]:
    """One training step of a copy of `network`, which returns the norms it reads, or the loss."""
    network = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters())
    batch = task.sample(np.random.default_rng(0), batch_size)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        inputs = batch.inputs.detach().requires_grad_(reads_input_gradients)
        loss = task.loss(network(inputs, batch.loss_steps), batch.targets).mean()
        loss.backward()
        optimizer.step()
        if inputs.grad is None:
            return loss.detach()
        return torch.linalg.vector_norm(inputs.grad, dim=-1, dtype=torch.float64)

    return step


def _network(task: Task, hidden_size: int) -> Network:
    torch.manual_seed(0)
    return Network(partial(LSTM, hidden_size=hidden_size), task.input_size, task.output_size)


if __name__ == "__main__":
    run_alone(measure, __doc__)
