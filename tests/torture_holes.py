"""Holes, doubles and exchanges made in copies of runs, and what readers and launches make of them."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

from tests.torture_changes import Hole, holes
from tests.torture_flips import Row, quiet_readers
from tests.torture_outcomes import Outcome, outcomes
from tests.torture_programs import relaunched
from tests.torture_readers import READERS, SKIPPED
from tests.torture_specimens import FINISHED, SEEDS, UNFINISHED, Specimens

_ASKED = ("tables", "status", "cohort", "measure", "push", "resume", "verify")


class Holes:
    """Makes holes in copies of runs, and asks the readers and a launch what they make of them.

    Args:
        specimens: what is copied.
        folder: where to, always the same, so that paths in what is read are the same.
        seed: of what is left out when not all are made.
    """

    def __init__(self, specimens: Specimens, folder: Path, seed: int = 0) -> None:
        self.specimens = specimens
        self.folder = folder
        self.before = {specimen: self._undisturbed(specimen) for specimen in (FINISHED, UNFINISHED)}
        self.dice = random.Random(seed)  # noqa: S311
        self.readers: dict[str, Row] = {}
        self.launches: dict[str, Row] = {}

    def run(self, share: float = 1.0, launches: int | None = None) -> None:
        """Make a share of all holes; those that are launched again are drawn from them.

        Args:
            share: of all, at least one of each kind.
            launches: how many launches; one for each hole if None.
        """
        every = list(holes(self.specimens))
        self.dice.shuffle(every)
        firsts = list({(hole.kind, hole.specimen): hole for hole in every}.values())
        others = [hole for hole in every if hole not in firsts]
        chosen = firsts + others[: max(round(share * len(every)) - len(firsts), 0)]
        for hole in chosen:
            _count(self.readers, hole, *self._read(hole))
        for hole in [one for one in chosen if one.is_launched][:launches]:
            found = relaunched(self.specimens, hole.specimen, hole.do)
            kind = "same" if found.kind == "silent" and _is_left_alone(hole, found.words) else found.kind
            _count(self.launches, hole, kind, found.words.strip().splitlines()[-1:])

    def _read(self, hole: Hole) -> tuple[str, list[str]]:
        answer, question = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                quiet_readers()
                os.write(question, json.dumps(self._worst(hole)).encode())
            finally:
                os._exit(0)
        os.close(question)
        with os.fdopen(answer, encoding="utf-8") as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        return tuple(json.loads(text)) if text else ("tracebacks", ["the reader died"])

    def _worst(self, hole: Hole) -> tuple[str, list[str]]:
        copy = self.specimens.copied(hole.specimen, self.folder)
        try:
            name = hole.do(copy)
            return worst(hole, name, self.before[hole.specimen], self._outcomes(hole.specimen, copy))
        finally:
            shutil.rmtree(copy)

    def _outcomes(self, specimen: str, copy: Path) -> dict[str, Outcome]:
        names = [name for name in _ASKED if (specimen, name) not in ((FINISHED, "resume"), (UNFINISHED, "measure"))]
        places = {"run": copy, "experiment": copy.parent}
        return outcomes(places, {name: READERS[name] for name in names}, SEEDS)

    def _undisturbed(self, specimen: str) -> dict[str, Outcome]:
        copy = self.specimens.copied(specimen, self.folder)
        try:
            return self._outcomes(specimen, copy)
        finally:
            shutil.rmtree(copy)


def worst(hole: Hole, name: str, before: dict[str, Outcome], now: dict[str, Outcome]) -> tuple[str, list[str]]:
    """The worst that readers make of a hole, and where that is.

    Args:
        hole: what was done.
        name: words that name what is wrong, any one of them, with bars between.
        before: what readers made of the whole run.
        now: what they make of it now.
    """
    each = {label: _one(hole, name, before.get(label), now.get(label)) for label in {**before, **now}}
    refusing = {label.partition(":")[0] for label, one in each.items() if one in ("named", "unnamed")}
    each = {label: one for label, one in each.items() if label in now or label.partition(":")[0] not in refusing}
    for kind in ("tracebacks", "silent", "unnamed", "named"):
        labels = [label for label, one in each.items() if one == kind]
        if labels:
            said = now.get(labels[0])
            return kind, [labels[0], (said.words if said else "gone")[:160]]
    return "same", []


def _one(hole: Hole, name: str, before: Outcome | None, now: Outcome | None) -> str:
    if now is not None and now.kind == "traceback":
        return "tracebacks"
    if now is not None and before is not None and now.kind == before.kind and (now.digest == before.digest):
        return "same"
    earlier = before.words if before is not None else ""
    if now is not None and any(now.words.count(word) > earlier.count(word) for word in (*name.split("|"), SKIPPED)):
        return "named"
    if now is None:  # a thing that is no longer read is a hole
        return "same" if before is not None and before.kind != "value" else "silent"
    if hole.may_be_ignored and now.kind == "value":
        return "same"
    return "unnamed" if now.kind == "refused" else "silent"


def _is_left_alone(hole: Hole, words: str) -> bool:
    return hole.specimen == FINISHED and hole.may_be_ignored and "changed" not in words


def _count(rows: dict[str, Row], hole: Hole, kind: str, example: list[str]) -> None:
    row = rows.setdefault(f"{hole.kind}, {hole.specimen}", Row())
    row.add(kind, f"{hole.specimen}: {hole.title}: {' '.join(example)}")
