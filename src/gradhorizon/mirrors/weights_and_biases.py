"""Weights & Biases as a mirror: offline by default, without login, account or network.

`wandb.init` is called directly and not through Lightning's logger: a run is opened before and closed after the fit,
with an exit code, so that it ends before the next Hydra job starts, also when training raises; the rows need an x-axis
each (optimizer step or lag); and Lightning's logger would add its own hyperparameters, ``epoch`` and
``trainer/global_step``.

What goes wrong here is said once and never reaches the training: the records on disk are the truth, and
``gradhorizon-wandb-push`` rebuilds a W&B run from them. A launch that resumes a run goes on with the same W&B run and
writes what that lacks of the steps before; offline it writes a second folder that holds all steps, and
``wandb sync`` of the later one alone, or of both in order, gives the whole run.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import wandb
from wandb.errors import AuthenticationError, CommError, UsageError

from gradhorizon.mirrors import environment
from gradhorizon.mirrors.complaints import Complaints, Silence, heard_by, without_marks
from gradhorizon.mirrors.mirror import Mirror, RunInfo
from gradhorizon.mirrors.recorded import is_recorded
from gradhorizon.mirrors.run_log import RunLog
from gradhorizon.records import safely
from gradhorizon.records.layout import WANDB

log = logging.getLogger(__name__)

DEFAULT_PROJECT = "gradhorizon"
MAX_NAME_CHARACTERS = 128  # wandb refuses longer ones, as below
MAX_TAG_CHARACTERS = 64
MAX_ID_CHARACTERS = 64
_KEY_IS_REFUSED = re.compile(r"\b401\b|not logged in|api.?key", re.IGNORECASE)


class LoginError(ValueError):
    """Online logging without a usable API key."""

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            f"logging to W&B online needs a login, got: {found}; run `wandb login`, "
            "or set logger=wandb (offline, no account) or logger=none"
        )


class WandbMirror(Mirror):
    """One W&B run for the members of a run folder that a launch asks for.

    Args:
        project: the W&B project; "gradhorizon" if empty.
        mode: offline writes below the run folder alone; online needs a login. ``WANDB_MODE`` and ``WANDB_DISABLED``
            win over it.
        entity: user or team that owns the project; the login's default if omitted.
        init_timeout_s: how long to wait for the server when a run starts; then it is written offline.
        finish_timeout_s: how long to wait for the server when a run ends; what is missing can be sent later.
        group: what the run belongs to; the experiment if empty.
        job_type: the model's label if empty.
        tags: words beside the model, the task, the length, and those of ``WANDB_TAGS``; 1 to 64 characters each.
        notes: a text of one's own.

    Raises:
        ValueError: an unknown `mode`, or a name or tag that W&B refuses.
    """

    def __init__(
        self,
        project: str | None = DEFAULT_PROJECT,
        mode: str = "offline",
        entity: str | None = None,
        init_timeout_s: float = 10.0,
        finish_timeout_s: float = 5.0,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
    ) -> None:
        if mode not in ("offline", "online"):
            raise ValueError(f"`mode` must be offline or online, got {mode!r}; for no W&B at all, set logger=none")
        self.project = project or DEFAULT_PROJECT
        self.mode = mode
        self.entity = entity or None
        self.group, self.job_type, self.notes = group or None, job_type or None, notes or None
        if isinstance(tags, str):
            raise ValueError(f"`tags` must be a list of words, such as [pilot,paper], got {tags!r}")  # noqa: TRY004, as every wrong setting
        self.tags = [*(tags or [])]
        self._check_names()
        self.init_timeout_s = init_timeout_s
        self.finish_timeout_s = finish_timeout_s
        self._run: wandb.Run | None = None
        self._log: RunLog | None = None
        self._has_read_records = False
        self._complaints = Complaints(Path())
        self._until_closed = ExitStack()

    def _check_names(self) -> None:
        if len(self.project) > MAX_NAME_CHARACTERS or set(self.project) & set("/\\#?%:"):
            raise ValueError(f"`project` must be 1 to 128 characters without /\\#?%:, got {self.project!r}")
        for name, value in (("group", self.group), ("job_type", self.job_type)):
            if value is not None and len(value) > MAX_NAME_CHARACTERS:
                raise ValueError(f"`{name}` must be 1 to 128 characters, got {len(value)}: {value[:40]!r}…")
        for tag in self.tags:
            if not 1 <= len(tag) <= MAX_TAG_CHARACTERS:
                raise ValueError(f"`tags` must be words of 1 to 64 characters, got one of {len(tag)}: {tag[:40]!r}")

    @property
    def effective_mode(self) -> str:
        """Online, offline or disabled: as configured, unless the environment says otherwise."""
        return environment.mode(self.mode)

    def open(self, run: RunInfo) -> None:
        """Start the W&B run, unless the environment has switched W&B off.

        Raises:
            LoginError: online without a usable API key.
            ValueError: the environment asks for what W&B does not know.
        """
        self.close("failed", {})
        mode = self.effective_mode
        environment.say_mode(self.mode, mode)
        if mode == "disabled":
            return
        self._has_read_records = False
        self._complaints = Complaints(run.folder)
        with heard_by(Silence()):
            self._attempt("start", lambda: self._start(run))
        if self._run is not None:
            self._until_closed.enter_context(heard_by(self._complaints))

    def log_scalars(self, step: int, scalars: Mapping[str, Mapping[int, float]]) -> None:
        """Take every member's values; a step is logged as one row, with medians over members, once it is complete."""
        self._to_log("log scalars", lambda run_log: run_log.scalars(step, scalars))

    def log_table(self, table: str, frame: pd.DataFrame) -> None:
        """Take a measurement's digest into the row of its step, and keep profiles for the end."""
        if not frame.empty:
            self._to_log(f"log {table}", lambda run_log: run_log.table(table, frame))

    def close(self, status: str, summary: Mapping[str, Any]) -> None:
        """Log what is left and finish the run, with exit code 0 if `status` is finished, else 1.

        Profiles over lag are logged of a finished run alone: what W&B once holds cannot be replaced when the run is
        resumed.
        """
        is_finished = status == "finished"
        try:
            self._to_log("log recorded steps", lambda run_log: run_log.catch_up(is_finished))
            self._to_log("log the heat map", RunLog.heat_map)
            self._to_log("log the last steps", lambda run_log: run_log.rest(is_finished))
            if is_finished:
                self._to_log("log profiles", RunLog.profiles)
            self._to_log("log the summary", lambda run_log: run_log.summary(status, summary))
        finally:
            run, self._run, self._log = self._run, None, None
            with self._until_closed:
                if run is not None:
                    self._attempt("send all before the run ended", lambda: run.finish(exit_code=int(not is_finished)))

    def _to_log(self, what: str, action: Callable[[RunLog], object]) -> None:
        run_log = self._log
        if run_log is not None:
            if not self._has_read_records:
                self._has_read_records = True
                self._attempt("read what earlier launches recorded", run_log.read_records)
            self._attempt(what, lambda: action(run_log))

    def _start(self, info: RunInfo) -> None:
        self._run = self._init_online(info) if self.effective_mode == "online" else self._init(info, "offline")
        if not self._run.offline and not environment.is_true("WANDB_SILENT"):
            log.info("W&B: %s", self._run.url)
        self._log = RunLog(self._run, info)

    def _init_online(self, info: RunInfo) -> wandb.Run:
        try:
            return self._init(info, "online")
        except (AuthenticationError, UsageError) as error:
            raise LoginError(_first_sentence(error)) from error
        except CommError as error:
            if _KEY_IS_REFUSED.search(str(error)):
                raise LoginError(f"an API key that the server refuses ({without_marks(error)})") from error
            return self._init_without_server(info, error)

    def _init_without_server(self, info: RunInfo, error: CommError) -> wandb.Run:
        said = without_marks(error).split(" Consider ")[0]
        self._complaints.say(f"the server gave no usable answer ({said}), this run is written offline")
        wandb.teardown()  # its service still holds the id of the run that did not start
        return self._init(info, "offline")

    def _init(self, info: RunInfo, mode: Literal["offline", "online"]) -> wandb.Run:
        tags = (info.model, info.task, f"T={info.seq_len}", *info.tags, *self.tags, *environment.tags())
        return wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,
            dir=str(self._directory(info)),
            id=re.sub(r"[^A-Za-z0-9_-]", "-", info.resume_id)[-MAX_ID_CHARACTERS:],
            resume="allow" if mode == "online" and self._is_resumed(info) else None,
            name=info.name,
            group=self.group or info.experiment,
            job_type=self.job_type or info.model,
            notes=self.notes,
            tags=tuple(dict.fromkeys(tag[:MAX_TAG_CHARACTERS] for tag in tags if tag)),
            config=run_config(info),
            reinit="finish_previous",  # a run that an earlier job of this process has left open
            settings=self._settings(),
        )

    def _directory(self, info: RunInfo) -> Path:
        safely.refuse_links(info.folder / WANDB, is_deep=False)  # W&B would follow it
        own = Path(os.environ.get("WANDB_DIR") or info.folder)
        own.mkdir(parents=True, exist_ok=True)
        return own

    def _is_resumed(self, info: RunInfo) -> bool:
        # A W&B run of which nothing is recorded here shows another training: it is overwritten.
        return is_recorded(info.folder, info.seeds)

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
            finish_timeout_raises=True,
        )

    def _attempt(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except LoginError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever fails here must not stop the training)
            self._complaints.say(f"could not {what} ({type(error).__name__}: {without_marks(error)})")


def _first_sentence(error: object) -> str:
    return without_marks(error).split(". ")[0].rstrip(".")


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
