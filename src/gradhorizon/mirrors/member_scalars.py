"""Values of single members and their median, when some members are frozen, some have diverged and some report later."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import median

MemberValues = Mapping[str, Mapping[int, float]]
"""``split/quantity`` -> seed -> value."""


def spread_of_members(values: Iterable[float]) -> dict[str, float]:
    """Median, smallest and largest of the values that are numbers, infinities included; NaN if there are none.

    Example:
        >>> spread_of_members([3.0, float("nan"), 1.0, 2.0])
        {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    known = [value for value in values if not math.isnan(value)] or [math.nan]
    return {"median": median(known), "low": min(known), "high": max(known)}


class MemberScalars:
    """One flat row per step: ``<key>/seed_<seed>`` of the members that reported, and of all of them their spread.

    The spread is ``<key>/median``, ``<key>/low`` and ``<key>/high``, the smallest and the largest.

    A member that no longer reports is frozen: its network does not change, so its last value stays in the median.
    Left out, the median would jump whenever a member is solved and then describe the unsolved ones alone.
    """

    def __init__(self) -> None:
        self._latest: dict[str, dict[int, float]] = {}

    def row(self, scalars: MemberValues, with_median: bool = True) -> dict[str, float]:
        """The flat row of one step.

        Args:
            scalars: ``split/quantity`` -> seed -> value.
            with_median: whether all members that report this step have done so.
        """
        row: dict[str, float] = {}
        for key, values in scalars.items():
            latest = self._latest.setdefault(key, {})
            latest.update(values)
            row.update({f"{key}/seed_{seed}": value for seed, value in values.items()})
            if latest and with_median:
                row.update({f"{key}/{name}": value for name, value in spread_of_members(latest.values()).items()})
        return row


class StepCollector:
    """Gathers what members report of one optimizer step, in whatever order, so that a step is one row.

    A step is complete once a step beyond the next is reported: a member that diverges while a step is taken is
    measured after the others have completed it. Should steps go back, what was gathered is complete.
    """

    def __init__(self) -> None:
        self._gathered: dict[int, dict[str, dict[int, float]]] = {}
        self._newest = 0

    def add(self, step: int, scalars: MemberValues) -> list[tuple[int, MemberValues]]:
        """The steps that are complete now, ascending, each with all its values.

        Args:
            step: optimizer steps completed.
            scalars: ``split/quantity`` -> seed -> value.
        """
        goes_back = step < self._newest - 1
        self._newest = step if goes_back else max(step, self._newest)
        complete = self._take(lambda known: goes_back or known < self._newest - 1)
        for key, values in scalars.items():
            self._gathered.setdefault(step, {}).setdefault(key, {}).update(values)
        return complete

    def flush(self) -> list[tuple[int, MemberValues]]:
        """The steps under way with what was reported of them."""
        return self._take(lambda _: True)

    def _take(self, is_complete: Callable[[int], bool]) -> list[tuple[int, MemberValues]]:
        return [(step, self._gathered.pop(step)) for step in sorted(self._gathered) if is_complete(step)]
