"""A straight line through logarithms by least squares, and the structure of what it leaves over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Line:
    """A line through K points.

    Attributes:
        slope: nats per unit of x.
        change: over the span of x, nats.
        scatter: residual standard deviation, at least that of rounding, nats.
        residuals: nats, shape (K,).
    """

    slope: float
    change: float
    scatter: float
    residuals: Float[np.ndarray, " K"]


def fit_line(x: Float[np.ndarray, " K"], logs: Float[np.ndarray, " K"]) -> Line:
    """The line of least squares.

    Args:
        x: ascending, shape (K,).
        logs: nats, shape (K,).
    """
    slope, intercept = np.polyfit(x, logs, 1)
    residuals = logs - intercept - slope * x
    scatter = math.sqrt((residuals**2).sum() / (len(x) - 2))
    # A relative error of eps in g is an error of eps in ln g, and ln g is itself rounded.
    resolution = np.finfo(float).eps * max(1.0, float(np.abs(logs).max()))
    return Line(float(slope), float(slope * (x[-1] - x[0])), max(scatter, resolution), residuals)


def covariance_of_neighbours(residuals: Float[np.ndarray, " K"]) -> float:
    """Lag-one autocovariance c₁, to which white noise adds nothing on average; nats².

    Args:
        residuals: in order, nats, shape (K,).
    """
    return float((residuals[1:] * residuals[:-1]).mean())


def signed_root(covariance: float) -> float:
    """√|c₁| with the sign of c₁, nats.

    Args:
        covariance: c₁, nats².
    """
    return math.copysign(math.sqrt(abs(covariance)), covariance)
