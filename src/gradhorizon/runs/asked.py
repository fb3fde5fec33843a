"""What sweeps have asked for, written down when they start, so that what never began is missing, not unknown.

``sweeps/<digest>.json`` in the experiment's folder holds one sweep's runs; the same sweep launched again is the same
file. ``sweeps/<key>.failed.json`` says why a run of it failed that never had a folder, where ``<key>`` stands for its
overrides. All names are relative, so that a folder can be copied. Imports neither torch nor Hydra nor pandas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gradhorizon.records.errors import RecordsError
from gradhorizon.records.layout import SWEEPS, asked_files, asked_path, failed_before_path
from gradhorizon.records.plain import read_json
from gradhorizon.records.sheets import check
from gradhorizon.runs import failures

_OF_NO_RUN = ("runs_dir=", "hydra.", "hydra/", "plan=")


@dataclass(frozen=True)
class AskedRun:
    """A run that a sweep has asked for.

    Attributes:
        key: stands for its overrides.
        title: what tells it from others of its sweep.
        overrides: what it is launched with.
        identities: what its folder's name may end with (several where the device is not yet known); none if its
            configuration is wrong.
        run: the name its folder would be given, or its title.
        seeds: members.
        model: its label, None if that is not known.
        task: the protocol, None if that is not known.
        seq_len: T, None if that is not known.
        num_steps: its budget in optimizer steps, None if that is not known.
    """

    key: str
    title: str
    overrides: list[str]
    identities: list[str]
    run: str
    seeds: list[int]
    model: str | None = None
    task: str | None = None
    seq_len: int | None = None
    num_steps: int | None = None


def key_of(overrides: Iterable[str]) -> str:
    """Twelve hexadecimal digits that stand for overrides, in any order.

    Args:
        overrides: as Hydra has them.
    """
    return _digest(sorted(own_overrides(overrides)))


def own_overrides(overrides: Iterable[str]) -> list[str]:
    """Overrides without those that say where and how to launch.

    Args:
        overrides: as Hydra has them.
    """
    return [item for item in map(str, overrides) if not item.lstrip("+~").startswith(_OF_NO_RUN)]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def read_asked(sweeps: Path) -> tuple[list[AskedRun], dict[Path, str]]:
    """What all sweeps of an experiment have asked for, and of each record that cannot be read, why.

    Args:
        sweeps: the folder `SWEEPS` of an experiment.
    """
    found: list[AskedRun] = []
    problems: dict[Path, str] = {}
    names = [field.name for field in fields(AskedRun)]
    for path in asked_files(sweeps):
        try:
            content, _ = read_json(path)
            check(content, path, "AskedSheet")
            found += [AskedRun(**{name: run[name] for name in names}) for run in content["runs"]]
        except FileNotFoundError:  # withdrawn since it was listed
            continue
        except RecordsError as error:
            problems[path] = str(getattr(error, "fact", error))
    return found, problems


def failure_of(sweeps: Path, run: AskedRun) -> failures.Failure | None:
    """Why a run failed that never had a folder; None if it did not.

    Args:
        sweeps: the folder `SWEEPS` of its experiment.
        run: what was asked for.
    """
    path = failed_before_path(sweeps, run.key)
    return failures.read_failure(path) if path.exists() else None


def failure_path(experiment: Path, overrides: Iterable[str]) -> Path:
    """Where it is written why a run of a sweep failed that never had a folder.

    Args:
        experiment: the experiment's folder.
        overrides: what the run is launched with.
    """
    return failed_before_path(experiment / SWEEPS, key_of(overrides))


def record_path(experiment: Path, runs: Sequence[AskedRun]) -> Path:
    """Where it is written what a sweep asks for: the same sweep launched again has the same place.

    Args:
        experiment: the experiment's folder.
        runs: all runs of the sweep there.
    """
    return asked_path(experiment / SWEEPS, _digest([asdict(run) for run in runs]))
