"""Slots: where runs may go side by side, a GPU or a group of CPU cores each."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gradhorizon.config import ConfigError
from gradhorizon.machine import gpus

_GROUP = re.compile(r"cpu:(\d+(-\d+)?(,\d+(-\d+)?)*)")
_MOST_CORES = 2**16  # that a machine may have
_MOST_SHOWN = 8  # cores in a message
_GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time.

    Attributes:
        number: its place in the list, from 0.
        gpu: what ``CUDA_VISIBLE_DEVICES`` will say, or None to leave it alone.
        cores: the CPU cores its process is pinned to, or None for any.
    """

    number: int
    gpu: str | None = None
    cores: frozenset[int] | None = None

    def __str__(self) -> str:
        if self.gpu is not None:
            return f"GPU {self.gpu}"
        return "CPU" if self.cores is None else f"CPU cores {', '.join(map(str, sorted(self.cores)))}"

    def occupy(self) -> None:
        """Confine this process to the slot; before CUDA starts, or it would have no effect."""
        os.environ["GRADHORIZON_SLOT"] = str(self)  # whoever meets its members' locks is told
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)


def slots_of(asked: object, device: str, num_threads: int) -> list[Slot]:
    """The slots of a sweep.

    Args:
        asked: a number of slots on the CPU; or a list of GPU ids, in which a repeated id packs several runs on one
            GPU; or a list of CPU groups such as ``cpu:0-3``; or None for one slot per visible GPU, or where runs are
            on the CPU for as many as its cores can feed. Anything else is refused.
        device: where the runs are: cpu, cuda or mps.
        num_threads: CPU threads of a run.

    Raises:
        ConfigError: no slots, or slots that the device cannot use.
    """
    on_gpu = device.startswith("cuda")
    if asked is None:
        return _on_gpus(visible_gpus()) if on_gpu else _on_any_core(max(1, num_cores() // num_threads))
    slots = _on_any_core(asked) if isinstance(asked, int) and not isinstance(asked, bool) else _listed(asked)
    if not on_gpu and any(slot.gpu is not None for slot in slots):
        raise ConfigError(
            f"`hydra.launcher.slots`={asked} names GPUs, but runs are on {device}; "
            "use device=cuda if they are there, or a number of slots"
        )
    if on_gpu and any(slot.gpu is None for slot in slots):
        raise ConfigError(
            f"`hydra.launcher.slots` must be a list of GPU ids for device={device}, got {asked}; "
            "use slots=[0] (or [0,0] for two runs on one GPU), or device=cpu"
        )
    return slots


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = [str(number) for number in range(gpus.count())] if named is None else named.split(",")
    return [name.strip() for name in ids][: gpus.count()]


def _on_gpus(ids: Sequence[str]) -> list[Slot]:
    return [Slot(number, gpu=name) for number, name in enumerate(ids)]


def _on_any_core(count: int) -> list[Slot]:
    if count < 1:
        raise ConfigError(
            f"`hydra.launcher.slots` must be at least 1, got {count}" + "; for GPU 0 write slots=[0]" * (count == 0)
        )
    return [Slot(number) for number in range(count)]


def _listed(asked: object) -> list[Slot]:
    items = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else []
    names = [str(item) for item in items]
    if names and all(_GROUP.fullmatch(name) for name in names):
        return [Slot(number, cores=_cores(name)) for number, name in enumerate(names)]
    are_ids = all(isinstance(item, int | str) and _GPU.fullmatch(str(item)) for item in items)
    if not names or not are_ids:
        raise ConfigError(
            "`hydra.launcher.slots` must be GPU ids such as [0,0,1,1], or CPU groups such as ['cpu:0-3','cpu:4-7'], "
            f"or a number, got {asked!r}"
        )
    return _on_gpus(names)


def _cores(group: str) -> frozenset[int]:
    cores: set[int] = set()
    for part in group.removeprefix("cpu:").split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise ConfigError(f"`hydra.launcher.slots`: ranges must ascend, as in cpu:0-3, got {group}")
        cores.update(range(int(first), min(int(last or first), _MOST_CORES) + 1))
    absent = cores - os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else cores
    if absent:
        words = ", ".join(map(str, sorted(absent)[:_MOST_SHOWN])) + (", …" if len(absent) > _MOST_SHOWN else "")
        raise ConfigError(
            f"`hydra.launcher.slots`: {group} names cores {words} that this process may not use or pin; "
            "it may use those of `taskset -cp $$`, or give a number of slots instead of groups"
        )
    return frozenset(cores)
