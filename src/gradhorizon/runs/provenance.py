"""What was true of a launch: versions, commit, device, sources."""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from gradhorizon.config import RunConfig
from gradhorizon.records.absent_tables import table_of
from gradhorizon.runs.members import MemberState
from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)

SOURCES = {
    "cell_source": "source of the external cell",
    "task_source": "source of the external task",
    "optimizer_source": "source of the external optimizer",
}
"""Facts of a launch about what comes from outside the package, in words."""

_PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "numpy", "pandas", "pyarrow", "wandb", "gradhorizon")


def say_differences(states: Sequence[MemberState], launch: Mapping[str, Any]) -> None:
    """Say what has changed since finished members were trained: the commit, the source of an external class."""
    for name, what in {"commit": "commit", **SOURCES}.items():
        then = {state.launch.get(name) for state in states if state.status == "finished"} - {launch.get(name)}
        if then:
            earlier = ", ".join(map(str, sorted(then, key=str)))
            say_once(
                log,
                f"  note: finished members were trained with another {what} ({earlier}, now {launch.get(name)}); they "
                "are kept as they are (said once)",
            )


def launch_facts(device: str, run: RunConfig) -> dict[str, Any]:
    """Versions, commit, device, precision and threads of this launch."""
    optimizer = str(run.optimizer["_target_"])
    return {
        **provenance(),
        "device": device,
        "precision": run.precision,
        "num_threads": run.num_threads,
        "cell_source": _external_source(run.model["cell"]["_target_"]),
        "task_source": _external_source(run.task["_target_"]),
        "optimizer_source": None if optimizer.startswith("torch.") else _external_source(optimizer),
        "measurements": sorted(table_of(name, node) for name, node in (run.measurement or {}).items()),
    }


@cache
def provenance() -> dict[str, Any]:
    """Versions and commit of the code, as this process (or the one that it was forked from) first found them."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {"versions": {**versions, "python": platform.python_version()}, "commit": _commit()}


def _commit() -> str | None:
    """Commit of the code that runs, with ``+changes`` if the tree differs from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)  # noqa: S603
        changes = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _external_source(target: str) -> str | None:
    module_name = target.rpartition(".")[0]
    if module_name.startswith("gradhorizon.") or not module_name:
        return None
    try:
        spec = importlib.util.find_spec(module_name)  # to run it would import torch
    except Exception:  # noqa: BLE001, whatever its package raises is said where the cell is built
        return None
    source = "".join(linecache.getlines(spec.origin)) if spec is not None and spec.origin else ""
    return hashlib.sha256(source.encode()).hexdigest()[:10] if source else None
