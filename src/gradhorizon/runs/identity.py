"""A run's identity, and the readable part of its folder's name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from gradhorizon.composition.spelling import canonical, spelled
from gradhorizon.composition.variants import TELL_NO_RUN
from gradhorizon.config import RunConfig

RESULTS_VERSION = 2
"""Bumped with every **Affects results** entry of CHANGELOG.md: runs of different versions are never pooled."""

_NAMED_APART = ("model", "task", "seq_len", "experiment", *TELL_NO_RUN)


def identity_of(run: RunConfig, device: str) -> str:
    """Ten hexadecimal digits that name all that can change a member's numbers, however a number is spelled.

    Data of the user's own is named by the digest of its bytes, wherever it lies.

    Args:
        run: the resolved configuration.
        device: the device that ``auto`` stands for.
    """
    content = {name: value for name, value in vars(run).items() if name not in TELL_NO_RUN}
    content["model"] = {name: value for name, value in run.model.items() if name not in ("color", "marker")}
    content["task"] = {name: value for name, value in run.task.items() if name != "path" or "digest" not in run.task}
    content["device"] = device.split(":", maxsplit=1)[0]
    content["results_version"] = RESULTS_VERSION
    content = {name: canonical(value, RunConfig.__annotations__.get(name, "")) for name, value in content.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def readable_name(run: RunConfig, task_name: str, overrides: Sequence[str]) -> str:
    """A folder name's readable part: model, task, length and what else was overridden, at most 100 characters.

    Args:
        run: the resolved configuration.
        task_name: the protocol's name.
        overrides: command-line overrides of this run.
    """
    others = [spelled(item).lstrip("+~") for item in overrides if _is_named(item)]
    parts = [str(run.model["label"]), task_name, f"T{run.seq_len}", *others]
    return re.sub(r"[^\w.=+-]+", "_", "-".join(parts))[:100].rstrip("-_.")


def _is_named(override: str) -> bool:
    key = override.lstrip("+~").split("=")[0]
    return key.split(".")[0].split("@")[0] not in _NAMED_APART and not key.startswith("hydra")
