r"""Growth rates of recurrences that multiply the gradient by one and the same factor in each step."""

from __future__ import annotations

import numpy as np


def scaled_orthogonal_growth_rate(scale: float) -> float:
    r"""Growth rate of the state gradient of a linear RNN with recurrent matrix W = ρQ, Q orthogonal, in nats per step.

    .. math:: \lVert \partial L/\partial s_t \rVert = \rho^{\tau} \lVert \partial L/\partial s_{t^*} \rVert

    Exact for every gradient, lag and input. A tanh network follows it only where its units stay in the linear range,
    and lies below it elsewhere.

    Args:
        scale: ρ, positive.

    Raises:
        ValueError: `scale` not positive.

    Source: Pascanu, Mikolov & Bengio (2013), §2.1, https://arxiv.org/abs/1211.5063, with equality since W is normal.

    Example:
        >>> round(scaled_orthogonal_growth_rate(0.5), 4)
        -0.6931
    """
    if not scale > 0:
        raise ValueError(f"`scale` must be positive, got {scale}")
    return float(np.log(scale))


def identity_relu_growth_rate() -> float:
    r"""Growth rate of the state gradient of an IRNN at initialisation, W = I and ReLU, in nats per step: 0.

    Assumes that the units through which the loss is felt are active at every step, as those are whose input drives them
    up; the gradient of a unit that is switched off anywhere between t and t* is exactly 0 instead.

    Source: Le, Jaitly & Hinton (2015), §1, https://arxiv.org/abs/1504.00941.

    Example:
        >>> identity_relu_growth_rate()
        0.0
    """
    return 0.0
