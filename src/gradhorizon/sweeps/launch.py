"""One launch of a run: look at what is done, say it, plan, or train what is missing.

Heavy packages are imported where they are used, so that a finished run is skipped, and a wrong one refused, quickly.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gradhorizon.composition.keys import check_keys
from gradhorizon.composition.sizes import refuse_members
from gradhorizon.config import RunConfig, runs_root, validate
from gradhorizon.machine import stopping
from gradhorizon.records.layout import run_name
from gradhorizon.runs.endings import forget_without_folder, marked, told
from gradhorizon.runs.folders import find_run
from gradhorizon.runs.identity import identity_of, readable_name
from gradhorizon.runs.look import Look
from gradhorizon.runs.members import member_states
from gradhorizon.runs.provenance import launch_facts
from gradhorizon.runs.results import Plan, Skipped
from gradhorizon.runs.settling import settle
from gradhorizon.runs.task_names import task_name
from gradhorizon.training.devices import resolve_device

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> Plan | Skipped | None:
    """Train one run, or say that it is done; returns its plan with ``plan=true``.

    A run that another process is at is an error, but in a sweep it is skipped: others may train the same sweep.
    Whatever breaks a run is told in one line, and ends this run alone.

    Args:
        cfg: the composed configuration.
    """
    stopping.leave_when_asked()
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
    if "digest" in run.task:
        cfg.task.digest = run.task["digest"]  # a data file that changes from here on is refused by its reader
    device = resolve_device(run.device)
    identity = identity_of(run, device)
    experiment = runs_root(run.runs_dir) / run.experiment_name
    folder = find_run(experiment, identity) or experiment / run_name(_readable_name(run), identity)
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
    seen.say_what_is_done()
    seen.say_notes()
    seeds = [state.seed for state in seen.todo]
    if seen.run.plan and not seeds:
        log.info("  plan: nothing to train")
        return Launched(seen.folder, Plan(num_done=seen.run.num_seeds, num_to_train=0))
    if seen.run.plan:
        from gradhorizon.sweeps.plan import say_plan

        return Launched(seen.folder, say_plan(cfg, seen))
    if seeds:
        from gradhorizon.training.fit import fit

        forget_without_folder(seen.folder.parent)
        with stopping.commit_when_asked(), stopping.requested_by_ctrl_c(), marked(seen.folder, seeds):
            fit(cfg, seen)
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
