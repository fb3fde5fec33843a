r"""What rounding alone can do, from the conditioning of what is compared: one bound for every processor.

Kernels sum in any order and may fuse products, so that two of them share no bit, and their distance grows with the
condition of the problem. Bounds are of first order in ε = 2⁻⁵² and hold between two computations.

Notation: S size of the state, K exponents, N steps, F (S, K) the orthonormal frame at s_0, J_t Q_{t−1} = Q_t R_t.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

EPSILON = float(np.finfo(np.float64).eps)


def step_error(size: int) -> float:
    """Relative to ‖J_t‖, how far a Jacobian and its decomposition may be off: S² ε each, in either computation.

    Source: Higham (2002), Accuracy and Stability of Numerical Algorithms, §3.5 and theorem 19.4.
    """
    return 4 * size**2 * EPSILON


def logarithm_errors(jacobians: list[np.ndarray], frame: np.ndarray) -> np.ndarray:
    r"""Largest distance of two computations of Σ_t ln |(R_t)_ii|, shape (K,).

    .. math:: \lvert \delta \rvert \le \eta \sum_t \kappa(J_t) \lVert e_i^\top A_t \rVert \lVert A_t^{-1} e_i \rVert,
        \qquad A_t = R_N \cdots R_{t+1}

    since J_t + E_t in place of J_t multiplies the product's triangle by I + A_t (Q_tᵀ E_t Q_{t−1} R_t⁻¹) A_t⁻¹, where
    η = `step_error` bounds ‖E_t‖ / ‖J_t‖. It is the condition of the steps that counts, and how far a direction leans
    towards those that outgrow it, not the condition of their product: that is what decompositions are for.
    """
    triangles, basis = [], np.linalg.qr(frame, "complete").Q
    for jacobian in jacobians:
        basis, triangle = np.linalg.qr(jacobian @ basis)
        triangles.append(triangle)
    errors, later = np.zeros(len(frame)), np.eye(len(frame))
    for jacobian, triangle in zip(reversed(jacobians), reversed(triangles), strict=True):
        leaning = np.linalg.norm(later, axis=1) * np.linalg.norm(np.linalg.inv(later), axis=0)
        errors += step_error(len(frame)) * np.linalg.cond(jacobian) * leaning
        later = later @ triangle
        later /= np.abs(later.diagonal())[:, None]  # a row's scale cancels, and would underflow
    return errors[: frame.shape[1]]


def exponent_errors(jacobians: list[np.ndarray], frame: np.ndarray, transient_steps: int = 0) -> np.ndarray:
    """Largest distance of two computations of each exponent in nats per step, shape (K,), in the order of the frame.

    The frame that the transient has turned errs by no more than all steps do: over a window the sum of all steps less
    the sum of the transient.
    """
    total = logarithm_errors(jacobians, frame) + logarithm_errors(jacobians[:transient_steps], frame)
    return total / (len(jacobians) - transient_steps)


def assert_within(found: pd.DataFrame, expected: pd.DataFrame, errors: pd.DataFrame) -> None:
    """Columns that `errors` has may differ by as much as it says, row by row; all others are equal."""
    pd.testing.assert_frame_equal(
        found.drop(columns=errors.columns), expected.drop(columns=errors.columns), check_dtype=False, check_exact=True
    )
    for name in errors:
        distance = (found[name] - expected[name]).abs()
        is_near = (distance <= errors[name]) | (found[name].isna() & expected[name].isna())
        rows = pd.DataFrame({"found": found[name], "expected": expected[name], "allowed": errors[name]})
        assert is_near.all(), f"{name}\n{rows[~is_near].to_string(float_format='{:.17g}'.format)}"


def recurrence_errors(matrices: np.ndarray, additions: np.ndarray, state: np.ndarray, num_terms: int) -> np.ndarray:
    r"""Largest distance of two computations of s_N, s_t = M_t s_{t−1} + b_t, entry by entry, shape (S,).

    .. math:: e_t = \lvert M_t \rvert e_{t-1} + 2 n \varepsilon\, a_t, \qquad
        a_t = \lvert M_t \rvert a_{t-1} + \lvert b_t \rvert \ge \lvert s_t \rvert

    Args:
        matrices: M_t, shape (N, S, S).
        additions: bounds of what is added, :math:`\sum_k \lvert w_k x_{t,k} \rvert` of b_t = W x_t, shape (N, S).
        state: s_0, shape (S,).
        num_terms: n, how many products one entry of the new state sums.

    Source: Higham (2002), Accuracy and Stability of Numerical Algorithms, §3.3 (running error analysis), §3.5.
    """
    errors, magnitude = np.zeros_like(state), np.abs(state)
    for matrix, addition in zip(np.abs(matrices), additions, strict=True):
        grown = matrix @ magnitude + addition
        errors = matrix @ errors + 2 * num_terms * EPSILON * grown
        magnitude = grown
    return errors
