r"""Where floating-point numbers end: the lag from which a decaying gradient is lost to a number format."""

from __future__ import annotations

import numpy as np


def underflow_lag(rate: float, smallest: float, start: float = 1.0) -> float:
    r"""Lag from which a gradient that decays exponentially lies below a number format's smallest number, in steps.

    .. math:: s\, e^{\lambda \tau} < m \quad\text{for}\quad \tau > \frac{\ln(s/m)}{-\lambda}

    Args:
        rate: λ, growth rate in nats per step.
        smallest: m, positive, such as the smallest normal or subnormal number of a dtype.
        start: s, positive, gradient at lag 0, in the unit of `smallest`.

    Returns:
        Not rounded; 0 if the gradient starts below, inf if the rate is not negative.

    Raises:
        ValueError: `smallest` or `start` not positive.

    Example:
        >>> round(underflow_lag(rate=-np.log(2), smallest=2.0**-126), 6), underflow_lag(rate=0.0, smallest=1e-38)
        (126.0, inf)
    """
    for name, value in (("smallest", smallest), ("start", start)):
        if not value > 0:
            raise ValueError(f"`{name}` must be positive, got {value}")
    if rate >= 0:
        return float("inf")
    # Apart, since their quotient may overflow.
    return float(np.maximum((np.log(start) - np.log(smallest)) / -rate, 0.0))
