"""What all cases of a cell at one place in one dtype come to: the worst of each quantity, and one verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradhorizon.doctor.comparison import LIMITS, Outcome

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in LIMITS}
"""Name -> dtype that is surveyed."""
GROUPS = ("outputs", "final_state", "input_gradient", "initial_state_gradient", "parameter_gradient")
"""Quantities that are compared; of state components and parameters, the one with the largest error counts."""


@dataclass(frozen=True)
class Finding:
    """How far a cell is from its definition, at one place in one dtype.

    Attributes:
        cell: the cell's name.
        models: labels of the models that it serves.
        place: name of the place.
        dtype: name of the dtype.
        outcomes: of all cases.
        verdict: pass, FAIL, unsupported (the dtype is not implemented there) or untested (from these weights even the
            reference overflows, or rounding alone changes everything).
        problem: what was raised at the first case that fails or refuses, in its own words, or nothing.
        has_equation: whether it was held against a step, and not against itself alone.
    """

    cell: str
    models: tuple[str, ...]
    place: str
    dtype: str
    outcomes: tuple[Outcome, ...]
    verdict: str
    problem: str = ""
    has_equation: bool = True

    @property
    def errors(self) -> dict[str, float]:
        """One of `GROUPS` -> relative error, dimensionless: the one that exceeds its limit most, over all cases."""
        return {group: error for group, (error, _, _) in self._worst().items()}

    @property
    def tolerances(self) -> dict[str, float]:
        """The same groups -> the limit of that error, dimensionless."""
        return {group: limit for group, (_, limit, _) in self._worst().items()}

    @property
    def tolerance(self) -> float:
        """The limit of the worst of all errors, dimensionless."""
        worst = self._worst().values()
        return max(worst, key=_excess)[1] if worst else LIMITS[DTYPES[self.dtype]]

    @property
    def worst(self) -> Outcome | None:
        """The outcome with the worst of all errors; nothing if none was compared."""
        worst = self._worst().values()
        return max(worst, key=_excess)[2] if worst else None

    def of(self, verdict: str) -> list[Outcome]:
        """Outcomes with that verdict."""
        return [own for own in self.outcomes if own.verdict == verdict]

    def _worst(self) -> dict[str, tuple[float, float, Outcome]]:
        found: dict[str, tuple[float, float, Outcome]] = {}
        for own in self.outcomes:
            for quantity, error in own.errors.items():
                group = quantity.partition("/")[0]
                here = (error, own.limits[quantity], own)
                found[group] = max(found.get(group, here), here, key=_excess)
        return found


def _excess(judged: tuple[float, float, Outcome]) -> float:
    error, limit, _ = judged
    return math.inf if math.isnan(error) else error / limit
