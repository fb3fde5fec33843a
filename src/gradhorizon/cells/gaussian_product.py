r"""A linear recurrence through a fresh random matrix at every step, whose whole Lyapunov spectrum is known.

.. math:: s_t = W_t s_{t-1} + W_{ih} x_t, \qquad (W_t)_{ij} \sim \mathcal N(0, \sigma^2) \text{ independent}

Notation: B batch, N steps, D input size, H hidden size and size of the state, t the clock.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from gradhorizon.cells.cell import Recurrent, State

_LARGEST_SEED = 2**62


class GaussianProduct(Recurrent):
    r"""A product of independent Gaussian matrices, to calibrate measurements of growth. State ``(s,)``.

    .. math:: \lambda_i = \ln \sigma + \tfrac12 \left[ \ln 2 + \psi\!\left( \tfrac{H - i + 1}{2} \right) \right]

    are its exponents in nats per step, ψ the digamma function, whatever the input; `gradhorizon.theory` draws them.
    :math:`W_t` is a pure function of the cell's seed and of t: every sample, segment and copy sees the same matrices.
    Nothing is trained: the seed and :math:`W_{ih}`, which is there so that a gradient reaches the inputs, are buffers.
    A segment holds H² numbers per step while it runs.

    Args:
        input_size: D.
        hidden_size: H.
        deviation: σ, positive; 1/√H, with which λ₁ tends to 0 for large H, if None.

    Raises:
        ValueError: a size below 1, or a deviation that is not positive.

    Source: Newman (1986), The distribution of Lyapunov exponents: exact results for random matrices, Commun. Math.
        Phys. 103, 121–126. The input is ours.

    Example:
        >>> matrices = GaussianProduct(2, 3).project(torch.zeros(4, 5, 2))[1]
        >>> tuple(matrices.shape), bool((matrices[0] == matrices[1]).all())
        ((4, 5, 3, 3), True)
    """

    seed: Tensor
    weight_ih: Tensor

    def __init__(self, input_size: int, hidden_size: int, deviation: float | None = None) -> None:
        super().__init__(input_size, hidden_size)
        bound = hidden_size**-0.5
        deviation = bound if deviation is None else deviation
        if not deviation > 0:
            raise ValueError(f"`deviation` must be positive, got {deviation}; null stands for 1/√H")
        self.deviation = deviation
        self.register_buffer("seed", torch.randint(_LARGEST_SEED, ()))
        self.register_buffer("weight_ih", torch.empty(hidden_size, input_size).uniform_(-bound, bound))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The state s, (H,)."""
        return {"s": (self.hidden_size,)}

    def initial_state(self, batch_size: int) -> State:
        """s_0: zeros, shape (B, H), with the dtype and device of the input weights."""
        return (self.weight_ih.new_zeros(batch_size, self.hidden_size),)

    def project(
        self, x: Float[Tensor, "B N D"], first_step: int = 0
    ) -> tuple[Float[Tensor, "B N H"], Float[Tensor, "B N H H"]]:
        """What enters the state, shape (B, N, H), and the matrices, (B, N, H, H) without a copy per sample."""
        matrices = torch.stack([self._matrix(first_step + offset) for offset in range(x.shape[1])])
        return linear(x, self.weight_ih), matrices.to(self.weight_ih).expand(len(x), *matrices.shape)

    def recur(self, projected_t: tuple[Float[Tensor, "B H"], Float[Tensor, "B H H"]], state: State) -> State:
        """State after one step, shape (B, H)."""
        entering, matrix = projected_t
        return (entering + torch.einsum("bij,bj->bi", matrix, state[0]),)

    def _matrix(self, clock: int) -> Float[Tensor, "H H"]:
        # In float64 whatever the cell's dtype, so that copies in all of them round the same numbers.
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((int(self.seed), clock))))
        return self.deviation * torch.from_numpy(generator.standard_normal((self.hidden_size, self.hidden_size)))
