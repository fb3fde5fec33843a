"""Runs killed with SIGKILL at random moments and at chosen ones, launched again until they finish, and compared.

``python -m tests.torture --kills 200 --out docs/torture.md`` writes a table; the exit code is 1 if a single row differs
from an undisturbed run, or a reader ever saw anything but a beginning of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from gradhorizon.records.reading import read_runs
from gradhorizon.records.tables import RecordsError
from gradhorizon.train import launch
from gradhorizon.training import EnsembleModule
from tests.runs_on_disk import all_tables, composed

SEEDS = (0, 1)
TABLES = ("metrics", "input_gradients", "state_gradients", "parameter_gradients")
SMALL = (
    "num_steps=9", "val_every_steps=3", "trainer.checkpoint_every_s=0", "trainer.progress_every_s=1000",
    "~measurement.gates", "measurement.input_gradients.schedule.num_points=3",
    "measurement.state_gradients.schedule.num_points=3", "measurement.parameter_gradients.schedule.every_steps=2",
)  # fmt: skip
_MOST_KILLS = 3  # of one run, before it may finish
_RHYTHMS_S = (0.0, 0.0, 1000.0)  # commit at every validation, or at the end alone
_PAUSE_S = 0.005  # between two looks of the reader, which would keep a whole core busy


@dataclass(frozen=True)
class Call:
    """One way to the disk: a function that a launch calls, and which of its calls count.

    Attributes:
        owner: what the function belongs to.
        name: the function's name.
        counts: whether a call with these arguments counts.
        when: kill before or after the call, or instead of it with half of the file's content cut off.
    """

    owner: Any
    name: str
    counts: Callable[..., bool]
    when: str = "before"


def _goes_to(*suffixes: str) -> Callable[..., bool]:
    return lambda _, target: Path(target).as_posix().endswith(suffixes)


def _is_part(_: Path, target: Path) -> bool:
    return Path(target).parent.parent.name == "records"


def _is_whole(_: Path, target: Path) -> bool:
    return Path(target).parent.name == "records"


def _is_removed_part(path: Path, **_: object) -> bool:
    return path.suffix == ".parquet"


PHASES: dict[str, Call | None] = {
    "at a random moment": None,
    "in an optimizer step": Call(EnsembleModule, "training_step", lambda *_: True),
    "with half a file written": Call(os, "fsync", lambda _: True, "cutting"),
    "before a part appears": Call(Path, "replace", _is_part),
    "after a part appeared": Call(Path, "replace", _is_part, "after"),
    "between the parts and their checkpoint": Call(Path, "replace", _goes_to("/checkpoint.pt")),
    "after their checkpoint": Call(Path, "replace", _goes_to("/checkpoint.pt"), "after"),
    "before a checkpoint is kept": Call(Path, "replace", _goes_to("/init.pt", "/last.pt")),
    "before a merged table appears": Call(Path, "replace", _is_whole),
    "while merged parts are removed": Call(Path, "unlink", _is_removed_part),
    "before a member's status": Call(Path, "replace", _goes_to("/member.json")),
    "before the run's status": Call(Path, "replace", _goes_to("/run.json")),
    "while parts are set aside": Call(Path, "rename", lambda _, target: ".aside" in Path(target).name, "after"),
}
"""Phase -> the calls at one of which a launch is killed; None for whenever the clock says."""


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


class Torture:
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

    def _counted(self) -> dict[str, int]:
        """How often an undisturbed launch makes the calls of each phase."""
        with ExitStack() as stack:
            counters = {
                phase: stack.enter_context(_calls(call, lambda _: False))
                for phase, call in PHASES.items() if call is not None
            }  # fmt: skip
            launch(configuration(self.folder / "counted"))
        # It sets nothing aside; one that was killed leaves a part of most tables of a member.
        return {phase: made[0] or len(TABLES) for phase, made in counters.items()}

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
            if phase == "while parts are set aside":
                first = "between the parts and their checkpoint"
                tally.launches += 1
                tally.kills += self._launch(cfg, PHASES[first], self.random.randint(1, self.counts[first]))
            for _ in range(self.random.randint(1, _MOST_KILLS)):
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


def configuration(folder: Path) -> DictConfig:
    """The small run, with its records below `folder`."""
    return composed(f"runs_dir={folder}", *SMALL)


@contextmanager
def _calls(call: Call, is_fatal: Callable[[int], bool]) -> Iterator[list[int]]:
    """Count the calls that count, and end this process at the one that is fatal."""
    original, made = getattr(call.owner, call.name), [0]

    def counted(*arguments: Any, **options: Any) -> Any:
        if not call.counts(*arguments, **options):
            return original(*arguments, **options)
        made[0] += 1
        if not is_fatal(made[0]):
            return original(*arguments, **options)
        if call.when == "after":
            original(*arguments, **options)
        elif call.when == "cutting":
            os.truncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        return os.kill(os.getpid(), signal.SIGKILL)

    setattr(call.owner, call.name, counted)
    try:
        yield made
    finally:
        setattr(call.owner, call.name, original)


def _work(cfg: DictConfig, call: Call | None, moment: int) -> None:
    """What a launched process does; never returns."""
    code = 1
    try:
        output = Path(cfg.runs_dir) / "output.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        with _calls(call or PHASES["in an optimizer step"], lambda count: call is not None and count == moment):  # type: ignore[arg-type]
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


def rows_differing(expected: pd.DataFrame, found: pd.DataFrame | None) -> int:
    """Rows that are missing, too many, or not the same to the bit."""
    if found is None or list(expected.columns) != list(found.columns):
        return len(expected)
    count = min(len(expected), len(found))
    is_same = np.ones(count, dtype=bool)
    for name in expected.columns:
        first, second = (np.asarray(table[name].to_numpy()[:count]) for table in (expected, found))
        if first.dtype == np.float64 == second.dtype:
            first, second = first.view(np.int64), second.view(np.int64)
        is_same &= first == second
    return int((~is_same).sum()) + abs(len(expected) - len(found))


def report(tallies: dict[str, Tally]) -> str:
    """The table, in Markdown."""
    total = Tally(**{
        name: sum((getattr(tally, name) for tally in tallies.values()), start=type(default)())
        for name, default in vars(Tally()).items()
    })  # fmt: skip
    lines = [
        (
            "| killed | runs | kills | launches | parts set aside | rows compared | rows differing | views read "
            "| views inconsistent |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for phase, tally in [*tallies.items(), ("**all**", total)]:
        cells = (tally.runs, tally.kills, tally.launches, tally.asides, tally.rows, tally.differing, tally.looks,
                 len(tally.complaints))  # fmt: skip
        lines.append(f"| {phase} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


HEADING = """\
# Kills, and what they cost

<!-- Written by `make torture`; do not edit. -->

A small run of {members} members, which commits at every validation or at its end alone, is killed with `SIGKILL`,
launched again, killed again up to {again} times, and left to finish. Its records are then compared with those of an
undisturbed run, row by row and bit by bit. Meanwhile another process reads the records all the time; each view of a
table must be a beginning of the undisturbed one: no half row, no row twice, no gap. Moments are drawn at random: of the
clock, or among the calls of one kind that an undisturbed launch makes.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as many kills as asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.fsync = lambda fd: None  # noqa: ARG005, nobody cuts the power, and a disk is slower than all else here
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder), options.seed)
        torture.run(options.kills)
    table = report(torture.tallies)
    sys.stdout.write(table)
    if options.out is not None:
        heading = HEADING.format(members=len(SEEDS), again=_MOST_KILLS)
        options.out.write_text(heading + table, encoding="utf-8")
    complaints = [words for tally in torture.tallies.values() for words in (*tally.complaints, *tally.unsaid)]
    sys.stderr.write("".join(f"{words}\n" for words in complaints))
    return int(bool(complaints) or any(tally.differing for tally in torture.tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
