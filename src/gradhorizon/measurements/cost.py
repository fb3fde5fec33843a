r"""What one training step costs against the number of steps fed: seconds and bytes.

A step is what the run does with a batch that it has: zero the gradients, predict, take the loss, go back, clip, move.
Drawing the batch and moving it to the device are not in it. The numbers are those of the machine, of its load and of
its number of threads; every other number of this project is the network's.

Notation: B batch, N = `task.input_len`, n ≤ N steps fed, K loss steps, t* the last of them.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import ClassVar
from weakref import WeakSet

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.kernels.casting import real_dtype
from gradhorizon.machine.randomness import kept_rng
from gradhorizon.measurements.measurement import CostMeasurement, Program
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.schedule import Schedule
from gradhorizon.measurements.summaries import table_rows
from gradhorizon.records.tables import Column, Table
from gradhorizon.tasks.task import Batch


class Cost(CostMeasurement):
    """Seconds and bytes of one training step at geometric fractions of the task's input length.

    The steps are real ones of a copy of the network, with the run's optimizer, clipping and precision, on a batch of
    the task that is cut as `shortened` says, so that at n = N it is the protocol's own step. All lengths are timed in
    every round, in an order drawn anew, so that a machine's moods hit them alike; no garbage is collected
    meanwhile. The first step of each length warms up and is not timed. The least of the rounds is what other programs
    on the machine disturb least. A reading takes about as long as 2 · (`num_repetitions` + 1) steps of full length.

    ``saved_for_backward_bytes`` counts what autograd keeps from the forward pass: the distinct storages, each whole
    and once, that its nodes hold when the loss is there, without those of parameters and buffers. It holds for any
    device, and for fused kernels: the workspace that PyTorch's own LSTM kernel keeps is among them. It misses what
    a custom autograd function keeps without ``save_for_backward``, and what the backward pass allocates on its way,
    such as the segment that `recompute_every` computes again. ``peak_allocated_bytes`` has all of that, and exists on
    CUDA alone: PyTorch does not count its allocations on the CPU.

    Args:
        schedule: when it fires.
        num_lengths: how many lengths at most: N, N/2, N/4, …, rounded down, none below 1.
        num_repetitions: rounds.

    Raises:
        ValueError: `num_lengths` or `num_repetitions` below 1.
    """

    table: ClassVar[Table] = Table(
        "cost",
        "seconds and bytes of one training step (forward, loss, backward, clipping, optimizer) against its length",
        (
            Column("input_len_fed", "int64", "steps", "n, steps fed: N, N/2, N/4, …, rounded down"),
            Column("num_loss_steps", "int64", "steps", "loss steps that fall in them"),
            Column("batch_size", "int64", "samples", "B"),
            Column("step_time_median_s", "float64", "s", "one training step, without drawing its batch: median"),
            Column("step_time_low_s", "float64", "s", "least of the rounds"),
            Column("step_time_high_s", "float64", "s", "greatest of the rounds"),
            Column(
                "saved_for_backward_bytes",
                "int64",
                "bytes",
                "distinct storages that autograd holds between the forward and the backward pass, each whole, without "
                "those of parameters and buffers",
            ),
            Column(
                "peak_allocated_bytes",
                "float64",
                "bytes",
                "CUDA: largest allocation within a step, above what was allocated before it; NaN on other devices",
            ),
            Column("num_repetitions", "int64", "rounds", "how often each length was timed"),
            Column("num_threads", "int64", "threads", "CPU threads of the process"),
            Column("device", "string", "name", "where it ran"),
            Column("precision", "string", "name", "32-true, 64-true or bf16-mixed"),
        ),
    )

    def __init__(self, schedule: Schedule, num_lengths: int = 4, num_repetitions: int = 9) -> None:
        super().__init__(schedule)
        refuse_below("num_lengths", num_lengths, 1)
        refuse_below("num_repetitions", num_repetitions, 1)
        self.num_lengths = num_lengths
        self.num_repetitions = num_repetitions

    def read(self, program: Program) -> pd.DataFrame:
        """One row per length, the shortest first."""
        with torch.inference_mode(mode=False), torch.enable_grad(), kept_rng():
            training = _Training(program)
            whole = program.task.sample(np.random.default_rng(0), program.batch_size, program.task.input_len)
            fed = fed_lengths(whole.inputs.shape[1], self.num_lengths)
            batches = [training.placed(shortened(whole, input_len)) for input_len in fed]
            saved = [training.saved_bytes(batch) for batch in batches]
            peaks = [training.peak_bytes(batch) for batch in batches]
            seconds = interleaved_s([partial(training.step, batch) for batch in batches], self.num_repetitions)
        columns = {
            "input_len_fed": fed,
            "num_loss_steps": [len(batch.loss_steps) for batch in batches],
            "batch_size": program.batch_size,
            "step_time_median_s": np.median(seconds, axis=0),
            "step_time_low_s": seconds.min(axis=0),
            "step_time_high_s": seconds.max(axis=0),
            "saved_for_backward_bytes": saved,
            "peak_allocated_bytes": peaks,
            "num_repetitions": self.num_repetitions,
            "num_threads": torch.get_num_threads(),
            "device": str(training.device),
            "precision": program.precision,
        }
        return table_rows(self.table, columns)


def fed_lengths(input_len: int, count: int) -> list[int]:
    """At most `count` distinct lengths in steps, ascending: N, N/2, N/4, …, rounded down, none below 1.

    Example:
        >>> fed_lengths(420, 4), fed_lengths(3, 4)
        ([52, 105, 210, 420], [1, 3])
    """
    return sorted({input_len >> halvings for halvings in range(count)} - {0})


def shortened(batch: Batch, input_len: int) -> Batch:
    """The last `input_len` steps of a batch, with the loss steps and targets that fall in them, in memory of its own.

    A protocol that asks for K predictions at its end so asks for them at every length. Where t* lies before those
    steps, the window begins at t*: a step without a loss would have no gradient.

    Args:
        batch: of at least `input_len` steps.
        input_len: n.
    """
    start = min(batch.inputs.shape[1] - input_len, batch.loss_steps[-1] - 1)
    kept = [index for index, t in enumerate(batch.loss_steps) if start < t <= start + input_len]
    return replace(
        batch,
        # A view would keep the whole batch alive, and weigh as much.
        inputs=batch.inputs[:, start : start + input_len].clone(memory_format=torch.contiguous_format),
        targets=batch.targets[:, kept],
        loss_steps=tuple(batch.loss_steps[index] - start for index in kept),
    )


class _Training:
    """A copy of a member that takes training steps as the run does; the run's own network never moves."""

    def __init__(self, program: Program) -> None:
        network = copy.deepcopy(program.network).train()
        self.network, self.training = network, program.build_training(network)
        self.optimizer = program.build_optimizer(network.parameters())
        self.device, self.dtype = next(network.parameters()).device, real_dtype(network)
        self.is_mixed = program.precision == "bf16-mixed"

    def placed(self, batch: Batch) -> Batch:
        """A batch on the device of the network, in its dtype."""
        return batch.to(self.device, self.dtype)

    def step(self, batch: Batch) -> None:
        """One whole training step, ended when the device has ended it."""
        with self._autocast():
            self._move(self._loss(batch))
        self._synchronize()

    def saved_bytes(self, batch: Batch) -> int:
        """Take a step, and weigh what its forward pass left for its backward pass."""
        held: WeakSet[_Held] = WeakSet()
        with self._autocast():
            with torch.autograd.graph.saved_tensors_hooks(partial(_held_in, held), _of_held):
                loss = self._loss(batch)
            num_bytes = _storage_bytes([own.tensor for own in held])
            self._move(loss)
        in_the_network = _storage_bytes([*self.network.parameters(), *self.network.buffers()])
        return sum(size for storage, size in num_bytes.items() if storage not in in_the_network)

    def peak_bytes(self, batch: Batch) -> float:
        """Take a step, and read from CUDA's allocator how much more than before it held at once."""
        if self.device.type != "cuda":
            return float("nan")
        self.optimizer.zero_grad()
        self._synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.step(batch)
        return float(torch.cuda.max_memory_allocated(self.device) - before)

    def _loss(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad()
        return self.training.loss(batch)

    def _move(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)
        self.training.clip()
        self.optimizer.step()

    def _autocast(self) -> torch.autocast:
        # Lightning's own context for bf16-mixed: around the whole step, and left after each.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_mixed)

    def _synchronize(self) -> None:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()


class _Held:
    """A tensor that autograd saved, alive as long as the node that saved it."""

    def __init__(self, tensor: Tensor) -> None:
        # With its graph, a node's own output would keep the node alive for ever.
        self.tensor = tensor.detach()


def _held_in(held: WeakSet[_Held], tensor: Tensor) -> _Held:
    own = _Held(tensor)
    held.add(own)
    return own


def _of_held(own: _Held) -> Tensor:
    return own.tensor


def _storage_bytes(tensors: Sequence[Tensor]) -> dict[int, int]:
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def interleaved_s(steps: Sequence[Callable[[], object]], num_rounds: int) -> Float[np.ndarray, "R L"]:
    """Seconds of each step in each round, shape (R, L); a round takes every step once, in an order drawn anew.

    Args:
        steps: L callables.
        num_rounds: R.
    """
    order = np.random.default_rng(0)
    seconds = np.empty((num_rounds, len(steps)))
    with _collector_off():
        for of_round in seconds:
            for index in order.permutation(len(steps)):
                start = time.perf_counter()
                steps[index]()
                of_round[index] = time.perf_counter() - start
    return seconds


@contextmanager
def _collector_off() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
