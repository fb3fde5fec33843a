"""Runs killed with SIGKILL at random moments and at chosen ones, launched again until they finish, and compared."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from gradhorizon.records.errors import RecordsError
from gradhorizon.records.reading import read_runs
from gradhorizon.sweeps.launch import launch
from tests.runs_on_disk import all_tables
from tests.torture_phases import PHASES, SET_ASIDE, Call, calls
from tests.torture_programs import rows_differing
from tests.torture_specimens import SEEDS, configuration

TABLES = ("metrics", "input_gradients", "state_gradients", "parameter_gradients")
MOST_KILLS = 3  # of one run, before it may finish
_RHYTHMS_S = (0.0, 0.0, 1000.0)  # commit at every validation, or at the end alone
_PAUSE_S = 0.005  # between two looks of the reader, which would keep a whole core busy


@dataclass
class Tally:
    """What happened to the runs of one phase."""

    runs: int = 0
    kills: int = 0
    launches: int = 0
    asides: int = 0
    unsaid: list[str] = field(default_factory=list)
    rows: int = 0
    differing: int = 0
    looks: int = 0
    complaints: list[str] = field(default_factory=list)


class Kills:
    """Kills launches of one small run, and holds what they leave against an undisturbed one.

    Args:
        folder: where to work.
        seed: of the moments.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.random = random.Random(seed)  # noqa: S311, moments, no secrets
        self.tallies = {phase: Tally() for phase in PHASES}
        self.folder.mkdir(parents=True, exist_ok=True)
        launch(configuration(folder / "warm-up"))
        start = time.monotonic()
        self.expected = {seed: all_tables(launch(configuration(folder / "whole")).folder, seed) for seed in SEEDS}
        self.duration_s = time.monotonic() - start
        self.counts = self._counted()
        self.left_out = [phase for phase, count in self.counts.items() if not count]
        for phase in self.left_out:
            del self.tallies[phase]

    def _counted(self) -> dict[str, int]:
        """How often an undisturbed launch makes the calls of each phase."""
        with ExitStack() as stack:
            counters = {
                phase: stack.enter_context(calls(call, lambda _: False))
                for phase, call in PHASES.items()
                if call is not None
            }
            launch(configuration(self.folder / "counted"))
        # It sets nothing aside; one that was killed leaves a part of most tables of a member.
        return {phase: made[0] or (len(TABLES) if phase == SET_ASIDE else 0) for phase, made in counters.items()}

    def run(self, kills: int) -> None:
        """Go through the phases until `kills` launches were killed, and let every run finish."""
        number = 0
        while sum(tally.kills for tally in self.tallies.values()) < kills:
            phase = min(self.tallies, key=lambda name: self.tallies[name].kills)
            self._one_run(phase, self.folder / "broken" / str(number))
            number += 1

    def _one_run(self, phase: str, folder: Path) -> None:
        tally, call = self.tallies[phase], PHASES[phase]
        tally.runs += 1
        cfg = configuration(folder)
        with reader(folder, self.expected) as seen:
            if phase == SET_ASIDE:
                first = "between the parts and their checkpoint"
                tally.launches += 1
                tally.kills += self._launch(cfg, PHASES[first], self.random.randint(1, self.counts[first]))
            for _ in range(self.random.randint(1, MOST_KILLS)):
                # Parts then cover other steps than those that are left from the launch before.
                cfg.trainer.checkpoint_every_s = self.random.choice(_RHYTHMS_S)
                moment = self.random.randint(1, self.counts[phase]) if call is not None else 0
                tally.launches += 1
                if not self._launch(cfg, call, moment):
                    break
                tally.kills += 1
            else:
                tally.launches += 1
                self._launch(cfg, call, moment=sys.maxsize)
        tally.looks += seen["looks"]
        tally.complaints += seen["complaints"]
        self._compare(folder, tally)

    def _launch(self, cfg: DictConfig, call: Call | None, moment: int) -> bool:
        """Launch in a process of its own; whether it was killed."""
        child = os.fork()
        if child == 0:
            _work(cfg, call, moment)
        if call is None and moment != sys.maxsize:
            time.sleep(self.random.uniform(0, self.duration_s))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert os.WEXITSTATUS(status) == 0, (Path(cfg.runs_dir) / "output.txt").read_text()
        return False

    def _compare(self, folder: Path, tally: Tally) -> None:
        run = next(path for path in (folder / "default").iterdir() if path.is_dir())
        for seed in SEEDS:
            found = all_tables(run, seed)
            for name, table in self.expected[seed].items():
                tally.rows += len(table)
                tally.differing += rows_differing(table, found.get(name))
        asides = list(run.rglob("*.aside*"))
        tally.asides += len(asides)
        if asides and "set aside" not in (run / "log.txt").read_text(encoding="utf-8"):
            tally.unsaid.append(f"not a word of {', '.join(path.name for path in asides)}")
        tally.unsaid += [f"{path.name} was not removed" for path in run.glob("seed-*/**/.*.tmp")]


