"""Which keys a run shows on W&B, told by the mirror's own code fed with the run's records.

A panel on a key that no run logs is empty and looks as if nothing had been found, so every panel is checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from gradhorizon.analysis.reading.cohort import Cohort, records
from gradhorizon.analysis.reading.configurations import configuration

RUN = ["experiment", "run"]
"""Columns that name a run."""
Name = tuple[str, str]


class EmptyPanelError(ValueError):
    """A panel asks for a key that no run of its run set logs."""


@dataclass(frozen=True)
class Logged:
    """Keys of one run.

    Attributes:
        history: (x-axis, key) of every value that is logged, such as ``("lag", "profile/…")``.
        summary: keys of the run's summary; the last value of each history key is one of them.
        config: keys of its configuration.
    """

    history: frozenset[tuple[str, str]]
    summary: frozenset[str]
    config: frozenset[str]


@dataclass(frozen=True)
class Wanted:
    """A key that a panel draws.

    Attributes:
        section: history, summary or config.
        key: its name.
        x: the history key that it is drawn against; empty in other sections.
    """

    section: str
    key: str
    x: str = ""

    def is_in(self, logged: Logged) -> bool:
        """Whether a run logs it, in the same rows as its x-axis."""
        if self.section == "history":
            return (self.x, self.key) in logged.history
        return self.key in (logged.summary if self.section == "summary" else logged.config)


@lru_cache(maxsize=1)
def logged_keys(cohort: Cohort) -> dict[Name, Logged]:
    """(experiment, run) -> the keys that its W&B run holds, as the mirror derives them from the records."""
    groups = cohort.members.groupby(RUN, sort=True)
    return {(str(experiment), str(run)): _logged(members) for (experiment, run), members in groups}


def check(panel: str, wanted: Iterable[Wanted], runs: Iterable[Name], logged: Mapping[Name, Logged]) -> None:
    """Refuse a panel that would be empty.

    Args:
        panel: its title.
        wanted: the keys that it draws.
        runs: the runs of its run set.
        logged: of `logged_keys`.

    Raises:
        EmptyPanelError: no run logs one of the keys.
    """
    shown = [logged[name] for name in runs]
    for item in wanted:
        if not any(item.is_in(keys) for keys in shown):
            against = f" against {item.x!r}" if item.x else ""
            raise EmptyPanelError(
                f"the panel {panel!r} asks for the {item.section} key {item.key!r}{against}, which none of its "
                f"{len(shown)} runs logs; the panel would be empty. Keys are named in gradhorizon.mirrors"
            )


class _Witness:
    """Stands in for a W&B run, and keeps the keys of what is written into it."""

    def __init__(self) -> None:
        self.resumed = False
        self.summary: dict[str, Any] = {}
        self.history: set[tuple[str, str]] = set()

    def define_metric(self, name: str, *, step_metric: str | None = None, hidden: bool | None = None) -> None:
        """Nothing to keep: rows say what they are logged against."""

    def log(self, data: dict[str, Any]) -> None:
        """Keep which keys stand in one row with which x-axis."""
        axes = [name for name in ("step", "lag") if name in data]
        self.history |= {(axis, key) for axis in axes for key in data if key not in axes}


def _logged(members: pd.DataFrame) -> Logged:
    # Imported here: the mirror's run identities load Hydra, which reading and drawing do without.
    from gradhorizon.mirrors.run_log import RunLog  # noqa: PLC0415
    from gradhorizon.mirrors.weights_and_biases import run_config  # noqa: PLC0415

    info, witness = _run_info(members), _Witness()
    log, is_finished = RunLog(witness, info), bool((members["status"] == "finished").all())
    log.read_records()
    log.catch_up(is_finished)
    log.rest(is_finished)
    if is_finished:
        log.profiles()
    log.summary("finished" if is_finished else "failed", {})
    summary = {*witness.summary, *(key for _, key in witness.history)}
    return Logged(frozenset(witness.history), frozenset(summary), frozenset(run_config(info)))


def _run_info(members: pd.DataFrame) -> Any:
    from gradhorizon.mirrors import RunInfo  # noqa: PLC0415

    first = records(members.head(1))[0]
    folder = Path(first["folder"]).parent
    named = {name: first[name] for name in ("experiment", "model", "task")}
    seeds = tuple(int(seed) for seed in members["seed"])
    return RunInfo(
        name=first["run"], seq_len=int(first["seq_len"]), seeds=seeds, config=configuration(folder), folder=folder,
        resume_id="", **named,
    )  # fmt: skip
