r"""Elman's simple recurrent network.

.. math:: h_t = \varphi(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}), \qquad \varphi \in \{\tanh, \mathrm{relu}\}

Notation: B batch, N steps, D input size, H hidden size.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradhorizon.cells.cell import Initialization, State
from gradhorizon.cells.fused import FusedCell
from gradhorizon.cells.initialization import gaussian, uniform

_NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu}


class Elman(FusedCell):
    """Elman's recurrence, with ``torch.nn.RNN`` as its fused kernel. State ``(h,)``.

    Args:
        input_size: D.
        hidden_size: H.
        nonlinearity: ``tanh`` or ``relu``, as in ``torch.nn.RNN``.
        initialization: sets the parameters.

    Raises:
        ValueError: a size below 1 or another nonlinearity.

    Source: Elman (1990), https://doi.org/10.1207/s15516709cog1402_1. Two bias vectors, as in ``torch.nn.RNN``.

    Example:
        >>> outputs, (h,) = Elman(2, 3).segment(torch.zeros(4, 5, 2), (torch.zeros(4, 3),))
        >>> tuple(outputs.shape), bool((outputs[:, -1] == h).all())
        ((4, 5, 3), True)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nonlinearity: str = "tanh",
        initialization: Initialization = uniform,
    ) -> None:
        if nonlinearity not in _NONLINEARITIES:
            raise ValueError(f"`nonlinearity` must be tanh or relu, got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, partial(nn.RNN, nonlinearity=nonlinearity))
        self.nonlinearity = nonlinearity
        initialization(self)

    def recur(self, projected_t: Float[Tensor, "B H"], state: State) -> State:
        """Hidden state after one step, shape (B, H)."""
        return (_NONLINEARITIES[self.nonlinearity](projected_t + self.project_state(state[0])),)

    def recurrent_weights(self) -> dict[str, Tensor]:
        """The one recurrent matrix, shape (H, H)."""
        return {"weight_hh": self.rnn.all_weights[0][1]}


@torch.no_grad()
def identity(cell: Elman, scale: float = 1.0, input_std: float = 0.001) -> None:
    r"""Identity initialisation: :math:`W_{hh} = \alpha I`, biases 0, input weights from :math:`N(0, \sigma^2)`.

    With ReLU and without input the hidden state is then copied from step to step, and so is its gradient.

    Args:
        cell: its parameters are overwritten; with ``relu`` it is the IRNN.
        scale: α; the authors use 1, and less where long memory hurts.
        input_std: σ of the input weights.

    Source: Le, Jaitly & Hinton (2015), https://arxiv.org/abs/1504.00941. The readout, which they draw in the
        same way, is the network's business and stays PyTorch's.
    """
    weight_ih, weight_hh, *biases = cell.rnn.all_weights[0]
    nn.init.normal_(weight_ih, std=input_std)
    nn.init.eye_(weight_hh).mul_(scale)
    for bias in biases:
        nn.init.zeros_(bias)


@torch.no_grad()
def unbiased_gaussian(cell: Elman, gain: float) -> None:
    r"""Recurrent entries from :math:`N(0, g^2 / H)` and biases 0: without input, the network of mean-field theory.

    Args:
        cell: its parameters are overwritten.
        gain: g, positive; a large tanh network without input is chaotic for g > 1.

    Raises:
        ValueError: the gain is not positive.

    Source: Sompolinsky, Crisanti & Sommers (1988), https://doi.org/10.1103/PhysRevLett.61.259, in continuous time;
        Molgedey, Schuchhardt & Schuster (1992), https://doi.org/10.1103/PhysRevLett.69.3717, in discrete time.
        Input weights stay PyTorch's.
    """
    gaussian(cell, gain)
    for bias in cell.rnn.all_weights[0][2:]:
        nn.init.zeros_(bias)
