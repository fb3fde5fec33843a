"""What a launch would do: members to train, estimated time and disk, without training anything."""

from __future__ import annotations

import logging
import statistics
import time

import torch
from omegaconf import DictConfig

from gradhorizon import runs
from gradhorizon.config import RunConfig
from gradhorizon.ensemble import Ensemble, Member, kept_rng
from gradhorizon.numerics import configure_torch
from gradhorizon.parts import Parts, build_parts
from gradhorizon.progress import format_duration
from gradhorizon.streams import training_batch
from gradhorizon.sweep import Plan

log = logging.getLogger(__name__)

_TIMED_STEPS = 4
_CHECKPOINTS = 5  # first, solved, last, and the one to resume from with Adam's two moments
_BYTES_PER_ROW = 60  # of a compressed table
_MIB = 2**20


def say_plan(cfg: DictConfig, run: RunConfig, device: str, todo: list[runs.MemberState]) -> Plan:
    """Print and return what the launch would train, how long it may take, and how much disk it may fill.

    Args:
        cfg: the composed configuration.
        run: its root.
        device: where it would train.
        todo: members that are not finished.
    """
    if not todo:
        log.info("  plan: nothing to train")
        return Plan(num_done=run.num_seeds, num_to_train=0)
    configure_torch(run)
    parts = build_parts(cfg, run)
    steps = sum(run.num_steps - state.step for state in todo)
    seconds = steps * _seconds_per_step(parts, run, device)
    mib = len(todo) * _bytes_per_member(parts, run) / _MIB
    log.info(
        "  plan: trains seed%s %s, at most %d optimizer steps: about %s on %s (without measurements), about %.1f MiB",
        "s" if len(todo) > 1 else "",
        ", ".join(str(state.seed) for state in todo),
        steps,
        format_duration(seconds),
        device,
        mib,
    )
    return Plan(run.num_seeds - len(todo), len(todo), seconds, mib)


def _seconds_per_step(parts: Parts, run: RunConfig, device: str) -> float:
    """Median time of a few training steps of a throw-away member."""
    member = Member(0, parts.build_network).to(device)
    ensemble = Ensemble([member], parts.task, run.clip_norm)
    optimizer = parts.build_optimizer(member.parameters())
    times = []
    with kept_rng():
        for number in range(_TIMED_STEPS):
            start = time.perf_counter()
            batch = training_batch(parts.task, run.data_seed, 0, number, run.batch_size).to(device)
            optimizer.zero_grad()
            ensemble.training_loss(member, batch, with_metrics=False).backward()
            ensemble.clip(member, with_reading=False)
            optimizer.step()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _bytes_per_member(parts: Parts, run: RunConfig) -> float:
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in parts.build_network().parameters())
    rows = sum(
        (len(item.schedule.inner_steps(run.num_steps)) + 3) * min(parts.task.input_len, run.num_cuts * 8)
        for item in parts.measurements
    )
    return parameters * _CHECKPOINTS + rows * _BYTES_PER_ROW
