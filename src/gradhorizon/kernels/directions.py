r"""Autograd's gradient of a loss held against difference quotients along a random direction.

.. math:: \frac{L(z + h v) - L(z - h v)}{2h} \to \langle \nabla L, v \rangle

Quotients at several h say how far they can be trusted: those that agree with one another, and at which the one-sided
ones agree too (no kink), refute a gradient that none of them agrees with.

Notation: z all tensors that are moved, v the direction, h the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Loss = Callable[[Sequence[Tensor]], Tensor]
"""Tensors -> a number, the terms of its sum being the entries of what is returned."""

_STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # the more rectifiers, the smaller a step that takes none across its kink
_AGREES = 1e-6  # of the slope's size, were its terms added as a random walk
_CONVERGED = 0.1  # share of the gap that quotients may differ by, and the one-sided ones, to refute a gradient
_ROUNDING = 16.0  # units of roundoff of each term
_RESOLVED = 1e-3  # of the slope's size: a quotient in which rounding is larger says nothing


@dataclass(frozen=True)
class Slope:
    """One directional derivative twice.

    Attributes:
        verdict: pass, FAIL, or untested where the quotients say nothing (kinks, rounding, chaos).
        by_autograd: ⟨∇L, v⟩.
        by_differences: the quotient at the smallest step.
    """

    verdict: str
    by_autograd: float
    by_differences: float


def compare_slope(loss: Loss, at: Sequence[Tensor], seed: int) -> Slope:
    """The slope of `loss` along a random direction, by autograd and by differences.

    Args:
        loss: in float64, always the same of the same.
        at: z; each tensor moves by as much as it is large.
        seed: of the direction.
    """
    generator = torch.Generator().manual_seed(seed)
    points = [own.detach().requires_grad_() for own in at]
    terms = loss(points)
    gradients = torch.autograd.grad(terms.sum(), points, materialize_grads=True)
    direction = [_direction(own.detach(), generator) for own in points]
    products = [(gradient.conj() * by).real for gradient, by in zip(gradients, direction, strict=True)]
    slope = float(sum(own.sum() for own in products))
    size = float(torch.stack([own.square().sum() for own in products]).sum().sqrt())
    rounding = _ROUNDING * torch.finfo(torch.float64).eps * float(terms.detach().abs().sum())
    here = float(terms.detach().sum())
    quotients = []
    for step in _STEPS:
        ahead, behind = (_moved(loss, points, direction, sign * step) for sign in (1, -1))
        quotients.append(((ahead - behind) / (2 * step), abs(ahead - 2 * here + behind) / step, rounding / step))
    return Slope(_verdict(slope, size, quotients), slope, quotients[-1][0])


def _direction(tensor: Tensor, generator: torch.Generator) -> Tensor:
    scale = tensor.abs().max() if bool((tensor != 0).any()) else 1.0
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return scale * noise.to(tensor.dtype)


def _moved(loss: Loss, points: Sequence[Tensor], direction: Sequence[Tensor], step: float) -> float:
    # With gradients on, so that the same kernels run.
    ends = [(own.detach() + step * by).requires_grad_() for own, by in zip(points, direction, strict=True)]
    return float(loss(ends).detach().sum())


def _verdict(slope: float, size: float, quotients: Sequence[tuple[float, float, float]]) -> str:
    gaps = [abs(quotient - slope) for quotient, _, _ in quotients]
    limits = [_AGREES * size + rounding for _, _, rounding in quotients]
    if any(gap <= limit <= _RESOLVED * size for gap, limit in zip(gaps, limits, strict=True)) or not any((*gaps, size)):
        return "pass"
    for (far, _, _), (near, kink, rounding) in pairwise(quotients):
        gap = abs(near - slope)
        if max(abs(far - near), kink) <= _CONVERGED * gap and rounding <= _CONVERGED * gap:
            return "FAIL"
    return "untested"
