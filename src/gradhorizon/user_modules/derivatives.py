r"""Whether autograd's gradient is the derivative of what is computed, at the precision that was asked for.

A state that is detached, a `.numpy()`, a hook that clips: each leaves a gradient that is finite, plausible and wrong.
So the losses are moved by small steps, and what they do is held against what the gradient says.

Notation: B batch, R rows (steps, or one), F features; L_b loss of one sample, G its gradient, u unit of roundoff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.kernels.derivatives import graph_nodes

LossesOf = Callable[..., Tensor]
Moved = Callable[[Sequence[Tensor]], Tensor]

_JITTER = 1e-2
_FAR, _NEAR = 1e-2, 1e-4
_WEAKEST = 1e-4
"""Steps whose gradient is as small as that, against the largest, are moved as far as those below them."""
_CONVERGED, _WRONG = 1e-4, 1e-3
"""Difference quotients that agree to the first with one another, and to the second with no gradient, refute it."""
_ROUNDING = 64.0
"""Units of roundoff by which a loss that feels nothing might move."""


def refuse_lower_precision(losses: Tensor, outputs: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Refuse a computation that leaves `dtype` on the way from the outputs, or from the inputs, to the losses.

    Args:
        losses: with their graph.
        outputs: what the module returned.
        dtype: the format of the inputs.

    Raises:
        ValueError: a tensor of lower precision that a gradient passes through.
    """
    advice = "; drop the cast (`.float()`, `.half()`, autocast), or pass dtype={}, the format it computes in"
    for where, tensors in (("the module", [own for own in outputs if own.requires_grad]), ("`loss`", [losses])):
        for found in (found for tensor in tensors for found in _formats(tensor)):
            if torch.finfo(found).eps > torch.finfo(dtype).eps:
                raise ValueError(
                    f"{where} must compute in {dtype} from its inputs on, got {found} on the way of the gradient"
                    + (advice.format(found) if where == "the module" else "; convert targets by `.to(outputs)`")
                )


def _formats(end: Tensor) -> Iterator[torch.dtype]:
    yield end.dtype
    for node in graph_nodes(end):
        # Not documented, but the only place where the graph says its formats; leaves compute nothing.
        for own in getattr(node, "_input_metadata", ()) if node.next_functions else ():
            if own.dtype.is_floating_point or own.dtype.is_complex:
                yield own.dtype


def refuse_untrue_gradient(losses_of: LossesOf, at: Sequence[Float[Tensor, "B _ _"]], rows: str) -> None:
    r"""Refuse losses whose gradient is not their derivative.

    Two things are held against difference quotients: rows whose gradient is exactly 0 must not move the loss, and one
    direction in which all other rows weigh alike, :math:`\langle G, v \rangle`. Where rounding, a kink or chaos leaves
    the quotients undecided, nothing is refused.

    Args:
        losses_of: losses, shape (B,), of tensors like those in `at`; samples must not interact.
        at: where; the check is made close by, since ReLU has no derivative at 0, where inputs often are.
        rows: what the rows are, in words.

    Raises:
        ValueError: a gradient that is 0, or another one, where the loss moves.
    """
    if torch.finfo(at[0].dtype).eps > torch.finfo(torch.float32).eps:
        return
    generator = torch.Generator().manual_seed(0)
    points = [_close_by(own, generator).requires_grad_() for own in at]
    losses = losses_of(*points)
    if losses.requires_grad:
        found = torch.autograd.grad(losses.sum(), points, materialize_grads=True)
    else:
        found = tuple(map(torch.zeros_like, points))
    points = [own.detach() for own in points]

    def moved(steps: Sequence[Tensor]) -> Tensor:
        # With gradients on, so that the same kernels run.
        ends = [(own + by).requires_grad_() for own, by in zip(points, steps, strict=True)]
        return losses_of(*ends).detach()

    _refuse_unfelt(moved, losses.detach(), points, found, rows, generator)
    if losses.dtype == torch.float64:  # elsewhere too few digits are left
        _refuse_other_derivative(moved, losses.detach(), points, found, generator)


def _scale(tensor: Tensor) -> Tensor:
    largest = tensor.detach().abs().amax(dim=(1, 2), keepdim=True)
    return torch.where(largest > 0, largest, 1.0)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device="cpu").to(like.device)


