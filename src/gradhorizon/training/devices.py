"""Which device a run trains on."""

from __future__ import annotations

from gradhorizon.config import ConfigError
from gradhorizon.machine import gpus
from gradhorizon.terminal.words import counted


def resolve_device(name: str) -> str:
    """The device that `name` stands for: ``auto`` is the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: a device that is not there.
    """
    if name == "cpu":
        return name
    if name == "auto":
        return "cuda" if gpus.count() else "cpu"
    kind, _, index = name.partition(":")
    count = gpus.count() if kind == "cuda" else _num_mps()
    if int(index or 0) >= count:
        found = counted(count, f"{kind} device") if count else f"no {kind} device"
        raise ConfigError(f"`device`={name} is not on this machine ({found} found); use device=auto or device=cpu")
    return name


def _num_mps() -> int:
    import torch

    return int(torch.backends.mps.is_available())
