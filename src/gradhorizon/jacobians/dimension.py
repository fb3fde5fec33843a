r"""What a Lyapunov spectrum says of the set on which the states live: its dimension, and how fast it makes news.

.. math::
    D = k + \frac{\lambda_1 + \dots + \lambda_k}{\lvert \lambda_{k+1} \rvert}, \quad
    k = \max \{ j : \lambda_1 + \dots + \lambda_j \ge 0 \}, \qquad
    h = \sum_{\lambda_i > 0} \lambda_i

Both are of the exponents given. Those of a finite window scatter about their limits, and a sum that is barely negative
over one window may be barely positive over another: a dimension then moves by whole units.

Notation: B samples, K measured exponents, S size of the state and length of its spectrum.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def kaplan_yorke_dimension(exponents: Float[np.ndarray, "B K"], size: int) -> Float[np.ndarray, " B"]:
    """Kaplan–Yorke (Lyapunov) dimension of each sample, dimensionless, shape (B,).

    Args:
        exponents: in nats per step, the largest first; −inf where below resolution.
        size: S, at least K.

    Returns:
        From 0 (the largest exponent is negative) to S (the sum of all S is not). NaN where K < S exponents have a sum
        that is not yet negative, and for a sample with a NaN.

    Source: Kaplan & Yorke (1979), https://doi.org/10.1007/BFb0064319; Frederickson, Kaplan, Yorke & Yorke (1983),
        https://doi.org/10.1016/0022-0396(83)90011-6, conjecture that it is the attractor's information dimension.

    Example:
        >>> kaplan_yorke_dimension(np.array([[1.0, 0.0, -4.0]]), 3).tolist()
        [2.25]
    """
    sums = np.cumsum(exponents, axis=1)
    num_kept = (sums >= 0).sum(axis=1)
    measured = exponents.shape[1]
    # The sum rises while exponents are positive and falls for good once they are not.
    next_one = np.take_along_axis(exponents, np.minimum(num_kept, measured - 1)[:, None], axis=1)[:, 0]
    kept_sum = np.where(num_kept > 0, np.take_along_axis(sums, np.maximum(num_kept - 1, 0)[:, None], axis=1)[:, 0], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = num_kept + kept_sum / np.abs(next_one)
    dimension = np.where(num_kept < measured, between, float(size) if measured == size else np.nan)
    return np.where(np.isnan(exponents).any(axis=1), np.nan, dimension)


def entropy_rate(exponents: Float[np.ndarray, "B K"], size: int) -> Float[np.ndarray, " B"]:
    """Sum of the positive exponents of each sample, in nats per step, shape (B,).

    An upper bound of the metric entropy (Ruelle's inequality), and equal to it for a measure that is smooth along the
    unstable directions (Pesin's formula).

    Args:
        exponents: in nats per step, the largest first; −inf where below resolution.
        size: S, at least K.

    Returns:
        0 if none is positive. NaN where the last of K < S exponents is still positive, and for a sample with a NaN.

    Source: Eckmann & Ruelle (1985), https://doi.org/10.1103/RevModPhys.57.617.

    Example:
        >>> entropy_rate(np.array([[0.5, 0.25, -4.0], [-1.0, -2.0, -3.0]]), 3).tolist()
        [0.75, 0.0]
    """
    total = np.where(exponents > 0, exponents, 0.0).sum(axis=1)
    is_open = (exponents[:, -1] > 0) & (exponents.shape[1] < size)
    return np.where(is_open | np.isnan(exponents).any(axis=1), np.nan, total)
