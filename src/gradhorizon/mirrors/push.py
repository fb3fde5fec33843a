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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradhorizon.mirrors import environment
from gradhorizon.mirrors.rebuilt import PushError, RebuiltMirror, RecordedRun, push
from gradhorizon.mirrors.weights_and_biases import LoginError
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.finding import find, recorded_runs, refuse_nothing
from gradhorizon.records.layout import CONFIG
from gradhorizon.records.out_folder import refuse_unfit
from gradhorizon.terminal.program import Refusals, parser_of, program

log = logging.getLogger(__name__)

_FALLBACKS = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "notes": "WANDB_NOTES",
}
"""How W&B shows a run -> the variable that says so where nothing else does."""

_EXAMPLES = """\
examples:
  gradhorizon-wandb-push runs/quickstart                all runs of an experiment
  gradhorizon-wandb-push runs --project horizons        into another project
  gradhorizon-wandb-push runs --offline && wandb sync wandb/offline-run-*
  gradhorizon-wandb-push runs --id-suffix again         where W&B refuses ids of runs that were deleted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Push the runs named on the command line; returns the exit code.

    Args:
        arguments: the command line; the process's own if None.
    """
    options = _parser().parse_args(arguments)
    logging.getLogger("wandb").propagate = False  # its tracebacks; the words are in the exception
    refusals: Refusals = {LoginError: _login_words, RecordsError: str, ValueError: str}
    return program(lambda: _pushed(options), refusals, "launch the same command again, it overwrites what it has sent")


def _login_words(error: LoginError) -> str:
    advice = "run `wandb login`, or write offline folders with --offline"
    return f"pushing to W&B needs a login, got: {error.found}; {advice}"


def _pushed(options: argparse.Namespace) -> int:
    options.offline = _is_offline(options)
    if options.offline:
        refuse_unfit(options.out)
    found = refuse_nothing(find(options.runs), options.runs)
    folders = recorded_runs(found)
    failed = [folder for folder in folders if not _is_pushed(folder, options)]
    log.info("runs: %d pushed%s", len(folders) - len(failed), f", {len(failed)} not" if failed else "")
    if options.offline and len(failed) < len(folders):
        log.info("`wandb sync %s` sends them", options.out / "wandb" / "offline-run-*")
    return int(bool(failed or found.unreadable))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("gradhorizon-wandb-push", __doc__, _EXAMPLES)
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
    own = {
        name: getattr(options, name) or logger.get(name) or os.environ.get(variable)
        for name, variable in _FALLBACKS.items()
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


if __name__ == "__main__":
    sys.exit(main())
