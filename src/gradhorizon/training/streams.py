"""Data streams: every batch is a pure function of what it is named by, whatever ran before it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradhorizon.tasks.task import Batch, Task

_TRAIN, _VALIDATION, _PROBE, _INIT, _NOISE = range(5)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def training_batch(task: Task, data_seed: int, seed: int, number: int, batch_size: int) -> Batch:
    """Training batch `number` of the member with seed `seed`, a pure function of the arguments."""
    return task.sample(_generator(data_seed, _TRAIN, seed, number), batch_size)


def validation_batches(task: Task, data_seed: int, size: int, batch_size: int) -> Iterator[Batch]:
    """`size` held-out samples in batches, the same at every validation of every member.

    Args:
        task: the protocol.
        data_seed: the only seed they depend on.
        size: samples in all, or fewer where the held-out set has no more: each of them counts once.
        batch_size: samples per batch, the last one may be smaller.
    """
    if task.num_held_out is not None:
        held_out = task.sample_held_out(_generator(data_seed, _VALIDATION), min(size, task.num_held_out))
        yield from held_out.split(batch_size)
        return
    for number, start in enumerate(range(0, size, batch_size)):
        yield task.sample_held_out(_generator(data_seed, _VALIDATION, number), min(batch_size, size - start))


def probe_batch(task: Task, data_seed: int, batch_size: int) -> Batch:
    """The probe batch, of exactly `task.input_len` steps, the same for every member and moment."""
    return task.sample_held_out(_generator(data_seed, _PROBE), batch_size, task.input_len)


def initialization_seed(seed: int) -> int:
    """Seed for torch's global generator while the member's network is built.

    Example:
        >>> initialization_seed(0) == initialization_seed(0) != initialization_seed(1)
        True
    """
    return _torch_seed(_INIT, seed)


def noise_seed(data_seed: int, seed: int, number: int) -> int:
    """Seed for torch's global generator during training step `number` (a user's readout or encoder may draw noise)."""
    return _torch_seed(_NOISE, data_seed, seed, number)


def _torch_seed(*key: int) -> int:
    # One word: torch's CPU generator keeps the lowest 32 bits of a seed.
    return int(np.random.SeedSequence(key).generate_state(1)[0])
