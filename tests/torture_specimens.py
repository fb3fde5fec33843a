"""The small runs that are tortured, and older versions of their files, made once and copied from then on."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig

from gradhorizon.records.layout import (
    CHECKPOINT,
    CONFIG,
    FAILURE,
    KEPT,
    LOCK,
    LOG,
    MEMBER_SHEET,
    RUN_SHEET,
    SWEEPS,
    is_temporary,
    kept_step_in,
    member_folder,
    owner_in,
    steps_in,
    table_in,
)
from gradhorizon.sweeps.launch import launch
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.training.module import EnsembleModule
from tests.runs_on_disk import TINY, all_tables, composed

SEEDS = (0, 1)
EXPERIMENT = "default"
SMALL = (
    "num_steps=9",
    "val_every_steps=3",
    "trainer.checkpoint_every_s=0",
    "trainer.progress_every_s=1000",
    "~measurement.gates",
    "+measurement@measurement.recurrent_weights=recurrent_weights",
    "measurement.input_gradients.schedule.num_points=3",
    "measurement.state_gradients.schedule.num_points=3",
    "measurement.parameter_gradients.schedule.every_steps=2",
)
FINISHED, UNFINISHED, OTHER, FAILED = "finished", "unfinished", "other", "failed"
OWN: dict[str, tuple[str, ...]] = {
    FINISHED: ("trainer.keep_probe_checkpoints=true", "stop_when_solved=false"),
    UNFINISHED: ("learning_rate=0.002",),
    OTHER: ("learning_rate=0.003",),
    FAILED: ("learning_rate=0.004",),
}
"""Specimen -> what it is launched with beyond `SMALL`."""

_SILENT_S = 1e5
_COMMITS = 5  # of both members, before the unfinished run is killed


def is_table(path: Path) -> bool:
    """Whether it is a table of a member that has ended."""
    return table_in(path.name) is not None


def is_part(path: Path) -> bool:
    """Whether it is a part of a table."""
    return steps_in(path.name) is not None


def _named(*names: str) -> Callable[[Path], bool]:
    return lambda path: path.name in names


KINDS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "whole table": (FINISHED, is_table),
    "part of a table": (UNFINISHED, is_part),
    "init.pt": (FINISHED, _named("init.pt")),
    "solved.pt": (FINISHED, _named("solved.pt")),
    "last.pt": (FINISHED, _named("last.pt")),
    "step-….pt": (FINISHED, lambda path: kept_step_in(path.name) is not None),
    "checkpoint.pt": (UNFINISHED, _named(CHECKPOINT)),
    "member.json, finished": (FINISHED, _named(MEMBER_SHEET)),
    "member.json, unfinished": (UNFINISHED, _named(MEMBER_SHEET)),
    "run.json, finished": (FINISHED, _named(RUN_SHEET)),
    "run.json, unfinished": (UNFINISHED, _named(RUN_SHEET)),
    "config.yaml": (FINISHED, _named(CONFIG)),
    ".owner-….json": (UNFINISHED, lambda path: owner_in(path.name) is not None),
    "failed.json": (FAILED, _named(FAILURE)),
    "log.txt": (FAILED, _named(LOG)),
    "sweeps/….json": (SWEEPS, lambda path: path.suffix == ".json" and not path.name.endswith(FAILURE)),
    "sweeps/….failed.json": (SWEEPS, lambda path: path.name.endswith(FAILURE)),
}
"""Kind of file -> the specimen that holds such files, and which they are."""


@dataclass(frozen=True)
class Specimens:
    """Runs below one folder of runs.

    Attributes:
        root: the folder of runs.
        places: specimen -> its folder.
        older: of every file, the versions that were replaced by later ones, as ``<name>.<number>``.
        expected: specimen -> seed -> the tables that it has, or will have.
        kept: specimen -> the networks that it has kept, or will have, by seed and file.
    """

    root: Path
    places: dict[str, Path]
    older: Path
    expected: dict[str, dict[int, dict[str, pd.DataFrame]]]
    kept: dict[str, dict[str, Any]]

    def files(self, kind: str) -> list[Path]:
        """The files of one kind.

        Args:
            kind: of `KINDS`.
        """
        specimen, is_one = KINDS[kind]
        return [path for path in regular_files(self.places[specimen]) if is_one(path)]

    def older_versions(self, path: Path) -> list[bytes]:
        """What a file has held before."""
        kept = self.older / path.relative_to(self.root)
        found = [one for one in kept.parent.glob(f"{kept.name}.*") if one.suffix[1:].isdigit()]
        return [one.read_bytes() for one in sorted(found, key=lambda one: int(one.suffix[1:]))]

    def copied(self, specimen: str, folder: Path) -> Path:
        """A copy of one specimen that may be spoiled, below a folder of runs of its own."""
        place = self.places[specimen]
        copy = folder / place.relative_to(self.root)
        shutil.copytree(place, copy, symlinks=True)
        return copy


def regular_files(folder: Path) -> list[Path]:
    """All files of a run but locks and files that a killed writer left half-written."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size and not is_temporary(path.name) and path.name != LOCK
    )


