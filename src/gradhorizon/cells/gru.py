r"""Gated recurrent unit, in the variant of cuDNN and PyTorch.

.. math::
    r_t &= \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \quad
    z_t = \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
    n_t &= \tanh(W_{ih} x_t + b_{ih} + r_t \odot (W_{hh} h_{t-1} + b_{hh})), \quad
    h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1}

each gate with its own rows of the weights, stacked in the order r, z, n.

Notation: B batch, N steps, D input size, H hidden size, G = 3H.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradhorizon.cells.cell import Initialization, State
from gradhorizon.cells.fused import FusedCell
from gradhorizon.cells.initialization import uniform


class GRU(FusedCell):
    r"""GRU, with ``torch.nn.GRU`` as its fused kernel. State ``(h,)``.

    Args:
        input_size: D.
        hidden_size: H.
        initialization: sets the parameters.

    Raises:
        ValueError: a size below 1.

    Source: Cho et al. (2014), https://arxiv.org/abs/1406.1078. One deviation, PyTorch's: the reset gate multiplies
        :math:`W_{hh} h + b_{hh}`, where the paper has :math:`W_{hh} (r \odot h)`. As in the paper, z near 1 keeps
        the state. Two bias vectors, as in ``torch.nn.GRU``.

    Example:
        >>> outputs, (h,) = GRU(2, 3).segment(torch.zeros(4, 5, 2), (torch.zeros(4, 3),))
        >>> tuple(outputs.shape), bool((outputs[:, -1] == h).all())
        ((4, 5, 3), True)
    """

    gate_names = ("reset", "update", "candidate")

    def __init__(self, input_size: int, hidden_size: int, initialization: Initialization = uniform) -> None:
        super().__init__(input_size, hidden_size, nn.GRU)
        initialization(self)

    def recur(self, projected_t: Float[Tensor, "B G"], state: State) -> State:
        """Hidden state after one step, shape (B, H)."""
        (h,) = state
        (x_r, x_z, x_n), (h_r, h_z, h_n) = self._preactivations(projected_t, h)
        z = torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        return ((1 - z) * n + z * h,)

    def gates(self, projected_t: Float[Tensor, "B G"], state: State) -> dict[str, Tensor]:
        """Reset and update gate, shape (B, H) each; an update gate near 1 keeps the state."""
        (x_r, x_z, _), (h_r, h_z, _) = self._preactivations(projected_t, state[0])
        return {"reset_gate": torch.sigmoid(x_r + h_r), "update_gate": torch.sigmoid(x_z + h_z)}

    def _preactivations(self, projected_t: Tensor, h: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return projected_t.chunk(3, dim=-1), self.project_state(h).chunk(3, dim=-1)
