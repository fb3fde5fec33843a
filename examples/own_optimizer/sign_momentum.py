r"""Steps of one size along the sign of a running mean of the gradient.

.. math:: m \leftarrow \beta m + (1 - \beta) g, \qquad \theta \leftarrow \theta - \eta \operatorname{sign} m

Source: Bernstein, Wang, Azizzadenesheli & Anandkumar (2018), "signSGD", https://arxiv.org/abs/1802.04434, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class SignMomentum(torch.optim.Optimizer):
    """Sign descent with momentum.

    Args:
        params: what is trained.
        lr: η, size of a step.
        beta: β, decay of the running mean.

    Raises:
        ValueError: `beta` outside [0, 1).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, beta: float = 0.9) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"`beta` must lie in [0, 1), got {beta}")
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002
        """One step; what is kept in `self.state` is saved with the checkpoint and restored with it."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["beta"])
                parameter.sub_(mean.sign(), alpha=group["lr"])