def _work(cfg: DictConfig, call: Call | None, moment: int) -> None:
    """What a launched process does; never returns."""
    code = 1
    try:
        output = Path(cfg.runs_dir) / "output.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        with calls(call or PHASES["in an optimizer step"], lambda count: call is not None and count == moment):  # type: ignore[arg-type]
            launch(cfg)
        code = 0
    except BaseException:
        logging.getLogger(__name__).exception("the launch failed")
    finally:
        os._exit(code)


@contextmanager
def reader(folder: Path, expected: dict[int, dict[str, pd.DataFrame]]) -> Iterator[dict[str, Any]]:
    """Read the records at and below `folder` all the time, in a process of its own; then say what it saw."""
    seen: dict[str, Any] = {"looks": 0, "complaints": []}
    answer, question = os.pipe()
    child = os.fork()
    if child == 0:
        is_over: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: is_over.append(1))
        while not is_over:
            look(folder, expected, seen)
            time.sleep(_PAUSE_S)
        os.write(question, json.dumps({**seen, "complaints": seen["complaints"][:5]}).encode())
        os._exit(0)
    os.close(question)
    try:
        yield seen
    finally:
        os.kill(child, signal.SIGTERM)
        with os.fdopen(answer, "rb") as pipe:
            seen.update(json.loads(pipe.read()))
        os.waitpid(child, 0)


def look(folder: Path, expected: dict[int, dict[str, pd.DataFrame]], seen: dict[str, Any]) -> None:
    """Read everything once, and complain of what is no beginning of the undisturbed run."""
    try:
        runs = read_runs([folder])
    except RecordsError as error:
        if not any(words in str(error) for words in ("no run found", "no member has started")):
            seen["complaints"].append(str(error))
        return
    for name in TABLES:
        try:
            table = runs.table(name)
        except RecordsError as error:
            if "no run recorded" not in str(error):
                seen["complaints"].append(str(error))
            continue
        seen["looks"] += 1
        for seed in table["seed"].unique():
            whole, rows = expected[seed][name], table[table["seed"] == seed]
            if len(rows) > len(whole) or rows_differing(whole.iloc[: len(rows)], rows):
                seen["complaints"].append(f"{name} of seed {seed}: {len(rows)} rows that are no beginning of the whole")


def report(tallies: dict[str, Tally]) -> str:
    """The table, in Markdown."""
    total = Tally(
        **{
            name: sum((getattr(tally, name) for tally in tallies.values()), start=type(default)())
            for name, default in vars(Tally()).items()
        }
    )
    lines = [
        (
            "| killed | runs | kills | launches | parts set aside | rows compared | rows differing | views read "
            "| views inconsistent |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for phase, tally in [*tallies.items(), ("**all**", total)]:
        cells = (
            tally.runs,
            tally.kills,
            tally.launches,
            tally.asides,
            tally.rows,
            tally.differing,
            tally.looks,
            len(tally.complaints),
        )
        lines.append(f"| {phase} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"
