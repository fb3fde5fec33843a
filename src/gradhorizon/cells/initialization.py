r"""Initialisations that suit any cell; those of one cell alone live beside its equation.

Each sets a cell's parameters in place, drawing from torch's global generator. Those that change the recurrent
matrices alone leave everything else as `uniform` draws it, so that at one seed two variants share the rest.

Notation: H hidden size, U uniform, N normal distribution.
"""

from __future__ import annotations

import torch
from torch import nn

from gradhorizon.cells.cell import Recurrent


def uniform(cell: Recurrent) -> None:
    r"""PyTorch's default: every weight and bias from :math:`U(-1/\sqrt H, 1/\sqrt H)`.

    Recurrent matrices of this kind have a spectral radius of about :math:`1/\sqrt 3`, whatever H, so that a plain
    RNN, an LSTM and a GRU all forget fast: compare defaults and you compare initialisations.

    Args:
        cell: its parameters are overwritten.

    Source: documentation of ``torch.nn.RNN``, https://docs.pytorch.org/docs/stable/generated/torch.nn.RNN.html.
    """
    bound = cell.hidden_size**-0.5
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -bound, bound)


@torch.no_grad()
def gaussian(cell: Recurrent, gain: float) -> None:
    r"""Recurrent matrices with entries from :math:`N(0, g^2 / H)`, whose spectral radius tends to g for large H.

    Args:
        cell: its parameters are overwritten.
        gain: g, positive; a large tanh network without input is chaotic for g > 1.

    Raises:
        ValueError: the gain is not positive.

    Source: Sompolinsky, Crisanti & Sommers (1988), https://doi.org/10.1103/PhysRevLett.61.259.
    """
    _refuse_nonpositive(gain, "gain")
    uniform(cell)
    for weight in cell.recurrent_weights().values():
        nn.init.normal_(weight, std=gain * cell.hidden_size**-0.5)


@torch.no_grad()
def orthogonal(cell: Recurrent, gain: float = 1.0) -> None:
    r"""Recurrent matrices :math:`W = g Q` with Q orthogonal, one independent Q per gate.

    Args:
        cell: its parameters are overwritten.
        gain: g, positive; every singular value of W.

    Raises:
        ValueError: the gain is not positive.

    Source: Saxe, McClelland & Ganguli (2014), https://arxiv.org/abs/1312.6120, for deep networks;
        Henaff, Szlam & LeCun (2016), https://arxiv.org/abs/1602.06662, for recurrent ones. Input weights and
        biases stay PyTorch's.
    """
    _refuse_nonpositive(gain, "gain")
    uniform(cell)
    for weight in cell.recurrent_weights().values():
        nn.init.orthogonal_(weight, gain)


def _refuse_nonpositive(value: float, name: str) -> None:
    if not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}")
