"""Processes that race for one member: ``python -m tests.lock_racers FOLDER MODE ROUNDS`` prints what went wrong.

They are forked from a small process that has imported the locks already, so that they meet. A racer that gets the
member writes a file that must not be there; some then die without giving anything back, and others take their place.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path

import filelock

from gradhorizon.runs import claims, locks
from gradhorizon.runs.locks import MemberHeldError, members_locked

RACERS = 8


class NoLock:
    """What `filelock` does where the file system has no locks."""

    def __init__(self, path: Path, timeout: float) -> None:
        del path, timeout

    def __enter__(self) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    def __exit__(self, *_: object) -> None:
        raise AssertionError("it was never entered")


class StaleLock(NoLock):
    """What `filelock` does where a dead process still holds the lock."""

    def __enter__(self) -> None:
        raise filelock.Timeout("held")


def set_up(mode: str) -> None:
    """Simulate a file system with locks, one without, or one that never frees them."""
    if mode != "locks":
        vars(locks)["FileLock"] = {"no_locks": NoLock, "stale_locks": StaleLock}[mode]


def leave_dead_claim(folder: Path) -> None:
    """A claim whose owner is dead, as after a kill."""
    child = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(folder,))
    child.start()
    child.join()


def _claim_and_die(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    claims.take(folder, None)
    os._exit(9)


def meet(folder: Path, barrier: Barrier, rounds: int) -> None:
    """Race for a fresh member each round; all start at the same instant, and the winner holds until all have tried."""
    for number in range(rounds):
        barrier.wait()
        try:
            with members_locked(folder / f"round-{number}", [0]):
                (folder / f"round-{number}" / f"won-{os.getpid()}").touch()
                barrier.wait()
        except MemberHeldError:
            barrier.wait()


def meetings(folder: Path, rounds: int, with_dead_claim: bool) -> list[str]:
    """Rounds without exactly one winner."""
    for number in range(rounds):
        (folder / f"round-{number}").mkdir(parents=True)
        if with_dead_claim:
            leave_dead_claim(folder / f"round-{number}" / "seed-0")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(RACERS)
    racers = [context.Process(target=meet, args=(folder, barrier, rounds)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    wins = Counter(path.parent.name for path in folder.glob("round-*/won-*"))
    return [
        f"round-{number}: {wins[f'round-{number}']} winners" for number in range(rounds) if wins[f"round-{number}"] != 1
    ]


def hammer(folder: Path, entries: int) -> None:
    """Take and give back one member until it was taken often enough; die in between from time to time."""
    dice = random.Random(os.getpid())  # noqa: S311
    while (folder / "entered").stat().st_size < entries:
        try:
            with members_locked(folder, [0]):
                with (folder / "entered").open("a") as file:
                    file.write(".")
                try:
                    (folder / "inside").touch(exist_ok=False)
                except FileExistsError:
                    (folder / f"violation-{os.getpid()}").touch()
                time.sleep(0.001 * dice.random())
                (folder / "inside").unlink(missing_ok=True)
                if dice.random() < 0.1:
                    os._exit(9)
        except MemberHeldError:
            time.sleep(0.001 * dice.random())


def hammering(folder: Path, entries: int) -> list[str]:
    """Processes that were at the member while another one was."""
    folder.mkdir(parents=True)
    (folder / "entered").touch()
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=hammer, args=(folder, entries)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    while racers:
        racer = racers.pop()
        racer.join()
        if racer.exitcode == 9:
            racers.insert(0, context.Process(target=hammer, args=(folder, entries)))
            racers[0].start()
    return sorted(path.name for path in folder.glob("violation-*"))


if __name__ == "__main__":
    root, mode_name, num_rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    set_up(mode_name)
    problems: list[str] = []
    if mode_name != "stale_locks":
        problems += meetings(root / "fresh", num_rounds, with_dead_claim=False)
        problems += hammering(root / "hammered", 4 * num_rounds)
    problems += meetings(root / "dead", num_rounds, with_dead_claim=True)
    sys.stdout.write("\n".join(problems))
