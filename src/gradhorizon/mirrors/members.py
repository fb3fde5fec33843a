"""Values of single members and their median, when some members are frozen, some have diverged and some report later."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

MemberValues = Mapping[str, Mapping[int, float]]
"""``split/quantity`` -> seed -> value."""


def median_of_members(values: Iterable[float]) -> float:
    """Median of the values that are numbers, infinities included; NaN if there are none.

    Example:
        >>> median_of_members([3.0, float("nan"), 1.0, 2.0])
        2.0
    """
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else math.nan


class MemberScalars:
    """One flat row per step: ``<key>/seed_<seed>`` of the members that reported, ``<key>/median`` of all of them.

    A member that no longer reports is frozen: its network does not change, so its last value stays in the median.
    Left out, the median would jump whenever a member is solved and then describe the unsolved ones alone.
    """

    def __init__(self) -> None:
        self._latest: dict[str, dict[int, float]] = {}

    def row(self, scalars: MemberValues) -> dict[str, float]:
        """The flat row of one step.

        Args:
            scalars: ``split/quantity`` -> seed -> value.
        """
        row: dict[str, float] = {}
        for key, values in scalars.items():
            latest = self._latest.setdefault(key, {})
            latest.update(values)
            row.update({f"{key}/seed_{seed}": value for seed, value in values.items()})
            if latest:
                row[f"{key}/median"] = median_of_members(latest.values())
        return row


class StepCollector:
    """Collects what members report one after another, so that a step's median is taken once and over all of them.

    A step is complete once every member has reported it, or once any member reports a later one: members that are
    frozen by then never will.

    Args:
        seeds: seeds of the members.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = frozenset(seeds)
        self._step = -1
        self._collected: dict[str, dict[int, float]] = {}
        self._reported: set[int] = set()

    def add(self, step: int, seed: int, scalars: Mapping[str, float]) -> list[tuple[int, MemberValues]]:
        """The steps that are complete now, each with its values: none or one.

        Args:
            step: optimizer steps completed.
            seed: the member that reports.
            scalars: its values.
        """
        complete = self.flush() if step != self._step else []
        self._step = step
        self._reported.add(seed)
        for key, value in scalars.items():
            self._collected.setdefault(key, {})[seed] = value
        return complete + self.flush() if self._reported >= self._seeds else complete

    def flush(self) -> list[tuple[int, MemberValues]]:
        """The step under way with what was reported of it, if anything was."""
        complete: list[tuple[int, MemberValues]] = [(self._step, self._collected)] if self._collected else []
        self._collected, self._reported = {}, set()
        return complete
