"""Solve rate and time to solve against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradhorizon.analysis.statistics.solving import median_steps_to_solve, solve_rate_interval


@pytest.mark.parametrize(("num_solved", "num_seeds"), [(0, 3), (2, 3), (3, 3), (7, 10)])
def test_wilson_interval_solves_its_quadratic(num_solved: int, num_seeds: int) -> None:
    z, share = 1.959963984540054, num_solved / num_seeds
    center = (share + z**2 / (2 * num_seeds)) / (1 + z**2 / num_seeds)
    half = z * math.sqrt(share * (1 - share) / num_seeds + z**2 / (4 * num_seeds**2)) / (1 + z**2 / num_seeds)
    interval = solve_rate_interval(num_solved, num_seeds)
    assert (interval.low, interval.high) == pytest.approx((center - half, center + half), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("steps", "is_solved", "expected"),
    [
        ([300, 500, 700], [True, True, True], 500),
        ([300, 500, 700, 900], [True] * 4, 500),
        ([300, 1000, 1000], [True, False, False], math.inf),
        ([1000, 1000], [False, False], math.inf),
        # Two at risk after the member lost at 400: survival 4/5, then 4/5 · 2/3 = 8/15, then 4/15.
        ([300, 400, 500, 600, 1000], [True, False, True, True, False], 600),
    ],
)
def test_median_steps_to_solve_is_kaplan_meier(steps: list[int], is_solved: list[bool], expected: float) -> None:
    assert median_steps_to_solve(np.array(steps, dtype=float), np.array(is_solved)) == expected
