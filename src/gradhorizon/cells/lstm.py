r"""Long short-term memory with forget gate, without peepholes.

.. math::
    (i_t, f_t, o_t) &= \sigma(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \quad
    g_t = \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}) \\
    c_t &= f_t \odot c_{t-1} + i_t \odot g_t, \qquad h_t = o_t \odot \tanh(c_t)

each gate with its own rows of the weights, stacked in the order i, f, g, o.

Notation: B batch, N steps, D input size, H hidden size, G = 4H.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradhorizon.cells.cell import Initialization, State
from gradhorizon.cells.fused import FusedCell
from gradhorizon.cells.initialization import uniform


class LSTM(FusedCell):
    """LSTM, with ``torch.nn.LSTM`` as its fused kernel. State ``(h, c)``.

    Args:
        input_size: D.
        hidden_size: H.
        initialization: sets the parameters.

    Raises:
        ValueError: a size below 1.

    Source: Hochreiter & Schmidhuber (1997), https://doi.org/10.1162/neco.1997.9.8.1735, with the forget gate of
        Gers, Schmidhuber & Cummins (2000), https://doi.org/10.1162/089976600300015015. Two bias vectors, as in
        ``torch.nn.LSTM``.

    Example:
        >>> outputs, (h, c) = LSTM(2, 3).segment(torch.zeros(4, 5, 2), (torch.zeros(4, 3), torch.zeros(4, 3)))
        >>> tuple(outputs.shape), bool((outputs[:, -1] == h).all())
        ((4, 5, 3), True)
    """

    gate_names = ("input", "forget", "candidate", "output")

    def __init__(self, input_size: int, hidden_size: int, initialization: Initialization = uniform) -> None:
        super().__init__(input_size, hidden_size, nn.LSTM)
        initialization(self)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The hidden state h and the memory cell c, (H,) each."""
        return {"h": (self.hidden_size,), "c": (self.hidden_size,)}

    def recur(self, projected_t: Float[Tensor, "B G"], state: State) -> State:
        """Hidden state and memory cell after one step, shape (B, H) each."""
        i, f, g, o = self._preactivations(projected_t, state)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def gates(self, projected_t: Float[Tensor, "B G"], state: State) -> dict[str, Tensor]:
        """Input, forget and output gate, shape (B, H) each."""
        i, f, _, o = self._preactivations(projected_t, state)
        return {"input_gate": torch.sigmoid(i), "forget_gate": torch.sigmoid(f), "output_gate": torch.sigmoid(o)}

    def _preactivations(self, projected_t: Tensor, state: State) -> tuple[Tensor, ...]:
        return (projected_t + self.project_state(state[0])).chunk(4, dim=-1)


@torch.no_grad()
def forget_bias(cell: LSTM, value: float = 1.0) -> None:
    r"""PyTorch's default with the forget gate's bias at `value`: without input and state, f = σ(value).

    ``torch.nn.LSTM`` adds two bias vectors: `value` is their *sum* (the recurrent one is 0). Setting both would
    double it.

    Args:
        cell: its parameters are overwritten.
        value: total bias of the forget gate's preactivation.

    Source: Gers, Schmidhuber & Cummins (2000), §4, https://doi.org/10.1162/089976600300015015; the value 1 from
        Jozefowicz, Zaremba & Sutskever (2015), https://proceedings.mlr.press/v37/jozefowicz15.html.
    """
    uniform(cell)
    _set_total_bias(cell, "forget", torch.full((cell.hidden_size,), float(value)))


@torch.no_grad()
def chrono(cell: LSTM, seq_len: int) -> None:
    r"""Chrono initialisation: :math:`b_f \sim \log U[1, T_{\max} - 1]`, :math:`b_i = -b_f`, per unit.

    Unit by unit the memory cell then forgets with a time scale drawn uniformly from 2 … T_max steps. The biases
    are totals over the two bias vectors of ``torch.nn.LSTM``.

    Args:
        cell: its parameters are overwritten.
        seq_len: T_max, the range of the dependencies to be captured, in steps.

    Raises:
        ValueError: `seq_len` below 3, where the distribution is a point or empty.

    Source: Tallec & Ollivier (2018), https://arxiv.org/abs/1804.11188. All other weights and biases stay PyTorch's.
    """
    if seq_len < 3:  # noqa: PLR2004
        raise ValueError(f"`seq_len` must be at least 3 for chrono (time scales up to seq_len − 1), got {seq_len}")
    uniform(cell)
    bias = torch.empty(cell.hidden_size).uniform_(1.0, seq_len - 1.0).log()
    _set_total_bias(cell, "forget", bias)
    _set_total_bias(cell, "input", -bias)


def _set_total_bias(cell: LSTM, gate: str, value: Tensor) -> None:
    row = cell.gate_names.index(gate)
    _, _, bias_ih, bias_hh = cell.rnn.all_weights[0]
    bias_ih.chunk(4)[row].copy_(value)
    bias_hh.chunk(4)[row].zero_()
