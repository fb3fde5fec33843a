"""When a measurement fires: at chosen optimizer steps, and at the moments that a member's fate is decided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from functools import cache

import numpy as np

from gradhorizon.measurements.options import refuse_below


class Schedule(ABC):
    """Optimizer steps (completed ones) at which a measurement fires; the phases come on top.

    Args:
        at_init: fire before the first step.
        at_solved: fire at the validation that finds a member solved.
        at_last: fire when training of a member ends; for one that is frozen when solved, that is then.
    """

    def __init__(self, at_init: bool = True, at_solved: bool = True, at_last: bool = True) -> None:
        self.at_init = at_init
        self.at_solved = at_solved
        self.at_last = at_last

    @abstractmethod
    def inner_steps(self, num_steps: int) -> Collection[int]:
        """Steps in 1 … num_steps − 1 at which it fires."""

    def check(self, num_steps: int, sees_solved: bool = True) -> None:
        """Refuse a schedule that never fires.

        Args:
            num_steps: the budget, in optimizer steps.
            sees_solved: whether what is scheduled can fire at a validation, where no step is taken.

        Raises:
            ValueError: no phase is chosen and no inner step falls into the run.
        """
        fires_at_solved = self.at_solved and sees_solved
        if not (self.at_init or fires_at_solved or self.at_last or self.inner_steps(num_steps)):
            raise ValueError(
                f"a schedule must fire at least once in `num_steps`={num_steps}, got one that never does: {self}; "
                "set `at_init`, `at_solved` or `at_last`, or choose steps inside the run"
            )

    def is_due(self, step: int, phase: str, num_steps: int) -> bool:
        """Whether it fires at `step` for the reason `phase` (init, train, solved, last, diverged)."""
        if phase == "train":
            return step in _inner_steps(self, num_steps)
        return {"init": self.at_init, "solved": self.at_solved or self.at_last}.get(phase, self.at_last)


@cache
def _inner_steps(schedule: Schedule, num_steps: int) -> Collection[int]:
    return schedule.inner_steps(num_steps)


class LogSpaced(Schedule):
    """Log-spaced optimizer steps: dense early, when gradients change fastest.

    Args:
        num_points: how many steps between 1 and the end, before rounding merges neighbours.
        at_init: fire before the first step.
        at_solved: fire at the validation that finds a member solved.
        at_last: fire when training of a member ends.

    Raises:
        ValueError: negative `num_points`.
    """

    def __init__(
        self, num_points: int = 12, at_init: bool = True, at_solved: bool = True, at_last: bool = True
    ) -> None:
        super().__init__(at_init, at_solved, at_last)
        if num_points < 0:
            raise ValueError(f"`num_points` must not be negative, got {num_points}")
        self.num_points = num_points

    def __repr__(self) -> str:
        return f"LogSpaced(num_points={self.num_points})"

    def inner_steps(self, num_steps: int) -> frozenset[int]:
        """Steps in 1 … num_steps − 1 at which it fires.

        Example:
            >>> sorted(LogSpaced(num_points=4).inner_steps(1000))
            [1, 10, 100]
        """
        spaced = np.geomspace(1, num_steps, self.num_points) if self.num_points else np.empty(0)
        return frozenset(int(step) for step in spaced.round() if 0 < step < num_steps)


class Every(Schedule):
    """Every so many optimizer steps.

    Args:
        every_steps: the interval.
        at_init: fire before the first step.
        at_solved: fire at the validation that finds a member solved.
        at_last: fire when training of a member ends.

    Raises:
        ValueError: an interval below 1.
    """

    def __init__(self, every_steps: int, at_init: bool = True, at_solved: bool = True, at_last: bool = True) -> None:
        super().__init__(at_init, at_solved, at_last)
        refuse_below("every_steps", every_steps, 1)
        self.every_steps = every_steps

    def __repr__(self) -> str:
        return f"Every(every_steps={self.every_steps})"

    def inner_steps(self, num_steps: int) -> range:
        """Steps in 1 … num_steps − 1 at which it fires.

        Example:
            >>> sorted(Every(400).inner_steps(1000))
            [400, 800]
        """
        return range(self.every_steps, num_steps, self.every_steps)
