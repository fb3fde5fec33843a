"""A run's identity, its folder, and which of its members are done: what makes a sweep resumable."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import linecache
import logging
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from gradhorizon.config import RunConfig
from gradhorizon.once import say_once
from gradhorizon.records.files import DamagedFileError
from gradhorizon.records.layout import (
    CHECKPOINT,
    MEMBER_SHEET,
    member_folder,
    seeds_in,
)
from gradhorizon.records.listing import Listing
from gradhorizon.records.parquet import is_as_committed
from gradhorizon.records.reading import recorded_tables
from gradhorizon.records.sheets import read_member_sheet
from gradhorizon.spelling import canonical, spelled

log = logging.getLogger(__name__)

RESULTS_VERSION = 2
"""Bumped with every **Affects results** entry of CHANGELOG.md: runs of different versions are never pooled."""


_CANNOT_CHANGE_NUMBERS = (
    "experiment_name", "seed", "num_seeds", "measurement", "logger", "trainer", "runs_dir", "plan",
)  # fmt: skip
_NAMED_APART = ("model", "task", "seq_len", "experiment", *_CANNOT_CHANGE_NUMBERS)
_PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "numpy", "pandas", "pyarrow", "wandb", "gradhorizon")


def identity(run: RunConfig, device: str) -> str:
    """Ten hexadecimal digits that name all that can change a member's numbers, however a number is spelled.

    Args:
        run: the resolved configuration.
        device: the device that ``auto`` stands for.
    """
    content = {name: value for name, value in vars(run).items() if name not in _CANNOT_CHANGE_NUMBERS}
    content["model"] = {name: value for name, value in run.model.items() if name not in ("color", "marker")}
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


@dataclass(frozen=True)
class MemberState:
    """What is on disk of one member.

    Attributes:
        seed: its seed.
        status: finished, resumable (there is a checkpoint) or new.
        step: optimizer steps that its checkpoint or outcome holds.
        launch: what was true of the launch that wrote it last.
        listing: what it has committed; None if it was recorded before that was listed.
    """

    seed: int
    status: str
    step: int
    launch: dict[str, Any]
    listing: Listing | None = None


def member_state(folder: Path, seed: int) -> MemberState:
    """State of the member with `seed` in the run's `folder`."""
    member = member_folder(folder, seed)
    try:
        content = read_member_sheet(member)
    except DamagedFileError:  # its checkpoint says where it stands
        content = {}
    if content.get("status") == "finished":
        listing = Listing.read(content, member / MEMBER_SHEET)
        return MemberState(seed, "finished", content["step"], content["launch"], listing)
    if (member / CHECKPOINT).is_file():
        return MemberState(seed, "resumable", content.get("step", 0), content.get("launch", {}))
    return MemberState(seed, "new", 0, {})


def member_states(folder: Path, first_seed: int, num_seeds: int) -> list[MemberState]:
    """State of each member of a range of seeds that has anything on disk, by seed.

    Args:
        folder: the run's folder.
        first_seed: the first.
        num_seeds: how many there are, which may be far more than lie there.
    """
    return [member_state(folder, seed) for seed in seeds_in(folder) if 0 <= seed - first_seed < num_seeds]


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """How each member on disk stands: seed -> status, outcome, outcome_step; those of damaged sheets are left out."""
    found = {}
    for seed in seeds_in(folder):
        with suppress(DamagedFileError):  # its own launch repairs it
            member = read_member_sheet(member_folder(folder, seed))
            if not member:
                continue
            found[str(member["seed"])] = {key: member[key] for key in ("status", "outcome", "outcome_step")}
    return found


def is_finished(folder: Path, outcomes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all members that ever started have ended.

    Args:
        folder: the run's folder.
        outcomes: what `outcomes` returned.
    """
    return all(outcomes.get(str(seed), {}).get("status") == "finished" for seed in seeds_in(folder))


def finished_seeds(outcomes: Mapping[str, Mapping[str, Any]]) -> set[int]:
    """Seeds of the members that have ended.

    Args:
        outcomes: what `outcomes` returned.
    """
    return {int(seed) for seed, one in outcomes.items() if one["status"] == "finished"}


def damaged_files(folder: Path, state: MemberState) -> list[Path]:
    """Files of a member that are missing, or are not what was committed; large ones are not read.

    Args:
        folder: the run's folder.
        state: of the member.
    """
    listed = {} if state.listing is None else state.listing.files
    member = member_folder(folder, state.seed)
    return [member / path for path, entry in sorted(listed.items()) if not is_as_committed(member / path, entry)]


def tables_of(folder: Path, state: MemberState) -> set[str]:
    """Names of the tables that a member has recorded.

    Args:
        folder: the run's folder.
        state: of the member.
    """
    return recorded_tables(member_folder(folder, state.seed)) if state.listing is None else state.listing.tables


def say_differences(states: Sequence[MemberState], launch: Mapping[str, Any]) -> None:
    """Say what has changed since finished members were trained: the commit, an external cell's source."""
    for name, what in (("commit", "commit"), ("cell_source", "source of the external cell")):
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
    return {
        **provenance(),
        "device": device,
        "precision": run.precision,
        "num_threads": run.num_threads,
        "cell_source": _external_source(run.model["cell"]["_target_"]),
        "measurements": sorted(run.measurement or {}),
    }


@cache
def provenance() -> dict[str, Any]:
    """Versions and commit of the code, as this process (or the one that it was forked from) first found them."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return {"versions": {**versions, "python": platform.python_version()}, "commit": _commit()}


def _commit() -> str | None:
    """Commit of the code that runs, with ``+changes`` if the tree differs from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
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
