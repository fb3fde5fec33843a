"""Short runs, and disks that are full while they write."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from gradhorizon.terminal.reasons import RunFailedError
from tests.runs_on_disk import run

SHORT = (
    "num_steps=6",
    "val_every_steps=2",
    "num_seeds=2",
    "trainer.checkpoint_every_s=0",
    "~measurement.gates",
    "measurement.state_gradients.schedule.num_points=2",
)


def fill_the_disk_at(patch: pytest.MonkeyPatch, name: str) -> None:
    """From the first file of that name on, nothing more can be written."""
    original, is_full = os.fsync, threading.Event()

    def fsync(descriptor: int) -> None:
        if name in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            is_full.set()
        if is_full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    patch.setattr(os, "fsync", fsync)


def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of a run that a test may spoil; its runs_dir is ``tmp_path``."""
    copy = tmp_path / folder.parent.name / folder.name
    shutil.copytree(folder, copy)
    return copy


def begun_run(folder: Path) -> Path:
    """A run whose disk was full when its first member was to be closed, at its third commit; returns its folder."""
    with pytest.MonkeyPatch.context() as patch:
        fill_the_disk_at(patch, "metrics.parquet")
        with pytest.raises(RunFailedError, match="No space left on device"):
            run(folder, *SHORT)
    return next(path for path in (folder / "default").iterdir() if path.is_dir())
