"""Torch's global generators: seeded for what draws from them, and left as they were found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def forked_rng(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and restore them on leaving."""
    with kept_rng():
        seed_generators(seed)
        yield


@contextmanager
def kept_rng() -> Iterator[None]:
    """Restore torch's global generators on leaving: the CPU's, and those of GPUs that are in use."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        yield


def seed_generators(seed: int) -> None:
    """Seed torch's global generators as ``torch.manual_seed`` does, in microseconds where no GPU is in use.

    Without CUDA's initialisation ``torch.manual_seed`` formats a stack trace at each call, a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
