"""Rebuilds W&B runs from records on disk.

What W&B has missed (a server that died, a run trained with logger=none), or
what was deleted there, is sent again: the same run ids, names, groups,
configurations, histories and summaries as training with logger=wandb_online
logs. A W&B run of the same id is overwritten. The records are only read.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import wandb
from filelock import FileLock, Timeout
from wandb.errors import CommError

from gradhorizon.mirrors import environment
from gradhorizon.mirrors.mirror import RunInfo, resume_id
from gradhorizon.mirrors.recorded import is_recorded
from gradhorizon.mirrors.weights_and_biases import LoginError, WandbMirror
from gradhorizon.records.configurations import read_configuration
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.finding import Found, find, recorded_runs
from gradhorizon.records.layout import CONFIG, LOCK, RUN_SHEET, member_folder, seeds_in
from gradhorizon.records.out_folder import refuse_unfit
from gradhorizon.records.sheets import known_member_sheet, read_run_sheet
from gradhorizon.terminal.words import show_any_text

log = logging.getLogger(__name__)

_INTERRUPTED = 130
_EXAMPLES = """\
examples:
  gradhorizon-wandb-push runs/quickstart                all runs of an experiment
  gradhorizon-wandb-push runs --project horizons        into another project
  gradhorizon-wandb-push runs --offline && wandb sync wandb/offline-run-*
  gradhorizon-wandb-push runs --id-suffix again         where W&B refuses ids of runs that were deleted
"""


class PushError(RuntimeError):
    """A run that W&B did not take as a whole."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Push the runs named on the command line; returns the exit code.

    Args:
        arguments: the command line; the process's own if None.
    """
    options = _parser().parse_args(arguments)
    show_any_text()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("wandb").propagate = False  # its tracebacks; the words are in the exception
    try:
        options.offline = _is_offline(options)
        if options.offline:
            refuse_unfit(options.out)
        found = find_runs(options.runs)
        folders = recorded_runs(found)
        failed = [folder for folder in folders if not _is_pushed(folder, options)]
    except LoginError as error:
        log.error(  # noqa: TRY400, a user's mistake needs no traceback
            "Error: pushing to W&B needs a login, got: %s; run `wandb login`, or write offline folders with --offline",
            error.found,
        )
        return 1
    except (RecordsError, ValueError) as error:
        log.error("Error: %s", error)  # noqa: TRY400, as above
        return 1
    except KeyboardInterrupt:
        log.warning("interrupted; launch the same command again, it overwrites what it has sent")
        return _INTERRUPTED
    log.info("runs: %d pushed%s", len(folders) - len(failed), f", {len(failed)} not" if failed else "")
    if options.offline and len(failed) < len(folders):
        log.info("`wandb sync %s` sends them", options.out / "wandb" / "offline-run-*")
    return int(bool(failed or found.unreadable))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradhorizon-wandb-push",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, experiment folders or runs roots")
    parser.add_argument("--offline", action="store_true", help="write offline folders, for `wandb sync`; no account")
    parser.add_argument("--project", help="W&B project; by default that of the run's configuration, or gradhorizon")
    parser.add_argument("--entity", help="user or team; by default that of the run's configuration, or the login's")
    parser.add_argument("--group", help="by default that of the run's configuration, or the experiment")
    parser.add_argument("--job-type", help="by default that of the run's configuration, or the model")
    parser.add_argument("--tags", help="words separated by commas; by default those of the run's configuration")
    parser.add_argument("--notes", help="a text; by default that of the run's configuration")
    parser.add_argument("--id-suffix", default="", help="word to append to run ids: a new W&B run beside the old one")
    own = Path(os.environ.get("WANDB_DIR") or "")
    parser.add_argument("--out", type=Path, default=own, help="folder for offline runs, default: the current one")
    parser.add_argument("--timeout", type=float, default=300.0, help="s to wait for W&B to take a run, default: 300")
    return parser


def _is_offline(options: argparse.Namespace) -> bool:
    configured = "offline" if options.offline else "online"
    mode = environment.mode(configured)
    if mode == "disabled":
        raise ValueError(f"nothing is pushed while W&B is switched off, got {environment.switch()}; unset it")
    if options.offline:
        return True  # the command line asks for no server, whatever the environment would allow
    environment.say_mode(configured, mode)
    return mode == "offline"


def find_runs(places: Sequence[Path]) -> Found:
    """All runs at or below `places`.

    Raises:
        RecordsError: no run there, or a place is no folder.
    """
    found = find(places)
    if found.absent or not (recorded_runs(found) or found.unreadable):
        words = ", ".join(map(str, found.absent or places))
        raise RecordsError(f"no run found at or below {words}: name folders with a {RUN_SHEET}")
    found.say()
    return found


def _is_pushed(folder: Path, options: argparse.Namespace) -> bool:
    log.info("%s", folder)
    try:
        run = RecordedRun.read(folder)
        shown = _shown(run.info.config.get("logger") or {}, options)
        info = replace(run.info, resume_id="-".join(filter(None, [run.info.resume_id, options.id_suffix])))
        if options.offline:
            push(replace(run, info=info), RebuiltMirror(options.out, "offline", **shown))
        else:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
                mirror = RebuiltMirror(Path(scratch), "online", finish_timeout_s=options.timeout, **shown)
                push(replace(run, info=info), mirror)
    except (PushError, RecordsError) as error:
        log.error("  Error: %s", error)  # noqa: TRY400, as in `main`
        return False
    return True


def _shown(logger: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """How W&B shows a run: as the command line says, else as its configuration did, else as the environment does."""
    fallbacks = {
        "project": "WANDB_PROJECT",
        "entity": "WANDB_ENTITY",
        "group": "WANDB_RUN_GROUP",
        "job_type": "WANDB_JOB_TYPE",
        "notes": "WANDB_NOTES",
    }
    own = {
        name: getattr(options, name) or logger.get(name) or os.environ.get(variable)
        for name, variable in fallbacks.items()
    }
    shown = {**own, "tags": options.tags.split(",") if options.tags else logger.get("tags") or []}
    for name, value in shown.items():
        is_words = isinstance(value, list) and all(isinstance(tag, str) for tag in value)
        if not (is_words if name == "tags" else value is None or isinstance(value, str)):
            expected = "a list of words" if name == "tags" else "text"
            raise RecordsError(
                f"`logger.{name}` of {CONFIG} must be {expected}, got {value!r:.100}; pass --{name.replace('_', '-')}"
            )
    return shown


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
            words = " ".join(str(error).split())
            raise PushError(f"could not {what} ({type(error).__name__}: {words})") from error


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


if __name__ == "__main__":
    sys.exit(main())
