"""A W&B run made anew from records: as training would have logged it, but what goes wrong is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from filelock import FileLock, Timeout
from wandb.errors import CommError

from gradhorizon.mirrors.mirror import RunInfo, resume_id
from gradhorizon.mirrors.recorded import is_recorded
from gradhorizon.mirrors.weights_and_biases import LoginError, WandbMirror
from gradhorizon.records.configurations import read_configuration
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.layout import LOCK, member_folder, seeds_in
from gradhorizon.records.sheets import known_member_sheet, read_run_sheet
from gradhorizon.terminal.words import one_line


class PushError(RuntimeError):
    """A run that W&B did not take as a whole."""


@dataclass(frozen=True)
class RecordedRun:
    """A run as its folder tells it.

    Attributes:
        info: what a mirror is told of it; its members are all that have a folder.
        status: running, finished or failed.
        outcomes: seed -> status, outcome and outcome_step.
    """

    info: RunInfo
    status: str
    outcomes: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> RecordedRun:
        """The run in `folder`.

        Raises:
            RecordsError: it cannot be read, has recorded nothing, or is being trained.
        """
        sheet = read_run_sheet(folder)
        seeds = seeds_in(folder)
        for seed in seeds:
            known_member_sheet(member_folder(folder, seed), sheet)
        if not is_recorded(folder, seeds):
            raise RecordsError(f"{folder} has recorded nothing yet; train it first")
        if any(_is_locked(member_folder(folder, seed) / LOCK) for seed in seeds):
            raise RecordsError(f"{folder} is being trained or measured; push it when that has ended")
        info = RunInfo(
            name=sheet["run"],
            experiment=sheet["experiment"],
            model=sheet["model"],
            task=sheet["task"],
            seq_len=sheet["seq_len"],
            seeds=tuple(seeds),
            config=read_configuration(folder),
            folder=folder,
            resume_id=resume_id(sheet["experiment"], sheet["identity"], seeds),
        )
        outcomes = {str(seed): sheet.get("outcomes", {}).get(str(seed)) for seed in seeds}
        return cls(info, sheet["status"], outcomes)


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written is not being trained
        return False


class RebuiltMirror(WandbMirror):
    """The mirror of training, with all rows from the records: what goes wrong is an error, not a remark.

    Args:
        directory: where W&B keeps its own files.
        mode: offline or online.
        finish_timeout_s: how long to wait for the server to take the run.
        shown: project, entity, group, job_type, tags and notes, as `WandbMirror` has them.
    """

    INIT_TIMEOUT_S = 30.0

    def __init__(self, directory: Path, mode: str, finish_timeout_s: float = 300.0, **shown: Any) -> None:
        super().__init__(mode=mode, init_timeout_s=self.INIT_TIMEOUT_S, finish_timeout_s=finish_timeout_s, **shown)
        self._own_directory = directory

    @property
    def effective_mode(self) -> str:
        """What it was made for: the program has asked the environment."""
        return self.mode

    def check(self) -> None:
        """Raise what went wrong but was only said.

        Raises:
            PushError: W&B has complained.
        """
        if self._complaints.first is not None:
            raise PushError(self._complaints.first)

    def _directory(self, info: RunInfo) -> Path:
        del info
        self._own_directory.mkdir(parents=True, exist_ok=True)
        return self._own_directory

    def _is_resumed(self, info: RunInfo) -> bool:
        del info
        return False

    def _init_without_server(self, info: RunInfo, error: CommError) -> wandb.Run:
        del info
        raise error

    def _attempt(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except (LoginError, RecordsError):
            raise
        except Exception as error:
            raise PushError(f"could not {what} ({type(error).__name__}: {one_line(error)})") from error


def push(run: RecordedRun, mirror: RebuiltMirror) -> None:
    """Open and close a W&B run, between which the mirror replays the records.

    Args:
        run: what to show.
        mirror: where.

    Raises:
        LoginError: online without a usable API key.
        PushError: W&B did not take the run as a whole.
        RecordsError: the records cannot be read.
    """
    mirror.open(run.info)
    mirror.close(run.status, run.outcomes)
    mirror.check()
