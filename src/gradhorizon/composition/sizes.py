"""What a run cannot do without, held against this machine's memory before anything is built. Imports no torch.

Every figure is a lower bound: what is refused here could not be trained on this machine, whatever else were true.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gradhorizon.config import ConfigError, RunConfig

_BYTES_PER_MEMBER = 16 * 2**10  # of Python objects alone; the smallest network that was measured takes 27 KB
_BYTES_PER_LAYER = 4 * 2**10  # likewise; 12 KB
_FLOAT = 4
_OWN_TASKS = "gradhorizon.tasks."
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_LIMITS = (_CGROUP / "memory.max", _CGROUP / "memory" / "memory.limit_in_bytes")


@dataclass(frozen=True)
class Need:
    """Something that a run must hold in memory.

    Attributes:
        what: what it is.
        num_bytes: at the least.
        keys: those of the configuration that it grows with.
    """

    what: str
    num_bytes: int
    keys: tuple[str, ...]


@cache
def machine_bytes() -> int | None:
    """Memory and swap that this process may ever have; None where nobody says."""
    found = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 2**10 for line in lines}
        found.append(sizes["MemTotal"] + sizes.get("SwapTotal", 0))
    if not found:
        with suppress(OSError, ValueError, AttributeError):  # no swap is known here: twice the memory, to be sure
            found.append(2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(path.read_text(encoding="ascii")))
    return min(found, default=None)


def refuse(needs: Sequence[Need], run: RunConfig) -> None:
    """Refuse a run that needs more than there is.

    Args:
        needs: all that it must hold at the same time.
        run: the configuration's root.

    Raises:
        ConfigError: it does.
    """
    there, total = machine_bytes(), sum(need.num_bytes for need in needs)
    if there is None or total <= there:
        return
    largest = max(needs, key=lambda need: need.num_bytes)
    settings = ", ".join(f"`{key}`={getattr(run, key)}" for key in largest.keys)
    raise ConfigError(
        f"{settings} {'asks' if len(largest.keys) == 1 else 'ask'} for more than this machine can hold: "
        f"{largest.what} take at least {_words(largest.num_bytes)}, it has {_words(there)} of memory; lower "
        f"{' or '.join(f'`{key}`' for key in largest.keys)}"
    )


def refuse_members(run: RunConfig, num_members: int) -> None:
    """Refuse more members side by side than any network allows.

    Args:
        run: the configuration's root.
        num_members: members that are not finished.

    Raises:
        ConfigError: there are too many, or too many layers of each.
    """
    members = Need(f"{num_members} members", num_members * _BYTES_PER_MEMBER, ("num_seeds",))
    layers = Need(f"{run.num_layers} layers", run.num_layers * _BYTES_PER_LAYER, ("num_layers",))
    refuse([members], run)
    refuse([layers], run)
    if run.device == "cpu" and str(run.task["_target_"]).startswith(_OWN_TASKS):  # which feed T steps or more
        for need in needs_of_batches(run, run.seq_len, 1, num_held_out=0):
            refuse([need], run)


def needs_of_batches(run: RunConfig, input_len: int, input_size: int, num_held_out: int | None) -> list[Need]:
    """Inputs of the batches that a run on the CPU holds while it trains.

    Args:
        run: the configuration's root.
        input_len: steps that are fed.
        input_size: numbers per step.
        num_held_out: held-out samples that there are, None without a limit.
    """
    per_sample = input_len * input_size * _FLOAT
    held_out = run.val_size if num_held_out is None else min(run.val_size, num_held_out)
    probed = run.probe_batch_size if run.measurement else 0
    return [
        Need("inputs of a training batch", run.batch_size * per_sample, ("batch_size", "seq_len")),
        Need("inputs of the validation", held_out * per_sample, ("val_size", "seq_len")),
        Need("inputs of the probe", probed * per_sample, ("probe_batch_size", "seq_len")),
    ]


def _words(num_bytes: int) -> str:
    size, unit = num_bytes / 2**30, "GiB"
    for larger in ("TiB", "PiB", "EiB"):
        if size < 1000:  # noqa: PLR2004
            break
        size, unit = size / 2**10, larger
    return f"{size:.3g} {unit}"
