r"""A linear recurrence with complex diagonal: every unit turns and shrinks on its own.

.. math::
    h_t = \lambda \odot h_{t-1} + W_{ih} x_t, \qquad \lambda = \exp(-e^{\nu} + i \theta), \qquad y_t = \mathrm{Re}\, h_t

Notation: B batch, N steps, D input size, H hidden size, ν and θ real (H,), W_ih complex (H, D), h complex (H,),
G = 2H.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from gradhorizon.cells.cell import Initialization, Recurrent, State


@torch.no_grad()
def ring(cell: DiagonalLinear, r_min: float = 0.0, r_max: float = 1.0, max_phase: float = 2 * math.pi) -> None:
    r"""Eigenvalues uniform over the area of a ring (or a slice of it); input weights complex normal.

    .. math::
        |\lambda|^2 \sim U(r_{\min}^2, r_{\max}^2), \quad \arg \lambda \sim U(0, \varphi_{\max}), \quad
        \mathrm{Re}\, W_{ih}, \mathrm{Im}\, W_{ih} \sim \mathcal N(0, 1/(2D))

    Args:
        cell: its parameters are overwritten.
        r_min: inner radius; with ``r_min = r_max`` the ring is a circle.
        r_max: outer radius, at most 1; the moduli drawn are below it.
        max_phase: φ_max in radians, at most 2π.

    Raises:
        ValueError: radii or phase out of range, or the unit circle itself, which ``exp(−exp(ν))`` cannot reach.

    Source: Orvieto et al. (2023), Lemma 3.2 and the listing of the linear recurrent unit, where a slice of the ring is
        drawn in the same way, https://arxiv.org/abs/2303.06349.

    Example:
        >>> cell = DiagonalLinear(1, 4, initialization=lambda cell: ring(cell, 0.5, 0.5))
        >>> bool((cell.eigenvalues().abs() - 0.5).abs().max() < 1e-6)
        True
    """
    _refuse_no_ring(r_min, r_max, max_phase)
    # In float64, where |λ| = 1 is not drawn: in float32 one in 2²⁴ would be, and its ν is −∞.
    area, phase = torch.rand(2, cell.hidden_size, dtype=torch.float64)
    squared_modulus = r_min**2 + area * (r_max**2 - r_min**2)
    cell.log_decay.copy_(torch.log(-0.5 * torch.log(squared_modulus)))
    cell.phase.copy_(phase * max_phase)
    nn.init.normal_(cell.weight_ih, std=(2 * cell.input_size) ** -0.5)


def _refuse_no_ring(r_min: float, r_max: float, max_phase: float) -> None:
    if not (0 <= r_min <= r_max <= 1 and r_min < 1 and r_max > 0):
        raise ValueError(
            f"a ring needs 0 <= `r_min` <= `r_max` <= 1, a positive `r_max` and an `r_min` below 1, "
            f"got r_min = {r_min}, r_max = {r_max}"
        )
    if not 0 <= max_phase <= 2 * math.pi:
        raise ValueError(f"`max_phase` must lie between 0 and 2π radians, got {max_phase}")


class DiagonalLinear(Recurrent):
    r"""A diagonal linear recurrence over complex numbers, stored as pairs. State ``(real, imag)``.

    The Jacobian of a step is block diagonal, per unit a rotation scaled by :math:`|\lambda_i|`: it is normal, and the
    gradient of a unit shrinks by :math:`|\lambda_i|^\tau`, whatever the input. In a spectrum of the full state, S = 2H,
    each complex exponent counts twice.

    Args:
        input_size: D.
        hidden_size: H, complex units; the layer above sees the real part of each.
        initialization: sets the parameters.

    Raises:
        ValueError: a size below 1.

    Source: Orvieto et al. (2023), https://arxiv.org/abs/2303.06349: the recurrence of their linear recurrent unit
        alone. Left out: the factor γ that normalises what enters (initialised to √(1 − |λ|²)), the complex
        output matrix, the skip connection and the blocks around it; θ itself is the parameter, not its logarithm.

    Example:
        >>> outputs, (real, imag) = DiagonalLinear(2, 3).segment(torch.zeros(4, 5, 2), (torch.zeros(4, 3),) * 2)
        >>> tuple(outputs.shape), bool((outputs[:, -1] == real).all())
        ((4, 5, 3), True)
    """

    def __init__(self, input_size: int, hidden_size: int, initialization: Initialization = ring) -> None:
        super().__init__(input_size, hidden_size)
        self.log_decay = nn.Parameter(torch.empty(hidden_size))
        self.phase = nn.Parameter(torch.empty(hidden_size))
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        initialization(self)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Real and imaginary part of h, (H,) each."""
        return {"real": (self.hidden_size,), "imag": (self.hidden_size,)}

    def eigenvalues(self) -> Tensor:
        """λ, complex, shape (H,): the diagonal of the recurrence."""
        return torch.polar(torch.exp(-torch.exp(self.log_decay)), self.phase)

    def project(self, x: Float[Tensor, "B N D"], first_step: int = 0) -> Float[Tensor, "B N G"]:  # noqa: ARG002
        """Input part of the state, real parts before imaginary ones, shape (B, N, 2H)."""
        return linear(x, self.weight_ih)

    def recur(self, projected_t: Float[Tensor, "B G"], state: State) -> State:
        """Real and imaginary part after one step, shape (B, H) each."""
        real, imag = state
        modulus = torch.exp(-torch.exp(self.log_decay))
        along, across = modulus * torch.cos(self.phase), modulus * torch.sin(self.phase)
        real_input, imag_input = projected_t.chunk(2, dim=-1)
        return along * real - across * imag + real_input, across * real + along * imag + imag_input
