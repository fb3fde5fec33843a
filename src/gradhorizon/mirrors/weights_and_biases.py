"""Weights & Biases as a mirror: offline by default, without login, account or network.

`wandb.init` is called directly and not through Lightning's logger: a run is opened before and closed after the fit,
with an exit code, so that it ends before the next Hydra job starts, also when training raises; the rows need an x-axis
each (optimizer step or lag); and Lightning's logger would add its own hyperparameters, ``epoch`` and
``trainer/global_step``.

What goes wrong here is said once and never reaches the training: the records on disk are the truth. A launch that
resumes a run writes a second offline folder with the same id; one ``wandb sync`` of both joins them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd
import wandb
from wandb.errors import AuthenticationError, CommError, UsageError

from gradhorizon.mirrors.mirror import Mirror, RunInfo
from gradhorizon.mirrors.run_log import RunLog

log = logging.getLogger(__name__)

MAX_TAG_CHARACTERS = 64  # wandb refuses longer ones
MAX_ID_CHARACTERS = 64


class LoginError(ValueError):
    """Online logging without a usable API key."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"logging to W&B online needs a login, got: {found}; run `wandb login`, "
            "or set logger=wandb (offline, no account) or logger=none"
        )


class WandbMirror(Mirror):
    """One W&B run per launch of a run folder.

    Args:
        project: the W&B project.
        mode: offline writes below the run folder alone; online needs a login.
        entity: user or team that owns the project; the login's default if omitted.
        init_timeout_s: how long to wait for the server when a run starts; then it is written offline.
        finish_timeout_s: how long to wait for the server when a run ends; what is missing can be synced later.

    Raises:
        ValueError: an unknown `mode`.
    """

    def __init__(
        self,
        project: str = "gradhorizon",
        mode: str = "offline",
        entity: str | None = None,
        init_timeout_s: float = 15.0,
        finish_timeout_s: float = 30.0,
    ) -> None:
        if mode not in ("offline", "online"):
            raise ValueError(f"`mode` must be offline or online, got {mode!r}; for no W&B at all, set logger=none")
        self.project = project
        self.is_online = mode == "online"
        self.entity = entity
        self.init_timeout_s = init_timeout_s
        self.finish_timeout_s = finish_timeout_s
        self._run: wandb.Run | None = None
        self._log: RunLog | None = None
        self._failed: set[str] = set()

    def open(self, run: RunInfo) -> None:
        """Start the W&B run.

        Raises:
            LoginError: online without a usable API key.
        """
        self.close("failed", {})
        self._failed.clear()
        self._attempt("start", lambda: self._start(run))

    def log_scalars(self, step: int, scalars: Mapping[str, Mapping[int, float]]) -> None:
        """Log one row: every member's values and the medians over members, against the optimizer step."""
        run_log = self._log
        if run_log is not None:
            self._attempt("log scalars", lambda: run_log.scalars(step, scalars))

    def log_table(self, table: str, frame: pd.DataFrame) -> None:
        """Log the digest of a measurement once all members have reported the step, and keep profiles for the end."""
        run_log = self._log
        if run_log is not None and not frame.empty:
            self._attempt(f"log {table}", lambda: run_log.table(table, frame))

    def close(self, status: str, summary: Mapping[str, Any]) -> None:
        """Log the profiles and the summary, then finish the run with exit code 0 if `status` is finished, else 1."""
        run, run_log = self._run, self._log
        self._run = self._log = None
        try:
            if run_log is not None:
                self._attempt("log the last measurements", run_log.rest)
                self._attempt("log profiles", run_log.profiles)
                self._attempt("log the heat map", run_log.heat_map)
                self._attempt("log the summary", lambda: run_log.summary(status, summary))
        finally:
            if run is not None:
                self._attempt("finish", lambda: run.finish(exit_code=0 if status == "finished" else 1))

    def _start(self, info: RunInfo) -> None:
        self._run = self._init_online(info) if self.is_online else self._init(info, "offline")
        if not self._run.offline:
            log.info("W&B: %s", self._run.url)
        self._log = run_log = RunLog(self._run, info)
        self._attempt("read the profiles of earlier launches", run_log.read_earlier_profiles)

    def _init_online(self, info: RunInfo) -> wandb.Run:
        try:
            if not wandb.login(prompt=False, verify=False):
                raise LoginError("no API key")
            return self._init(info, "online")
        except (AuthenticationError, UsageError) as error:
            raise LoginError(str(error)) from error
        except CommError as error:
            log.warning(
                "The W&B server does not answer (%s); the run is written offline, to be synced later.", _one_line(error)
            )
            wandb.teardown()  # its service still holds the id of the run that did not start
            return self._init(info, "offline")

    def _init(self, info: RunInfo, mode: Literal["offline", "online"]) -> wandb.Run:
        tags = (info.model, info.task, f"T={info.seq_len}", *info.tags)
        return wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,
            dir=str(info.folder),
            id=re.sub(r"[^A-Za-z0-9_-]", "-", info.resume_id)[-MAX_ID_CHARACTERS:],
            resume="allow" if mode == "online" else None,
            name=info.name,
            group=info.experiment,
            job_type=info.model,
            tags=tuple(dict.fromkeys(tag[:MAX_TAG_CHARACTERS] for tag in tags if tag)),
            config=run_config(info),
            reinit="finish_previous",  # a run that an earlier job of this process has left open
            settings=self._settings(),
        )

    def _settings(self) -> wandb.Settings:
        return wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
            x_save_requirements=False,
            init_timeout=self.init_timeout_s,
            finish_timeout=self.finish_timeout_s,
            finish_timeout_raises=False,
        )

    def _attempt(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except LoginError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever fails here must not stop the training)
            if what not in self._failed:
                self._failed.add(what)
                said = f"{type(error).__name__}: {_one_line(error)}"
                log.warning("W&B could not %s (%s); the records are complete.", what, said)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def run_config(run: RunInfo) -> dict[str, Any]:
    """The run's configuration with `model`, `task`, `seq_len`, … as top-level words and numbers to group runs by.

    A configuration group of the same name is kept as ``<name>_config``: nested under ``model`` it would hide the label.
    """
    words = {
        "experiment": run.experiment,
        "run": run.name,
        "model": run.model,
        "task": run.task,
        "seq_len": run.seq_len,
        "seeds": list(run.seeds),
    }
    groups = {f"{key}_config": node for key, node in run.config.items() if key in words and isinstance(node, Mapping)}
    return {**run.config, **groups, **words}
