"""One launch of a run: look at what is done, say it, plan, or train what is missing.

Heavy packages are imported where they are used, so that a finished run is skipped, and a wrong one refused, quickly.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gradhorizon.composition.keys import check_keys
from gradhorizon.composition.sizes import refuse_members
from gradhorizon.config import RunConfig, runs_root, validate
from gradhorizon.machine import stopping
from gradhorizon.machine.ending_signals import commit_when_asked, leave_when_asked
from gradhorizon.records.absent_tables import OF_TRAINING, remedy
from gradhorizon.records.layout import member_name, run_name
from gradhorizon.runs.endings import forget_without_folder, marked, told
from gradhorizon.runs.folders import find
from gradhorizon.runs.identity import identity_of, readable_name
from gradhorizon.runs.members import MemberState, damaged_files, member_states, tables_of
from gradhorizon.runs.provenance import launch_facts, say_differences
from gradhorizon.runs.results import Plan, Skipped
from gradhorizon.runs.settling import settle
from gradhorizon.runs.task_names import task_name
from gradhorizon.terminal.progress import format_seeds
from gradhorizon.training.devices import resolve_device

log = logging.getLogger(__name__)

HYDRA_BASE = "1.3"
"""The version of Hydra whose defaults hold, such as to stay in the folder that a launch began in."""


def run(cfg: DictConfig) -> Plan | Skipped | None:
    """Train one run, or say that it is done; returns its plan with ``plan=true``.

    A run that another process is at is an error, but in a sweep it is skipped: others may train the same sweep.
    Whatever breaks a run is told in one line, and ends this run alone.

    Args:
        cfg: the composed configuration.
    """
    leave_when_asked()
    try:
        return launch(cfg).plan
    except stopping.Stopped:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001, whatever it is ends this run alone
        return told(error, cfg)


@dataclass(frozen=True)
class Launched:
    """Where a run lies, and with ``plan=true`` what would be done."""

    folder: Path
    plan: Plan | None = None


@dataclass(frozen=True)
class Look:
    """What a launch finds before it trains anything; to know it takes no heavy package.

    Attributes:
        run: the configuration's root.
        device: where it trains.
        identity: the run's identity.
        folder: where it lies.
        states: what is on disk of each member that has anything there.
        facts: what is true of this launch.
    """

    run: RunConfig
    device: str
    identity: str
    folder: Path
    states: list[MemberState]
    facts: dict[str, Any]

    @property
    def todo(self) -> list[MemberState]:
        """Members that are not finished, those without anything on disk included."""
        known = {state.seed: state for state in self.states}
        seeds = range(self.run.seed, self.run.seed + self.run.num_seeds)
        everyone = (known.get(seed) or MemberState(seed, "new", 0, {}) for seed in seeds)
        return [state for state in everyone if state.status != "finished"]

    @property
    def finished(self) -> list[MemberState]:
        """Members that are."""
        return [state for state in self.states if state.status == "finished"]

    def say_notes(self) -> None:
        """Say what finished members lack, and what has changed since they were trained."""
        _say_damaged_files(self.folder, self.finished)
        _say_absent_tables(self.folder, self.finished, self.run)
        say_differences(self.states, self.facts)


def look(cfg: DictConfig) -> Look:
    """Where a run lies, and which of its members are done.

    Args:
        cfg: the composed configuration.

    Raises:
        ConfigError: the configuration cannot run.
        RecordsError: what is on disk cannot be read.
    """
    check_keys(cfg)
    run = validate(cfg)
    device = resolve_device(run.device)
    identity = identity_of(run, device)
    experiment = runs_root(run.runs_dir) / run.experiment_name
    folder = find(experiment, identity) or experiment / run_name(_readable_name(run), identity)
    states = member_states(folder, run.seed, run.num_seeds)
    seen = Look(run, device, identity, folder, states, launch_facts(device, run))
    refuse_members(run, run.num_seeds - len(seen.finished))
    return seen


def launch(cfg: DictConfig) -> Launched:
    """Train the members of a run that are not finished, or plan to.

    Args:
        cfg: the composed configuration.

    Raises:
        ConfigError: the configuration cannot run.
        RecordsError: what is on disk cannot be continued.
    """
    seen = look(cfg)
    _say_axes_left_out()
    _say_what_is_done(seen)
    seen.say_notes()
    todo = seen.todo
    if seen.run.plan and not todo:
        log.info("  plan: nothing to train")
        return Launched(seen.folder, Plan(num_done=seen.run.num_seeds, num_to_train=0))
    if seen.run.plan:
        from gradhorizon.sweeps.plan import say_plan

        return Launched(seen.folder, say_plan(cfg, seen.run, seen.device, todo))
    if todo:
        from gradhorizon.training.fit import fit

        forget_without_folder(seen.folder.parent)
        with commit_when_asked(), stopping.requested_by_ctrl_c(), marked(seen.folder, [state.seed for state in todo]):
            fit(cfg, seen.run, seen.device, seen.folder, seen.identity, todo, seen.facts)
    else:
        settle(seen.folder)
    return Launched(seen.folder)


def _readable_name(run: RunConfig) -> str:
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return readable_name(run, task_name(run), overrides)


def _say_axes_left_out() -> None:
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN:
        axes = ", ".join(HydraConfig.get().sweeper.get("params") or ())
        if axes:
            log.warning("note: this experiment sweeps over %s; without -m, one run alone is trained", axes)


def _say_what_is_done(seen: Look) -> None:
    log.info("%s", seen.folder)
    if seen.finished:
        log.info("  finished, skipped: %s", format_seeds([state.seed for state in seen.finished]))
    for state in seen.states:
        if state.status == "resumable":
            log.info("  seed %d: resumes from step %d", state.seed, state.step)


def _say_absent_tables(folder: Path, finished: list[MemberState], run: RunConfig) -> None:
    lacking: dict[tuple[str, ...], list[int]] = {}
    for state in finished:
        recorded = tables_of(folder, state)
        asked = {*(run.measurement or {}), *OF_TRAINING}
        absent = sorted(asked - recorded - set(state.launch.get("measurements", ())))
        lacking.setdefault(tuple(absent), []).append(state.seed)
    for names, seeds in lacking.items():
        if names:
            how = remedy(names, run.measurement, str(folder))
            are = "is" if len(seeds) == 1 else "are"
            log.warning("  note: %s %s finished without %s: %s", format_seeds(seeds), are, ", ".join(names), how)


def _say_damaged_files(folder: Path, finished: list[MemberState]) -> None:
    for state in finished:
        for path in damaged_files(folder, state):
            log.warning(
                "  note: %s is missing, or has changed since seed %d finished; finished members are left as they are: "
                "restore it from a copy, or move the folder %s out of the run and launch again",
                path,
                state.seed,
                member_name(state.seed),
            )
