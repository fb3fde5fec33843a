"""Run folders in every state, with the small files that a real run leaves, and no tables."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradhorizon.runs.claims import SILENCE_S, Claim, take

End = tuple[str, int] | int | None
"""How a member ended and when, or the step of its last commit, or None before its first."""


SHEET = {
    "results_version": 1,
    "input_len": 70,
    "chance": {},
    "num_parameters": 17,
    "hidden_size": 8,
    "clip_norm": None,
    "color": None,
    "marker": None,
}
"""What a run's sheet holds, and status does not show."""


@dataclass(frozen=True)
class StatusRun:
    """One run.

    Attributes:
        ends: one per member, seeds from 0.
        variant: what its folder's name tells beyond model, task and length.
    """

    status: str = "running"
    model: str = "lstm"
    task: str = "copy_arjovsky2016"
    seq_len: int = 50
    num_steps: int = 5000
    ends: Sequence[End] = (None,)
    variant: str = ""
    identity: str = "0123456789"

    def write(self, experiment: Path) -> Path:
        """The run's folder below `experiment`."""
        name = "-".join(filter(None, (self.model, self.task, f"T{self.seq_len}", self.variant, self.identity)))
        folder = experiment / "".join(letter if letter.isalnum() or letter in "-=._" else "_" for letter in name)
        outcomes = {}
        for seed, end in enumerate(self.ends):
            (folder / f"seed-{seed}").mkdir(parents=True)
            if end is not None:
                member = self._member(seed, end)
                outcomes[str(seed)] = {key: member[key] for key in ("status", "outcome", "outcome_step")}
                write(folder / f"seed-{seed}" / "member.json", member)
        copied = {key: getattr(self, key) for key in ("status", "model", "task", "seq_len", "num_steps")}
        launches = [{"seeds": list(range(len(self.ends))), "started_at_s": time.time() - 600}]
        content = {"experiment": experiment.name, "run": folder.name, "outcomes": outcomes, "launches": launches}
        write(folder / "run.json", {**SHEET, "identity": self.identity} | copied | content)
        return folder

    def _member(self, seed: int, end: tuple[str, int] | int) -> dict[str, Any]:
        outcome, step = end if isinstance(end, tuple) else (None, end)
        return {
            "seed": seed,
            "status": "running" if outcome is None else "finished",
            "outcome": outcome,
            "outcome_step": None if outcome is None else step,
            "step": step,
            "launch": {},
        }


def write(path: Path, content: dict[str, Any]) -> None:
    """`content` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def claim(folder: Path, seed: int = 0) -> Claim:
    """A claim of this very process on a member, ten minutes old."""
    taken = take(folder / f"seed-{seed}", None)
    assert taken is not None
    change(taken, launched_at_s=time.time() - 600)
    return taken


def change(taken: Claim, age_s: float = 0.0, **changes: Any) -> None:
    """Rewrite a claim, `age_s` after its last sign of life."""
    content = json.loads(taken.path.read_text()) | changes
    content.pop("digest", None)
    write(taken.path, content)
    os.utime(taken.path, (time.time() - age_s, time.time() - age_s))


def commit(folder: Path, seed: int, first: int, last: int, age_s: float) -> None:
    """An empty part of the metrics, committed `age_s` ago."""
    part = folder / f"seed-{seed}" / "records" / "metrics" / f"{first:08d}-{last:08d}.parquet"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    os.utime(part, (time.time() - age_s, time.time() - age_s))


def running(experiment: Path, **changes: Any) -> Path:
    """A run that this process is at, with three members at step 1200 of 5000, 20 steps per second."""
    folder = StatusRun(**{"ends": (1200, 1200, ("solved", 900)), **changes}).write(experiment)
    for seed in (0, 1):
        claim(folder, seed)
        for number in range(3):
            commit(folder, seed, 400 * number, 400 * (number + 1), age_s=60 - 20 * number)
    return folder


def stale(experiment: Path, **changes: Any) -> Path:
    """A run whose process, on another host, is silent."""
    folder = StatusRun(**{"ends": (800,), **changes}).write(experiment)
    change(claim(folder), age_s=SILENCE_S + 30, machine="another", host="node7", pid=4321, slot="GPU 3")
    return folder


def failed(experiment: Path, **changes: Any) -> Path:
    """A run that failed, with what the local launcher writes of it."""
    folder = StatusRun(**{"status": "failed", "ends": (400, None), **changes}).write(experiment)
    lines = ["Traceback (most recent call last):", '  File "train.py", line 7, in step', "RuntimeError: out of memory"]
    write(folder / "failed.json", {"reason": lines[-1], "traceback": lines, "last_lines": [], "attempt": 1})
    return folder


def finished(experiment: Path, **changes: Any) -> Path:
    """A finished run of three members."""
    ends = (("solved", 700), ("diverged", 30), ("budget exhausted", 5000))
    return StatusRun(**{"status": "finished", "ends": ends, **changes}).write(experiment)