def _close_by(tensor: Tensor, generator: torch.Generator) -> Tensor:
    # Signs stay, so that a logarithm or a root keeps its domain.
    size = torch.where(tensor == 0, _scale(tensor), tensor).detach()
    return (tensor.detach() + _JITTER * size * (0.5 + _noise(size, generator))).contiguous()


def _refuse_unfelt(
    moved: Moved,
    losses: Tensor,
    points: Sequence[Tensor],
    gradients: Sequence[Tensor],
    rows: str,
    generator: torch.Generator,
) -> None:
    is_unfelt = [(gradient == 0).all(dim=2, keepdim=True) for gradient in gradients]
    if not any(bool(own.any()) for own in is_unfelt):
        return
    rounding = _ROUNDING * torch.finfo(losses.dtype).eps * losses.abs()
    step = [
        _scale(own) * (0.5 + _noise(own, generator)) * unfelt for own, unfelt in zip(points, is_unfelt, strict=True)
    ]
    far, near = ((moved([size * by for by in step]) - losses).abs() > rounding for size in (_FAR, _NEAR))
    if bool((far & near).any()):
        raise ValueError(
            f"the gradient must be that of the loss, got 0 at {rows} that move it; look for `.detach()`, `.data`, "
            "`no_grad` or numpy inside, or pass has_surrogate_gradients=True if that is meant"
        )


def _refuse_other_derivative(
    moved: Moved,
    losses: Tensor,
    points: Sequence[Tensor],
    gradients: Sequence[Tensor],
    generator: torch.Generator,
) -> None:
    direction, expected, size = _direction(points, gradients, generator)
    roundoff = torch.finfo(losses.dtype).eps
    quotients, is_resolved = [], []
    for step in (roundoff ** (1 / 5), roundoff ** (1 / 4), roundoff ** (1 / 3)):
        ahead, behind = (moved([sign * step * by for by in direction]) for sign in (1, -1))
        quotients.append((ahead - behind) / (2 * step))
        is_resolved.append(step * size > 1e3 * _ROUNDING * roundoff * losses.abs())
    errors = torch.stack([(own - expected).abs() for own in quotients])
    agrees = (errors <= _WRONG * size).any(dim=0)
    refuted = torch.zeros_like(agrees)
    for far, near, resolved in zip(quotients, quotients[1:], is_resolved[1:], strict=False):
        refuted |= resolved & ((far - near).abs() <= _CONVERGED * torch.maximum(far.abs(), near.abs()))
    is_wrong = refuted & ~agrees & errors.isfinite().all(dim=0)
    if bool(is_wrong.any()):
        sample = int(is_wrong.nonzero()[0])
        raise ValueError(
            f"the gradient must be that of the loss, got a slope of {float(expected[sample]):.4g} by autograd and "
            f"{float(quotients[-1][sample]):.4g} by differences; look for `.detach()`, `.data` or a hook inside, or "
            "pass has_surrogate_gradients=True if that is meant (spikes, straight-through rounding)"
        )


def _direction(
    points: Sequence[Tensor], gradients: Sequence[Tensor], generator: torch.Generator
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Steps for each point, what the losses should do by them, and the sum of what each row should do, unsigned."""
    largest = torch.stack([own.abs().amax(dim=(1, 2)) for own in gradients]).amax(dim=0)[:, None, None]
    largest = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    steps, expected, size = [], [], []
    for point, gradient in zip(points, gradients, strict=True):
        relative = gradient / largest
        norm = relative.norm(dim=2, keepdim=True)
        # Sums of squares of what is left after the division vanish only where nothing was.
        weight = torch.where(norm > 0, _WEAKEST / norm.clamp_min(_WEAKEST), 0.0)
        aimed = relative / torch.where(norm > 0, norm, 1.0) + 2 * _noise(relative, generator) - 1
        step = _scale(point) * weight * aimed
        steps.append(step)
        expected.append((gradient * step).sum(dim=(1, 2)))
        size.append((gradient * step).sum(dim=2).abs().sum(dim=1))
    return steps, torch.stack(expected).sum(dim=0), torch.stack(size).sum(dim=0)
