r"""Autograd's derivatives of one step held against finite differences, entry by entry.

.. math:: \frac{f(z + h e_j) - f(z - h e_j)}{2h} = \frac{\partial f}{\partial z_j} + O(h^2)

at h and h/2, whose difference is the error; where the one-sided differences disagree the function has a kink, and
nothing is compared.

Notation: z all that a step is given, flattened; M samples, K entries of z, R entries of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

Map = Callable[[Tensor], Tensor]
"""Samples of z, shape (M, K) -> results, shape (M, R); no sample feels another."""

_STEP = 1e-5  # about eps^(1/3): truncation and rounding of a central difference both err by about 1e-10
_KINK = 1e-2
_LEAST = 1e-7  # of the largest derivative: smaller ones are not told from rounding
_MARGIN = 10.0


@dataclass(frozen=True)
class Derivatives:
    """The same derivatives twice, for some entries of z and of the result.

    Attributes:
        columns: indices of the entries of z.
        by_autograd: ∂f/∂z, shape (rows, columns).
        by_differences: the same.
        is_wrong: where they differ by more than both can err.
        has_function: whether the graph holds an ``autograd.Function`` of somebody's own.
    """

    columns: Sequence[int]
    by_autograd: Float[Tensor, "r c"]
    by_differences: Float[Tensor, "r c"]
    is_wrong: Bool[Tensor, "r c"]
    has_function: bool


def compare_derivatives(
    function: Map, point: Float[Tensor, " K"], rows: Sequence[int], columns: Sequence[int]
) -> Derivatives:
    """Derivatives of `function` at `point`, by autograd and by differences.

    Args:
        function: the map, in float64.
        point: z.
        rows: entries of the result.
        columns: entries of z.
    """
    differences, error = _differences(function, point, columns)
    differences, error = differences[list(rows)], error[list(rows)]
    gradients, has_function = _gradients(function, point, rows)
    gradients = gradients[:, list(columns)]
    scale = torch.where(differences.isfinite(), differences, 0).abs().max()
    is_wrong = (gradients - differences).abs() > _MARGIN * error + _LEAST * scale
    return Derivatives(list(columns), gradients, differences, is_wrong, has_function)


def _differences(function: Map, point: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Richardson's extrapolation of central differences, and a bound on its error: infinite at a kink."""
    step = _STEP * max(1.0, float(point.abs().max()))
    shifts = torch.zeros(len(columns), len(point), dtype=point.dtype, device=point.device)
    shifts[torch.arange(len(columns)), list(columns)] = step
    with torch.no_grad():
        samples = torch.cat([point + factor * shifts for factor in (1, -1, 0.5, -0.5)] + [point[None]])
        plus, minus, half_plus, half_minus, (here,) = function(samples).split([*[len(columns)] * 4, 1])
    wide, narrow = (plus - minus) / (2 * step), (half_plus - half_minus) / step
    kink = ((plus - here) - (here - minus)).abs() / step
    rounding = torch.finfo(point.dtype).eps * here.abs().clamp(min=1) / step
    error = (wide - narrow).abs() + rounding
    # A NaN compares as false: what cannot be differenced is not judged.
    is_smooth = kink <= _KINK * (wide.abs() + rounding) + _MARGIN * rounding
    return ((4 * narrow - wide) / 3).T, torch.where(is_smooth, error, torch.inf).T


def _gradients(function: Map, point: Tensor, rows: Sequence[int]) -> tuple[Tensor, bool]:
    samples = point.repeat(len(rows), 1).requires_grad_()
    with torch.enable_grad():
        results = function(samples)
        if not results.requires_grad:
            return torch.zeros_like(samples), False
        has_function = any(isinstance(node, BackwardCFunction) for node in graph_nodes(results))
        picked = results[torch.arange(len(rows)), list(rows)].sum()
        (gradients,) = torch.autograd.grad(picked, samples, materialize_grads=True)
    return gradients, has_function


def graph_nodes(end: Tensor) -> Iterator[Node]:
    """Everything that has computed `end` since its leaves, as autograd keeps it, each once."""
    waiting, seen = [end.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            yield node
