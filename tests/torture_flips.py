"""One file disturbed at a time, in every kind of file that a run has, and read by every program that reads it."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gradhorizon.records.layout import CHECKPOINT, SWEEPS, owner_in, seed_in
from tests.torture_outcomes import Outcome, Reader, outcomes
from tests.torture_readers import readers_of
from tests.torture_specimens import EXPERIMENT, KINDS, SEEDS, Specimens, quiet

WAYS = ("bit", "bit", "bit", "bit", "burst", "sector", "cut", "appended", "older")
"""How a file is disturbed, as often as each is listed."""

_SECTOR = 512
_LONGEST_S = 30  # of reading what one flip has left
_MOST_EXAMPLES = 12


@dataclass(frozen=True)
class Flip:
    """One disturbance.

    Attributes:
        path: of the file.
        way: of `WAYS`.
        content: what it holds now.
    """

    path: Path
    way: str
    content: bytes


@dataclass
class Row:
    """What was made of the flips of one kind of file."""

    flips: int = 0
    named: int = 0
    same: int = 0
    silent: int = 0
    unnamed: int = 0
    tracebacks: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, said: str, example: str) -> None:
        """Count what was made of one disturbance.

        Args:
            said: named, same, silent, unnamed or tracebacks.
            example: kept for people where that is a failure.
        """
        self.flips += 1
        setattr(self, said, getattr(self, said) + 1)
        if said in ("silent", "unnamed", "tracebacks") and len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(f"{said}: {' '.join(example.split())}")

    @property
    def has_failed(self) -> bool:
        """Whether anything was read as truth that is none, or broke a program."""
        return bool(self.silent or self.unnamed or self.tracebacks)


def drawn(path: Path, older: Sequence[bytes], dice: random.Random) -> Flip:
    """One disturbance of a file.

    Args:
        path: the file.
        older: what it has held before.
        dice: draws.
    """
    content = path.read_bytes()
    way = dice.choice(WAYS)
    if way == "older" and older:
        return Flip(path, way, dice.choice(older))
    if way == "cut":
        return Flip(path, way, content[: len(content) - dice.randint(1, len(content))])
    if way == "appended":
        return Flip(path, way, content + dice.randbytes(dice.randint(1, 64)))
    spoiled, start = bytearray(content), dice.randrange(len(content))
    if way == "burst":
        burst = dice.randbytes(min(dice.randint(2, 64), len(content) - start))
        spoiled[start : start + len(burst)] = burst
    elif way == "sector":
        start -= start % _SECTOR
        spoiled[start : start + _SECTOR] = bytes(len(spoiled[start : start + _SECTOR]))
    else:
        way = "bit"
        spoiled[start] ^= 1 << dice.randrange(8)
    return Flip(path, way, bytes(spoiled))


@contextmanager
def done_to(flip: Flip) -> Iterator[None]:
    """The file disturbed, and then as it was, its times too."""
    before, times = flip.path.read_bytes(), flip.path.stat()
    stamp = (times.st_atime_ns, times.st_mtime_ns)
    flip.path.write_bytes(flip.content)
    os.utime(flip.path, ns=stamp)
    try:
        yield
    finally:
        flip.path.write_bytes(before)
        os.utime(flip.path, ns=stamp)


def verdict(flip: Flip, undisturbed: dict[str, Outcome], found: dict[str, Outcome]) -> tuple[str, str]:
    """Named, same, silent, unnamed or tracebacks, the worst of all readers; and an example of it.

    Args:
        flip: what was done.
        undisturbed: what the readers made of the whole run.
        found: what they make of it now.
    """
    each = {name: _verdict(flip, undisturbed.get(name), now, found) for name, now in found.items()}
    for worst in ("tracebacks", "silent", "unnamed", "named"):
        for name, one in each.items():
            if one == worst:
                words = found[name].words.splitlines() or [""]
                example = f"{flip.way} in {flip.path.parent.name}/{flip.path.name}; {name}"
                return worst, f"{example}: {words[0][:160]}" if worst in ("tracebacks", "unnamed") else example
    return "same", ""


def _verdict(flip: Flip, before: Outcome | None, now: Outcome, found: dict[str, Outcome]) -> str:
    if now.kind == "traceback":
        return "tracebacks"
    if before is not None and (now.kind, now.digest) == (before.kind, before.digest) and now.kind == "value":
        return "same"
    if before is not None and before.kind == now.kind == "refused" and before.words == now.words:
        return "same"
    earlier = before.words if before is not None else ""
    if _mentions(now.words, flip.path) > _mentions(earlier, flip.path):
        return "named"
    if flip.way == "older" and now.kind == "value" and _is_true_of_earlier(flip, found):
        return "named"
    return "unnamed" if now.kind == "refused" else "silent"


def _mentions(words: str, path: Path) -> int:
    # A damaged claim is one whose owner nobody knows, which is what people are told.
    return words.count(path.name) + (words.count("unknown process") if owner_in(path.name) is not None else 0)


def _is_true_of_earlier(flip: Flip, found: dict[str, Outcome]) -> bool:
    """Whether a file of an earlier moment is told as of that moment: a launch goes on from there, to the same bits."""
    if flip.path.name == CHECKPOINT:
        return True
    status = found.get("status: all")
    return status is not None and any(word in ("stale", "queued") for word in status.words.splitlines())


class Flips:
    """Disturbs copies of specimens in place, one file at a time.

    Args:
        specimens: what is disturbed, and restored.
        seed: of the draws.
        readers: instead of those of the programs; by kind of file.
    """

    def __init__(
        self, specimens: Specimens, seed: int = 0, readers: dict[str, dict[str, Reader]] | None = None
    ) -> None:
        self.specimens = specimens
        self.seed = seed
        self.readers = readers or {kind: readers_of(kind) for kind in KINDS}
        self.rows = {kind: Row() for kind in self.readers}
        self.flips_per_s = 0.0
        self._contents = {kind: {path: path.read_bytes() for path in specimens.files(kind)} for kind in self.readers}

    def run(self, count: int) -> None:
        """Do `count` flips, the same number to each kind of file, and at least one."""
        start, each = time.monotonic(), -(-count // len(self.readers))
        for kind in self.readers:
            done = 0
            while done < each:
                done = self._in_a_child(kind, done, each)
        self.flips_per_s = sum(row.flips for row in self.rows.values()) / (time.monotonic() - start)

    def flip(self, kind: str, number: int) -> Flip:
        """The flip of a number: always the same one."""
        dice = random.Random(f"{self.seed} {kind} {number}")  # noqa: S311, moments, no secrets
        path = dice.choice(self.specimens.files(kind))
        return drawn(path, self.specimens.older_versions(path), dice)

    def _in_a_child(self, kind: str, first: int, end: int) -> int:
        """Do flips until all are done or one kills the process that reads; returns the number of the next."""
        answer, question = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(answer)
            try:
                _work(self, kind, range(first, end), question)
            finally:
                os._exit(0)
        os.close(question)
        with os.fdopen(answer, encoding="utf-8") as lines:
            for line in lines:
                self._count(kind, *json.loads(line))
                first += 1
        _, status = os.waitpid(child, 0)
        if first < end:
            self._restore(kind)
            flip = self.flip(kind, first)
            self._count(kind, "tracebacks", f"{flip.way} in {flip.path}: the reader died, {status}")
            first += 1
        return first

    def _restore(self, kind: str) -> None:
        for path, content in self._contents[kind].items():
            if path.read_bytes() != content:
                path.write_bytes(content)

    def _count(self, kind: str, said: str, example: str) -> None:
        self.rows[kind].add(said, f"{kind}: {example}")

    def places(self, kind: str) -> dict[str, Path]:
        """The folders that the readers of a kind of file are shown."""
        experiment = self.specimens.root / EXPERIMENT
        specimen = KINDS[kind][0]
        return {"experiment": experiment, "run": experiment if specimen == SWEEPS else self.specimens.places[specimen]}


def _work(flips: Flips, kind: str, numbers: Sequence[int], question: int) -> None:
    """What the reading process does."""
    quiet_readers()
    readers, places = flips.readers[kind], flips.places(kind)
    undisturbed = outcomes(places, readers, SEEDS)
    for number in numbers:
        flip = flips.flip(kind, number)
        signal.alarm(_LONGEST_S)
        with done_to(flip):
            said = verdict(flip, undisturbed, outcomes(places, readers, _members_of(flip.path)))
        signal.alarm(0)
        os.write(question, (json.dumps(said) + "\n").encode())


def _members_of(path: Path) -> list[int]:
    """The seed whose folder a file lies in; all seeds if it is the run's own."""
    seeds = [seed for part in path.parts if (seed := seed_in(part)) is not None]
    return seeds or list(SEEDS)


def quiet_readers() -> None:
    """Let this process show nothing; what is logged as a warning is still heard."""
    quiet()
    logging.disable(logging.NOTSET)
    warnings.simplefilter("ignore")
