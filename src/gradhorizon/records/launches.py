"""Who trained a member, launch by launch: kept in its own ``member.json``, where no other launch of the run writes.

Runs recorded before kept all launches of a run in ``run.json``; what is there stays there, and is read as well.

Imports nothing beyond the standard library, so that looking is cheap.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradhorizon.records.layout import seeds_in


class Launch:
    """One launch of a run.

    Args:
        seeds: members that it trains.
        facts: what is true of it: versions, commit, device, threads.

    Attributes:
        measuring_s: table -> seconds that it has spent on measuring it so far.
    """

    def __init__(self, seeds: Sequence[int], facts: Mapping[str, Any]) -> None:
        self.seeds = list(seeds)
        self.facts = dict(facts)
        self.measuring_s: defaultdict[str, float] = defaultdict(float)
        self.started_at_s = time.time()
        self._start = time.monotonic()  # the clock of `started_at_s` may jump

    @property
    def wall_s(self) -> float:
        """Seconds that it has taken so far."""
        return time.monotonic() - self._start

    def entry(self) -> dict[str, Any]:
        """What is kept of it, as of now."""
        return {
            "seeds": self.seeds,
            **self.facts,
            "started_at_s": self.started_at_s,
            "wall_s": self.wall_s,
            "measuring_s": dict(self.measuring_s),
        }


def launches_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Entries of launches that a sheet or a checkpoint holds; none where it holds none, or something else.

    Args:
        content: of ``member.json``, of a checkpoint, or of a ``run.json``.
    """
    found = content.get("launches")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def earlier_launches(sheet: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A member's launches before this one, in their order, each as it was last heard of.

    A killed launch has left one of the two behind the other; a damaged sheet holds none.

    Args:
        sheet: content of ``member.json``.
        checkpoint: content of the checkpoint that the member goes on from.
    """
    found: dict[Any, dict[str, Any]] = {}
    for entry in [*launches_of(checkpoint), *launches_of(sheet)]:
        start = repr(entry.get("started_at_s"))
        if start not in found or _wall_s(entry) >= _wall_s(found[start]):
            found[start] = entry
    return list(found.values())


def all_seeds(sheet: Mapping[str, Any], run: Path) -> list[int]:
    """Seeds of all members of a run, ascending: those of which its ``run.json`` tells, and those that have a folder.

    Args:
        sheet: content of ``run.json``.
        run: the run's folder.
    """
    return sorted(known_seeds(sheet) | set(seeds_in(run)))


def _wall_s(entry: Mapping[str, Any]) -> float:
    wall_s = entry.get("wall_s")
    return float(wall_s) if isinstance(wall_s, int | float) else 0.0


def known_seeds(sheet: Mapping[str, Any]) -> set[int]:
    """Seeds that a ``run.json`` says are members of its run, whether they have a folder or not.

    Args:
        sheet: its content.
    """
    lists = [sheet.get("seeds"), *(entry.get("seeds") for entry in launches_of(sheet))]
    return {seed for seeds in lists if isinstance(seeds, list) for seed in seeds if type(seed) is int}
