"""Sweeps whose workers, launcher and W&B server are killed at random, launched again until done, and compared.

``python -m tests.survival --rounds 10`` disturbs ten sweeps of 12 runs, each from another seed, and lets two launchers
train an eleventh together; the exit code is 1 if a single bit differs from an undisturbed sweep, or anything was left.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gradhorizon.machine import stopping
from gradhorizon.records.files import read_json
from gradhorizon.status.sweep import run_folders
from tests.mirrors.recorded_points import points_of_records, points_of_server
from tests.sweep_chaos import Chaos, Server, environment_of
from tests.sweep_processes import Sweep
from tests.sweep_remains import complaints
from tests.wandb_stub import WandbStub

SEEDS = range(2)
RUNS = (
    "model=rnn_tanh,lstm",
    "seq_len=10,12",
    "learning_rate=0.001,0.003,0.01",
    f"num_seeds={len(SEEDS)}",
    "task=adding_arjovsky2016",
    "hidden_size=6",
    "batch_size=8",
    "num_steps=40",
    "val_every_steps=5",
    "val_size=20",
    "probe_batch_size=4",
    "num_cuts=4",
    "measurement=[input_gradients,state_gradients,parameter_gradients]",
    "trainer.log_every_steps=5",
    "trainer.checkpoint_every_s=0",
    "device=cpu",
)
NUM_RUNS = 12
_ONLINE = ("logger=wandb_online", "logger.init_timeout_s=2", "logger.finish_timeout_s=2")
_LOCAL = ("hydra/launcher=local", "hydra.launcher.slots=2")
_EXIT_S = 30.0  # for what a sweep has started to be gone after it
_LAUNCHES_A_FAULT = 3  # at most, else it is said to come to no end
_EXPLAINS = {
    1: {"worker killed", "fork server killed"},
    stopping.EXIT_CODE: {"Ctrl-C", "launcher killed", "fork server killed"},  # which leave workers, and runs to them
    -signal.SIGKILL: {"launcher killed", "launcher killed with all"},
}  # what must have been done to a launch, or to an earlier one, that ends with this code


@dataclass
class Story:
    """What became of a sweep.

    Attributes:
        codes: exit codes of its launches, in order.
        faults: what was done to it, in order.
        complaints: what should not be.
        wall_s: seconds it took.
    """

    codes: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {name}" for name, count in Counter(self.faults).most_common())
        codes = ", ".join(map(str, self.codes))
        return f"{len(self.codes)} launches (exit codes {codes}), {self.wall_s:.0f} s; {faults or 'undisturbed'}"


def undisturbed(folder: Path) -> Path:
    """The folder of all runs, trained one after the other by one process.

    Args:
        folder: where to work.
    """
    sweep = Sweep(folder, (*RUNS, "logger=none"))
    assert sweep.launch().wait() == 0, sweep.logs()
    return folder / "runs" / "default"


def disturbed(folder: Path, whole: Path, seed: int, num_faults: int = 10) -> Story:
    """Disturb a sweep, launch it again until it ends with 0, and hold it against an undisturbed one.

    Args:
        folder: where to work.
        whole: folder of the undisturbed runs.
        seed: of what is done to it.
        num_faults: how much is done to it.
    """
    start, story, server = time.monotonic(), Story(), Server()
    sweep = Sweep(
        folder,
        (*RUNS, *_ONLINE, *_LOCAL, f"hydra.launcher.retries={seed % 2}"),
        {**no_account(folder), **environment_of(server.stub)},
    )
    chaos = Chaos(sweep, server, seed, num_faults, NUM_RUNS * len(SEEDS))
    story.faults = chaos.faults
    try:
        while story.codes[-1:] != [0]:
            _launch(sweep, chaos, story)
        story.complaints += [f"still there: {process}" for process in sweep.left_alive(_EXIT_S)]
    except (subprocess.TimeoutExpired, OverflowError) as error:
        story.complaints.append(str(error))
    finally:
        sweep.kill_all()
        server.stub.die()
    story.complaints += _remains(folder, whole)
    story.wall_s = time.monotonic() - start
    return _told(story, sweep)


def together(folder: Path, whole: Path) -> Story:
    """Launch a sweep twice at the same instant, and hold what the two have left against an undisturbed one.

    Args:
        folder: where to work.
        whole: folder of the undisturbed runs.
    """
    start = time.monotonic()
    with WandbStub() as stub:
        environment = {**no_account(folder), **environment_of(stub)}
        sweep = Sweep(folder, (*RUNS, *_ONLINE, *_LOCAL), environment)
        launchers = [sweep.launch(), sweep.launch()]
        story = Story([launcher.wait() for launcher in launchers])
        story.complaints += [f"still there: {process}" for process in sweep.left_alive(_EXIT_S)]
    if not set(story.codes) <= {0, stopping.EXIT_CODE}:
        story.complaints.append("a launcher failed")
    story.complaints += _remains(folder, whole)
    story.complaints += [words for run in sorted(_runs(folder)) for words in _trained_twice(run)]
    story.wall_s = time.monotonic() - start
    return _told(story, sweep)


def no_account(folder: Path) -> dict[str, str]:
    """An environment in which W&B finds nothing of the user's.

    Args:
        folder: where it may keep files.
    """
    names = ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
    return {"NETRC": str(folder / "no-netrc"), **{name: str(folder / name.lower()) for name in names}}


def _launch(sweep: Sweep, chaos: Chaos, story: Story) -> None:
    if len(story.codes) > _LAUNCHES_A_FAULT * len(story.faults) + 1:
        raise OverflowError("it comes to no end")
    launcher = sweep.launch()
    recent = chaos.accompany(launcher)
    code = launcher.returncode
    story.codes.append(code)
    explanations = _EXPLAINS.get(code, set())
    if code != 0 and not explanations & set(story.faults if code == stopping.EXIT_CODE else recent):
        story.complaints.append(f"launch {sweep.num_launches} ended with {code} after nothing but {recent}")
    if "Traceback" in sweep.log.read_text(encoding="utf-8"):
        story.complaints.append(f"launch {sweep.num_launches} showed a traceback")


def _runs(folder: Path) -> list[Path]:
    return list(run_folders(folder / "runs" / "default"))


def _trained_twice(run: Path) -> list[str]:
    counts = {seed: len(read_json(run / f"seed-{seed}" / "member.json")["launches"]) for seed in SEEDS}
    return [] if set(counts.values()) == {1} else [f"{run.name}: its seeds were trained {counts} times"]


def _remains(folder: Path, whole: Path) -> list[str]:
    return [*complaints(folder / "runs" / "default", whole, SEEDS), *_unsent(folder)]


def _unsent(folder: Path) -> list[str]:
    """What a new server lacks after ``gradhorizon-wandb-push``."""
    with WandbStub() as stub:
        environment = {**os.environ, **no_account(folder), **environment_of(stub)}
        push = [sys.executable, "-m", "gradhorizon.mirrors.push", str(folder / "runs")]
        done = subprocess.run(push, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        sent = {run.fields["displayName"]: set(points_of_server(run)) for run in stub.runs.values()}
    said = [] if done.returncode == 0 else [f"the push failed: {done.stderr}"]
    differing = [run.name for run in _runs(folder) if sent.get(run.name) != points_of_records(run, SEEDS)]
    return [*said, *(f"{name}: the push sent something else than the records" for name in differing)]


def _told(story: Story, sweep: Sweep) -> Story:
    if story.complaints:
        story.complaints.append(sweep.logs())
    return story


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as many rounds as asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--faults", type=int, default=10, help="done to each sweep")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--folder", type=Path, help="where to work, and to leave all; by default a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        whole = undisturbed(folder / "whole")
        stories = {}
        for seed in range(options.seed, options.seed + options.rounds):
            stories[f"seed {seed}"] = disturbed(folder / f"seed-{seed}", whole, seed, options.faults)
            _say(f"seed {seed}", stories[f"seed {seed}"])
        stories["two launchers"] = together(folder / "together", whole)
        _say("two launchers", stories["two launchers"])
    return int(any(story.complaints for story in stories.values()))


def _say(name: str, story: Story) -> None:
    sys.stdout.write("\n".join([f"{name}: {story}", *story.complaints]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
