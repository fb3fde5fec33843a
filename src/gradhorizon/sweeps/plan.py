"""What a launch would do: members to train, estimated time and disk, without training anything."""

from __future__ import annotations

import json
import logging
import statistics
import time

import torch
from omegaconf import DictConfig

from gradhorizon.composition.variants import TELL_NO_RUN
from gradhorizon.config import RunConfig
from gradhorizon.machine.randomness import kept_rng
from gradhorizon.runs.look import Look
from gradhorizon.runs.results import Plan
from gradhorizon.terminal.progress import format_duration, format_seeds
from gradhorizon.training.build import Setup, build_setup
from gradhorizon.training.ensemble import Ensemble, Member
from gradhorizon.training.numerics import configure_torch
from gradhorizon.training.streams import training_batch

log = logging.getLogger(__name__)

_TIMED_STEPS = 4
_CHECKPOINTS = 5  # first, solved, last, and the one to resume from with Adam's two moments
_BYTES_PER_ROW = 60  # of a compressed table
_MIB = 2**20
_OF_OPTIMIZATION = ("data_seed", "learning_rate", "clip_norm", "num_steps", "stop_when_solved")
_OF_EVALUATION = ("val_every_steps", "val_size", "probe_batch_size", "num_cuts")
_AS_FAST = (*TELL_NO_RUN, *_OF_OPTIMIZATION, *_OF_EVALUATION)
"""Keys of the root on which the time of a training step does not depend."""

_timed: dict[str, float] = {}


def say_plan(cfg: DictConfig, seen: Look) -> Plan:
    """Print and return what the launch would train, how long it may take, and how much disk it may fill.

    Args:
        cfg: the composed configuration.
        seen: what the launch has found; at least one member is not finished.
    """
    run, todo = seen.run, seen.todo
    configure_torch(run)
    setup = build_setup(cfg, run, len(todo), seen.device)
    steps = sum(run.num_steps - state.step for state in todo)
    seconds_per_step, is_new = _known_seconds_per_step(setup, run, seen.device)
    seconds = steps * seconds_per_step
    mib = len(todo) * _bytes_per_member(setup, run) / _MIB
    log.info(
        "  plan: trains %s, at most %d optimizer steps: about %s on %s (without measurements%s), about %.1f MiB",
        format_seeds([state.seed for state in todo]),
        steps,
        format_duration(seconds),
        seen.device,
        "" if is_new else ", as fast as a run before",
        mib,
    )
    return Plan(run.num_seeds - len(todo), len(todo), seconds, mib)


def _known_seconds_per_step(setup: Setup, run: RunConfig, device: str) -> tuple[float, bool]:
    """What a training step takes, and whether it was timed now: runs that differ in no size are timed once."""
    content = {name: value for name, value in vars(run).items() if name not in _AS_FAST}
    content["optimizer"] = {name: value for name, value in run.optimizer.items() if value != run.learning_rate}
    key = json.dumps([content, run.clip_norm is None, device], sort_keys=True, default=str)
    is_new = key not in _timed
    if is_new:
        _timed[key] = _seconds_per_step(setup, run, device)
    return _timed[key], is_new


def _seconds_per_step(setup: Setup, run: RunConfig, device: str) -> float:
    """Median time of a few training steps of a throw-away member."""
    member = Member(0, setup.build_network).to(device)
    ensemble = Ensemble([member], setup.task, run.clip_norm)
    optimizer = setup.build_optimizer(member.parameters())
    times = []
    with kept_rng():
        for number in range(_TIMED_STEPS):
            start = time.perf_counter()
            batch = training_batch(setup.task, run.data_seed, 0, number, run.batch_size).to(device)
            optimizer.zero_grad()
            ensemble.training_loss(member, batch, with_metrics=False).backward()
            ensemble.clip(member, with_reading=False)
            optimizer.step()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _bytes_per_member(setup: Setup, run: RunConfig) -> float:
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in setup.build_network().parameters())
    rows = sum(
        (len(item.schedule.inner_steps(run.num_steps)) + 3) * min(setup.task.input_len, run.num_cuts * 8)
        for item in setup.measurements
    )
    return parameters * _CHECKPOINTS + rows * _BYTES_PER_ROW
