r"""Lyapunov exponents of a product of Jacobians, and the sum that all of them must have.

.. math:: J_t Q_{t-1} = Q_t R_t, \qquad \lambda_i = \frac{1}{N - N_0} \sum_{t > N_0} \ln \lvert (R_t)_{ii} \rvert

Notation: B batch, N steps, :math:`N_0` transient steps, S size of the state, K exponents, F frames.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.jacobians.one_step import StepMaps


def random_frames(size: int, num_vectors: int, count: int = 2) -> Float[Tensor, "F S K"]:
    """Orthonormal frames drawn by a private generator of fixed seed: the same ones always.

    Args:
        size: S.
        num_vectors: K, at most S.
        count: F, how many independent frames.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count, size, num_vectors, generator=generator, dtype=torch.float64)
    frames: Tensor = torch.linalg.qr(drawn).Q
    return frames


@torch.no_grad()
def finite_time_exponents(
    maps: StepMaps, frames: Float[Tensor, "F S K"], transient_steps: int = 0, qr_every_steps: int = 1
) -> Float[Tensor, "F B K"]:
    r"""Lyapunov exponents along a trajectory, from QR decompositions of :math:`J_N \cdots J_1` applied to each frame.

    A frame travels through the transient too, so that it is aligned when the window begins. An exponent is below
    resolution if any :math:`\lvert R_{ii} \rvert` of the window is at most :math:`S \varepsilon \lVert J \rVert`, the
    norm taken as that of the longest pushed vector.

    Args:
        maps: the N one-step Jacobians.
        frames: orthonormal tangent vectors at s_0, the same ones for every sample, shape (F, S, K).
        transient_steps: :math:`N_0`, below N.
        qr_every_steps: steps between decompositions; more are faster and resolve less.

    Returns:
        In nats per step, shape (F, B, K), float64, the largest of each sample first; −inf where below resolution, NaN
        in every entry of a sample that met an infinite or NaN number.

    Raises:
        ValueError: no step is left after the transient.

    Source: Benettin, Galgani, Giorgilli & Strelcyn (1980), https://doi.org/10.1007/BF02128236; by QR decomposition,
        Geist, Parlitz & Lauterborn (1990), https://doi.org/10.1143/PTP.83.875.

    Example:
        >>> from gradhorizon.cells.elman import Elman
        >>> from gradhorizon.jacobians.one_step import StepJacobians
        >>> maps = StepJacobians(Elman(2, 4), torch.zeros(3, 10, 2))
        >>> finite_time_exponents(maps, torch.eye(4).unsqueeze(0)).shape
        torch.Size([1, 3, 4])
    """
    refuse_empty_window(maps.num_steps, transient_steps)
    num_frames, size, count = frames.shape
    frame = frames.to(maps.like).unsqueeze(1).expand(-1, maps.batch_size, -1, -1)
    sums = torch.zeros(num_frames, maps.batch_size, count, dtype=torch.float64, device=frame.device)
    is_below = torch.zeros_like(sums, dtype=torch.bool)
    for t, push in enumerate(maps.pushes(), 1):
        # All frames in one product: (F, B, S, K) as F · K vectors per sample.
        vectors = push(frame.movedim(-1, 1).flatten(0, 1))
        frame = torch.unflatten(vectors, 0, (num_frames, count)).movedim(1, -1)
        if t in (transient_steps, maps.num_steps) or (t - transient_steps) % qr_every_steps == 0:
            longest = torch.linalg.vector_norm(frame, dim=-2).amax(dim=-1, keepdim=True)
            frame, triangle = torch.linalg.qr(frame)
            if t > transient_steps:
                factors = triangle.diagonal(dim1=-2, dim2=-1).abs()
                floor = size * torch.finfo(frame.dtype).eps * longest
                is_below |= (factors <= floor) & floor.isfinite()
                sums += factors.to(torch.float64).log()
    return _ordered(sums / (maps.num_steps - transient_steps), is_below)


def refuse_empty_window(num_steps: int, transient_steps: int) -> None:
    """Refuse a transient as long as the trajectory.

    Args:
        num_steps: N.
        transient_steps: :math:`N_0`.

    Raises:
        ValueError: no step is left.
    """
    if transient_steps >= num_steps:
        raise ValueError(
            f"a window needs at least 1 step after the transient, got `transient_steps`={transient_steps} and "
            f"{num_steps} steps in all; shorten the transient or lengthen the sequence"
        )


def _ordered(means: Tensor, is_below: Tensor) -> Tensor:
    values = torch.where(is_below, -torch.inf, means)
    is_broken = ~(means < torch.inf).all(dim=-1, keepdim=True)  # NaN is below nothing
    return torch.where(is_broken, torch.nan, values.sort(dim=-1, descending=True).values)


@torch.no_grad()
def mean_log_determinants(maps: StepMaps, transient_steps: int = 0) -> Float[Tensor, " B"]:
    r"""Mean of :math:`\ln \lvert \det J_t \rvert` over the steps after the transient, in nats per step, shape (B,).

    From exact Jacobians by reverse differentiation: independent of how `finite_time_exponents` pushes vectors.

    Args:
        maps: the N one-step Jacobians.
        transient_steps: steps before the window.
    """
    logarithms = [torch.linalg.slogdet(chunk).logabsdet for chunk in maps.matrices()]
    return torch.cat(logarithms, dim=1)[:, transient_steps:].mean(dim=1, dtype=torch.float64)
