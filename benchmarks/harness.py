r"""Cost of the harness beside a raw training loop, and of the default measurements in a long run.

Four things are run in turns: the raw loop; a short and a long run through `gradhorizon.sweeps.launch` with records,
offline W&B and scalars every 50 steps (loss, accuracy, gradient norms), without probes; and the long run with the
default measurements.

- *Per step*: what the long run took beyond the short one, per step that it had more, over a raw step. Start-up, the
  validations at both ends and the closing of records and W&B are in both runs and so taken out.
- *Once per run*: what the short run took beyond its steps.
- *Share of the measurements*: what the default measurements added to the long run, over 5 000 harness steps. They are
  log-spaced over the run, so that they probe as often in the long run as in one of 5 000 steps; the gradient norms,
  every 50 steps by default, are read as much more often as the run is shorter. A probe at the moment of solving, at
  most one per member, does not occur.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.table import Result, as_table, run_alone
from benchmarks.timing import Seconds, interleaved, spread, threads
from gradhorizon.config import validate
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.sweeps.launch import launch
from gradhorizon.training.build import build_setup

STEP_TARGET = 1.15
SHARE_TARGET_PCT = 5.0
FULL_RUN_STEPS = 5000
SCALARS_EVERY_STEPS = 50
SHORT_STEPS, LONG_STEPS = 20, 220
SIZES = ("task=adding_arjovsky2016", "model=lstm", "seq_len=100", "batch_size=50", "hidden_size=128")


def measure(
    rounds: int = 5,
    num_threads: int = 1,
    short_steps: int = SHORT_STEPS,
    long_steps: int = LONG_STEPS,
    overrides: tuple[str, ...] = SIZES,
) -> pd.DataFrame:
    """Ratios to the raw loop, seconds per run, and the measurements' share.

    Args:
        rounds: interleaved repetitions.
        num_threads: CPU threads.
        short_steps: optimizer steps of the short run.
        long_steps: optimizer steps of the long run.
        overrides: of the configuration, for all runs.
    """
    overrides = ("num_seeds=1", "device=cpu", f"num_threads={num_threads}", *overrides)
    with threads(num_threads):
        steps = {"short": short_steps, "long": long_steps, "raw": long_steps - short_steps}
        runs = _runs(overrides, steps)
        for name in ("raw", "short"):
            runs[name]()
        seconds = interleaved(runs, rounds, warm_up=0)
    return as_table(_results(seconds, steps, setting=_setting(overrides)))


def _runs(overrides: tuple[str, ...], steps: dict[str, int]) -> dict[str, Callable[[], None]]:
    bare = (*overrides, "measurement=[parameter_gradients]")
    every_steps = max(1, steps["long"] * SCALARS_EVERY_STEPS // FULL_RUN_STEPS)
    measured = (*overrides, f"measurement.parameter_gradients.schedule.every_steps={every_steps}")
    return {
        "raw": partial(raw_loop, composed(*overrides), steps["raw"]),
        "short": partial(harness_run, *bare, f"num_steps={steps['short']}"),
        "long": partial(harness_run, *bare, f"num_steps={steps['long']}"),
        "measured": partial(harness_run, *measured, f"num_steps={steps['long']}"),
    }


def composed(*overrides: str) -> DictConfig:
    """The configuration as the command line composes it."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def harness_run(*overrides: str) -> None:
    """One run from composition to its closed records, in a folder that is thrown away."""
    with TemporaryDirectory() as folder:
        launch(composed(f"runs_dir={folder}", *overrides))


def raw_loop(cfg: DictConfig, num_steps: int) -> None:
    """The training loop that people write, with the harness's network, task and optimizer."""
    run = validate(cfg)
    setup = build_setup(cfg, run)
    network = setup.build_network()
    optimizer = instantiate(cfg.optimizer)(network.parameters())
    generator = np.random.default_rng(0)
    for _ in range(num_steps):
        batch = setup.task.sample(generator, run.batch_size)
        optimizer.zero_grad()
        loss = setup.task.loss(network(batch.inputs, batch.loss_steps), batch.targets).mean()
        loss.backward()
        optimizer.step()


def probe_counts(num_steps: int) -> dict[str, int]:
    """How often each default measurement fires in a run of `num_steps`, the solved moment aside."""
    cfg = composed(f"num_steps={num_steps}")
    schedules = {name: instantiate(node).schedule for name, node in cfg.measurement.items()}
    return {
        name: len(schedule.inner_steps(num_steps)) + schedule.at_init + schedule.at_last
        for name, schedule in schedules.items()
    }


def _results(seconds: Seconds, steps: dict[str, int], setting: str) -> list[Result]:
    def step_s(own: dict[str, float]) -> float:
        return (own["long"] - own["short"]) / (steps["long"] - steps["short"])

    def raw_step_s(own: dict[str, float]) -> float:
        return own["raw"] / steps["raw"]

    per_step = spread(seconds, lambda own: step_s(own) / raw_step_s(own))
    whole = spread(seconds, lambda own: own["long"] / (raw_step_s(own) * steps["long"]))
    once_s = spread(seconds, lambda own: own["short"] - steps["short"] * step_s(own))
    share_pct = spread(seconds, lambda own: 100 * (own["measured"] - own["long"]) / (FULL_RUN_STEPS * step_s(own)))
    what = "Lightning, records, W&B offline"
    return [
        Result(f"{what}: per step / raw loop", setting, per_step, STEP_TARGET),
        Result(f"{what}: whole run of {steps['long']} steps / raw loop", setting, whole),
        Result(f"{what}: once per run", setting, once_s, unit="s"),
        Result(f"default measurements in {FULL_RUN_STEPS} steps", setting, share_pct, SHARE_TARGET_PCT, unit="%"),
    ]


def _setting(overrides: tuple[str, ...]) -> str:
    cfg = composed(*overrides)
    task = cfg.task["_target_"].split(".")[-2]
    return f"{task} T{cfg.seq_len} B{cfg.batch_size} H{cfg.hidden_size}"


if __name__ == "__main__":
    run_alone(measure, __doc__)
