r"""JANET, an LSTM with the forget gate alone.

.. math::
    s_t &= W_{ih} x_t + W_{hh} h_{t-1} + b, \quad
    \tilde h_t = \tanh(W_{ih} x_t + W_{hh} h_{t-1} + b) \\
    h_t &= \sigma(s_t) \odot h_{t-1} + (1 - \sigma(s_t - \beta)) \odot \tilde h_t

gate and candidate each with its own rows of the weights, stacked in that order.

Notation: B batch, N steps, D input size, H hidden size, G = 2H.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from gradhorizon.cells.cell import Initialization, Recurrent, State
from gradhorizon.cells.initialization import uniform


class Janet(Recurrent):
    r"""JANET ("just another network"), whose only gate forgets, and writes what it forgets. State ``(h,)``.

    Args:
        input_size: D.
        hidden_size: H.
        beta: β, by which the gate that writes is opened further; with 0 the two add up to 1.
        initialization: sets the parameters.

    Raises:
        ValueError: a size below 1.

    Source: van der Westhuizen & Lasenby (2018), https://arxiv.org/abs/1804.04849, where β = 1; their chrono
        initialisation of b is left out.

    Example:
        >>> outputs, (h,) = Janet(2, 3).segment(torch.zeros(4, 5, 2), (torch.zeros(4, 3),))
        >>> tuple(outputs.shape), bool((outputs[:, -1] == h).all())
        ((4, 5, 3), True)
    """

    def __init__(
        self, input_size: int, hidden_size: int, beta: float = 1.0, initialization: Initialization = uniform
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.beta = beta
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(2 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(2 * hidden_size))
        initialization(self)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The hidden state h, (H,)."""
        return {"h": (self.hidden_size,)}

    def project(self, x: Float[Tensor, "B N D"], first_step: int = 0) -> Float[Tensor, "B N G"]:  # noqa: ARG002
        """Input part of both preactivations, shape (B, N, 2H)."""
        return linear(x, self.weight_ih, self.bias)

    def recur(self, projected_t: Float[Tensor, "B G"], state: State) -> State:
        """Hidden state after one step, shape (B, H)."""
        (h,) = state
        s, candidate = (projected_t + linear(h, self.weight_hh)).chunk(2, dim=-1)
        return (torch.sigmoid(s) * h + (1 - torch.sigmoid(s - self.beta)) * torch.tanh(candidate),)

    def gates(self, projected_t: Float[Tensor, "B G"], state: State) -> dict[str, Tensor]:
        """Forget gate and what writes, shape (B, H) each; a forget gate near 1 keeps the state."""
        s, _ = (projected_t + linear(state[0], self.weight_hh)).chunk(2, dim=-1)
        return {"forget_gate": torch.sigmoid(s), "input_gate": 1 - torch.sigmoid(s - self.beta)}

    def recurrent_weights(self) -> dict[str, Tensor]:
        """The recurrent matrices of the gate and the candidate, shape (H, H) each."""
        forget, candidate = self.weight_hh.chunk(2)
        return {"weight_hh_forget": forget, "weight_hh_candidate": candidate}
