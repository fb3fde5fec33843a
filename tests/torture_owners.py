"""Owners that sleep longer than their claims live, and launches of different seeds of one run at once."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gradhorizon.records.layout import CONFIG, LOCK, MEMBER_SHEET, RUN_SHEET, member_folder
from gradhorizon.runs import claims
from gradhorizon.status.sweep import SweepReader
from gradhorizon.sweeps.launch import launch
from gradhorizon.training.module import EnsembleModule
from tests.runs_on_disk import all_tables
from tests.torture_programs import rows_differing
from tests.torture_specimens import EXPERIMENT, configuration, heard

_SILENCE_S, _HEARTBEAT_S = 0.6, 0.1
_PATIENCE_S = 120.0
_MOMENTS = ("in an optimizer step", "between two files", "while a file is written")
_SEEDS = (0, 1, 2)


@dataclass
class Meetings:
    """What became of one kind of meeting."""

    rounds: int = 0
    runs: int = 0
    bytes_changed: int = 0
    rows: int = 0
    differing: int = 0
    entries_lost: int = 0
    tracebacks: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        """Whether anything was lost, or written by who no longer may."""
        return bool(self.bytes_changed or self.differing or self.entries_lost or self.tracebacks)


class Owners:
    """Lets launches of one run meet, again and again.

    Args:
        folder: where to work.
        seed: of the moments.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.dice = random.Random(seed)  # noqa: S311
        self.meetings: dict[str, Meetings] = {}
        whole = launch(configuration(folder / "whole", f"num_seeds={len(_SEEDS)}")).folder
        self.expected = {one: all_tables(whole, one) for one in _SEEDS}

    def run(self, rounds: int) -> None:
        """Go through all kinds of meetings, each that many times."""
        for moment in _MOMENTS:
            for _ in range(rounds):
                self._suspended(moment)
        for number in (2, 3):
            for _ in range(rounds):
                self._together(number)

    def _suspended(self, moment: str) -> None:
        found = self.meetings.setdefault(f"suspended {moment}, taken over, woken", Meetings())
        found.rounds += 1
        with self._runs_dir() as root:
            sleeper = _forked(root, "sleeper", ["num_seeds=2"], lambda: _sleep_at(moment, self.dice.randint(1, 12)))
            _, status = os.waitpid(sleeper, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                found.examples.append(f"{moment}: it ended before it slept")
                return
            time.sleep(2 * _SILENCE_S)
            os.waitpid(_forked(root, "heir", ["num_seeds=2"], _elsewhere("the heir's machine")), 0)
            run = _only(root)
            before = _everything(run)
            os.kill(sleeper, signal.SIGCONT)
            self._wait(sleeper, found)
            after = _everything(run)
            changed = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
            found.bytes_changed += len(changed)
            if changed:
                found.examples.append(f"{moment}: after waking, it has changed {', '.join(changed)}")
            self._compare(run, _SEEDS[:2], found)
            self._heed(root, found)

    def _together(self, number: int) -> None:
        found = self.meetings.setdefault(f"{number} launches at once, of different seeds", Meetings())
        found.rounds += 1
        with self._runs_dir() as root:
            delays = [self.dice.uniform(0, 0.3) for _ in range(number)]
            children = [
                _forked(root, f"launch-{seed}", [f"seed={seed}", "num_seeds=1"], partial(time.sleep, delay))
                for seed, delay in enumerate(delays)
            ]
            for child in children:
                self._wait(child, found)
            run = _only(root)
            lost = [seed for seed in range(number) if not _has_entry(run, seed)]
            found.entries_lost += len(lost)
            if lost:
                found.examples.append(f"{number} at once: nobody has written down the launch of seeds {lost}")
            look = SweepReader([root]).read().runs[0]
            if (look.status, len(look.members)) != ("finished", number):
                found.entries_lost += 1
                found.examples.append(f"{number} at once: status tells {look.status} of {len(look.members)} members")
            if not (run / CONFIG).is_file():
                found.entries_lost += 1
            self._compare(run, _SEEDS[:number], found)
            self._heed(root, found)

    @contextmanager
    def _runs_dir(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder) as root:
            yield Path(root)

    def _wait(self, child: int, found: Meetings) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found.tracebacks += 1
        found.examples.append("a launch came to no end")

    def _compare(self, run: Path, seeds: tuple[int, ...], found: Meetings) -> None:
        found.runs += 1
        for seed in seeds:
            tables = all_tables(run, seed) if member_folder(run, seed).is_dir() else {}
            for name, table in self.expected[seed].items():
                found.rows += len(table)
                found.differing += rows_differing(table, tables.get(name))

    def _heed(self, root: Path, found: Meetings) -> None:
        for path in root.glob("*.said"):
            words = path.read_text(encoding="utf-8", errors="replace")
            if "Traceback" in words:
                found.tracebacks += 1
                found.examples.append(f"{path.stem} showed a traceback: {words.splitlines()[-1][:200]}")


def _forked(root: Path, name: str, overrides: list[str], prepare: Callable[[], object]) -> int:
    """A launch in a process of its own, whose words are kept in a file; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        heard(root / f"{name}.said")
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s", force=True)
        claims.SILENCE_S, claims.HEARTBEAT_S = _SILENCE_S, _HEARTBEAT_S
        prepare()
        launch(configuration(root, *overrides))
    except BaseException as error:  # noqa: BLE001, the parent reads what became of it
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(0)


def _elsewhere(name: str) -> Callable[[], None]:
    """Lets this process pass for one of another machine, where only signs of life tell who lives."""

    def prepare() -> None:
        claims.this_machine = lambda: name  # type: ignore[assignment]

    return prepare


def _sleep_at(moment: str, number: int) -> None:
    _elsewhere("the sleeper's machine")()
    owner, name = {
        "in an optimizer step": (EnsembleModule, "training_step"),
        "between two files": (os, "replace"),
        "while a file is written": (os, "fsync"),
    }[moment]
    original: Any = getattr(owner, name)
    count = itertools.count(1)

    def sleeping(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGSTOP)
        return found

    setattr(owner, name, sleeping)


def _only(root: Path) -> Path:
    return next(path for path in sorted((root / EXPERIMENT).iterdir()) if (path / RUN_SHEET).exists())


def _everything(run: Path) -> dict[str, bytes]:
    """Every byte below a run; locks hold none."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


def _has_entry(run: Path, seed: int) -> bool:
    """Whether the launch of a member is written down, with what it took: in the run's sheet or in the member's own."""
    launches = json.loads((run / RUN_SHEET).read_text(encoding="utf-8")).get("launches") or []
    if any(seed in launch.get("seeds", ()) and "wall_s" in launch for launch in launches):
        return True
    sheet = member_folder(run, seed) / MEMBER_SHEET
    return sheet.is_file() and "wall_s" in sheet.read_text(encoding="utf-8")
