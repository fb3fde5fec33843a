"""The entry point: compose, check, skip what is done, train, record.

Heavy packages are imported where they are used, so that a finished run is skipped, and a wrong one refused, quickly.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from gradhorizon import runs
from gradhorizon.config import CONF_DIR, ConfigError, RunConfig, validate
from gradhorizon.records import RecordsError
from gradhorizon.sweep import Plan

log = logging.getLogger(__name__)


class RunError(CompactHydraException):
    """What Hydra prints as one message, without a traceback."""


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="train")
def main(cfg: DictConfig) -> Plan | None:
    """Train one run, or say that it is done; returns its plan with ``plan=true``."""
    try:
        return launch(cfg).plan
    except (ConfigError, RecordsError, runs.RunFailedError) as error:
        log.debug("where it went wrong:", exc_info=True)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            log.error("Error: %s", error)  # Hydra itself shows the first failed job's alone, at the very end  # noqa: TRY400
        raise RunError(f"Error: {error}") from error


@dataclass(frozen=True)
class Launched:
    """Where a run lies, and with ``plan=true`` what would be done."""

    folder: Path
    plan: Plan | None = None


def launch(cfg: DictConfig) -> Launched:
    """Train the members of a run that are not finished, or plan to.

    Args:
        cfg: the composed configuration.

    Raises:
        ConfigError: the configuration cannot run.
        RecordsError: what is on disk cannot be continued.
    """
    run = validate(cfg)
    device = resolve_device(run.device)
    identity = runs.identity(run, device)
    experiment = Path(run.runs_dir) / run.experiment_name
    folder = runs.find(experiment, identity) or experiment / f"{_readable_name(run)}-{identity}"
    states = [runs.member_state(folder, seed) for seed in range(run.seed, run.seed + run.num_seeds)]
    todo = [state for state in states if state.status != "finished"]
    facts = runs.launch_facts(device, run)
    _say_what_is_done(folder, states, run)
    runs.say_differences(states, facts)
    if run.plan:
        from gradhorizon.planning import say_plan

        return Launched(folder, say_plan(cfg, run, device, todo))
    if todo:
        from gradhorizon.fitting import fit

        fit(cfg, run, device, folder, identity, todo, facts)
    return Launched(folder)


def resolve_device(name: str) -> str:
    """The device that `name` stands for: ``auto`` is the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: a device that is not there.
    """
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(index or 0) >= count:
        found = f"{count} {kind} device{'s' * (count != 1)}" if count else f"no {kind} device"
        raise ConfigError(f"`device`={name} is not on this machine ({found} found); use device=auto or device=cpu")
    return name


def _readable_name(run: RunConfig) -> str:
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return runs.readable_name(run, task_name(run), overrides)


def task_name(run: RunConfig) -> str:
    """Name of the protocol: that of the task's module."""
    return str(run.task["_target_"]).split(".")[-2]


def _say_what_is_done(folder: Path, states: list[runs.MemberState], run: RunConfig) -> None:
    log.info("%s", folder)
    finished = [state for state in states if state.status == "finished"]
    if finished:
        log.info("  finished, skipped: %s", _seeds([state.seed for state in finished]))
        _say_absent_tables(folder, finished, run)
    for state in states:
        if state.status == "resumable":
            log.info("  seed %d: resumes from step %d", state.seed, state.step)


def _say_absent_tables(folder: Path, finished: list[runs.MemberState], run: RunConfig) -> None:
    for state in finished:
        measured = {*state.launch.get("measurements", ()), *runs.recorded_tables(folder, state.seed)}
        absent = sorted(set(run.measurement or {}) - measured)
        if "metrics" not in runs.recorded_tables(folder, state.seed):
            absent.append("metrics")
        if absent:
            log.warning("  note: seed %d is finished without %s, which is not rerun", state.seed, ", ".join(absent))


def _seeds(seeds: list[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


if __name__ == "__main__":
    main()
