r"""A leaky rate network: the membrane equation of computational neuroscience, stepped by Euler's method.

.. math:: h_t = (1 - \alpha) h_{t-1} + \alpha \tanh(W_{ih} x_t + W_{hh} h_{t-1} + b), \qquad \alpha = \Delta t / \tau

Source: Jaeger, Lukoševičius, Popovici & Siewert (2007), https://doi.org/10.1016/j.neunet.2007.04.016.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State


class LeakyRNN(Recurrent):
    """Leaky integrators of time constant `time_constant` steps. State ``(h,)``."""

    def __init__(self, input_size: int, hidden_size: int, time_constant: float = 10.0) -> None:
        super().__init__(input_size, hidden_size)
        if time_constant < 1:
            raise ValueError(f"`time_constant` must be at least 1 step, got {time_constant}")
        self.leak = 1 / time_constant
        self.input = nn.Linear(input_size, hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The rates h, (H,)."""
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        """What depends on the input alone, (B, N, H)."""
        return self.input(x)

    def recur(self, projected_t: Tensor, state: State) -> State:
        """What depends on the state, (B, H)."""
        (h,) = state
        return ((1 - self.leak) * h + self.leak * torch.tanh(projected_t + self.recurrent(h)),)

    def recurrent_weights(self) -> dict[str, Tensor]:
        """The one recurrent matrix, (H, H)."""
        return {"weight_hh": self.recurrent.weight}
