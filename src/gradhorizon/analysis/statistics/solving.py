"""How often and how soon seeds solve a task: Wilson interval and Kaplan–Meier median."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from gradhorizon.analysis.statistics.growth import CONFIDENCE, Interval


def solve_rate_interval(num_solved: int, num_seeds: int) -> Interval:
    """Wilson interval of the probability that a seed solves the task.

    Args:
        num_solved: k.
        num_seeds: n, members that finished; with 0 everything is possible.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Example:
        >>> solve_rate_interval(0, 0)
        Interval(low=0.0, high=1.0)
    """
    if num_seeds == 0:
        return Interval(0.0, 1.0)
    found = stats.binomtest(num_solved, num_seeds).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def median_steps_to_solve(steps: Float[np.ndarray, " M"], is_solved: Bool[np.ndarray, " M"]) -> float:
    """Kaplan–Meier median of the optimizer steps to the first solved validation; infinite if half never solve.

    Args:
        steps: step of solving, or the budget of a member that did not solve, shape (M,).
        is_solved: which of the two, shape (M,).

    Source: E. L. Kaplan, P. Meier, "Nonparametric estimation from incomplete observations", 1958.

    Example:
        >>> median_steps_to_solve(np.array([300.0, 500.0, 1000.0]), np.array([True, True, False]))
        500.0
    """
    if not is_solved.any():
        return math.inf
    survival = stats.ecdf(stats.CensoredData(uncensored=steps[is_solved], right=steps[~is_solved])).sf
    reached = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    return float(reached[0]) if len(reached) else math.inf