def configuration(folder: Path, *overrides: str) -> DictConfig:
    """A small run, with its records below `folder`."""
    return composed(f"runs_dir={folder}", *SMALL, *overrides)


def make(folder: Path) -> Specimens:
    """Train all specimens.

    Args:
        folder: where they, and the older versions of their files, are put.
    """
    root, older = folder / "runs", folder / "older"
    with _older_kept(root, older):
        places = {FINISHED: _solved_at_its_second_validation(root), OTHER: launch(_of(root, OTHER)).folder}
        places[UNFINISHED] = _ended(root, UNFINISHED, _killed_after_commits)
        places[FAILED] = _ended(root, FAILED, _broken_at_its_second_step)
    places[SWEEPS] = _swept(root)
    for path in places[UNFINISHED].rglob("*"):
        if owner_in(path.name) is not None:  # whoever it was has been silent for long, whatever is spoiled
            os.utime(path, (time.time() - _SILENT_S, time.time() - _SILENT_S))
    whole = launch(_of(folder / "whole", UNFINISHED)).folder
    runs = {FINISHED: places[FINISHED], OTHER: places[OTHER], UNFINISHED: whole}
    expected = {name: {seed: all_tables(run, seed) for seed in SEEDS} for name, run in runs.items()}
    return Specimens(root, places, older, expected, {name: networks(run) for name, run in runs.items()})


def networks(run: Path) -> dict[str, Any]:
    """What the checkpoints hold that a run has kept, by seed and file."""
    paths = [path for seed in SEEDS for path in sorted((member_folder(run, seed) / KEPT).glob("*.pt"))]
    return {path.relative_to(run).as_posix(): torch.load(path, weights_only=True) for path in paths}


def _of(root: Path, specimen: str) -> DictConfig:
    return configuration(root, *OWN[specimen])


def _solved_at_its_second_validation(root: Path) -> Path:
    original = AddingArjovsky2016.is_solved
    validations = itertools.count(1)
    AddingArjovsky2016.is_solved = lambda *_: next(validations) > len(SEEDS)  # type: ignore[method-assign]
    try:
        return launch(_of(root, FINISHED)).folder
    finally:
        AddingArjovsky2016.is_solved = original  # type: ignore[method-assign]


def _ended(root: Path, specimen: str, prepare: Callable[[], None]) -> Path:
    """A run whose process ends before it has finished."""
    before = set((root / EXPERIMENT).iterdir())
    child = os.fork()
    if child == 0:
        try:
            quiet()
            prepare()
            launch(_of(root, specimen))
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    return next(path for path in (root / EXPERIMENT).iterdir() if path not in before and path.name != SWEEPS)


def heard(output: Path) -> None:
    """Let all that this process, a forked one, shows go to a file from now on."""
    file = output.open("w", encoding="utf-8", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file


def quiet() -> None:
    """Let this process, a forked one, say nothing."""
    logging.disable(logging.CRITICAL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _killed_after_commits() -> None:
    original, count = os.replace, itertools.count(1)

    def replace(source: Any, target: Any, **options: Any) -> None:
        original(source, target, **options)
        if Path(os.fsdecode(target)).name == MEMBER_SHEET and next(count) == _COMMITS:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


def _broken_at_its_second_step() -> None:
    original, count = EnsembleModule.training_step, itertools.count(1)

    def step(*arguments: Any, **options: Any) -> Any:
        if next(count) > 1:
            raise ValueError("broken on purpose")
        return original(*arguments, **options)

    EnsembleModule.training_step = step  # type: ignore[method-assign]


def _swept(root: Path) -> Path:
    """What a sweep writes down of which one run is refused and another one trained."""
    sweep = (*TINY, "num_steps=2", "val_every_steps=2", "num_seeds=1", "seq_len=8,-1", "hydra/launcher=basic")
    overrides = [item for item in sweep if not item.startswith("seq_len=8,-1")] + ["seq_len=7,-1"]
    subprocess.run(
        [sys.executable, "-m", "gradhorizon.application", "-m", f"runs_dir={root}", *overrides],
        cwd=root,
        capture_output=True,
        check=False,
    )
    return root / EXPERIMENT / SWEEPS


@contextmanager
def _older_kept(root: Path, older: Path) -> Iterator[None]:
    """Keep what is replaced below `root`, in forked processes too."""
    original = os.replace

    def replace(source: Any, target: Any, **options: Any) -> None:
        path = Path(os.fsdecode(target))
        if path.is_file() and path.is_relative_to(root):
            kept = older / path.relative_to(root)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, kept.with_name(f"{kept.name}.{len(list(kept.parent.glob(f'{kept.name}.*')))}"))
        original(source, target, **options)

    os.replace = replace  # type: ignore[assignment]
    try:
        yield
    finally:
        os.replace = original
