r"""What rounding alone may do to a computation: measured on the float64 loop, by noise as coarse as a format's steps.

A chaotic recurrence multiplies rounding by :math:`e^{\lambda N}`, a rectifier at its kink takes the other side, and in
float16 small gradients vanish. No number for all cells can tell that from a wrong kernel; the cell's own loop can.

.. math:: \hat a = a (1 + c\, \varepsilon\, \xi) + \nu\, \xi', \qquad \xi, \xi' \sim U(-1, 1)

of every weight once, and of all that a step hands on, forward as well as back, with ε the format's machine epsilon, ν
its smallest normal number and c = `COARSENESS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradhorizon.kernels.quantities import Draws, Quantities, relative_errors

COARSENESS = 4.0
"""Steps of the format by which a tensor moves at most, where a kernel rounds it to half a step."""
_MARGIN = 2.0  # over the worst of the draws, for sums inside a step
_NUM_DRAWS = 4
_PLAIN = 1e4

Rounded = Callable[[Tensor], Tensor]
Reference = Callable[[nn.Module, Draws, Rounded], Quantities]
"""Runs a module in float64, handing every tensor that a step hands on to the last argument first."""


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rounding: Rounding) -> Tensor:
        ctx.rounding = rounding
        return rounding.moved(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.rounding.moved(gradient), None


class Rounding:
    """Noise like a format's rounding, forward and back.

    Args:
        dtype: the format.
        seed: of the noise.
    """

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        own = torch.finfo(dtype)
        self.relative, self.absolute = COARSENESS * own.eps, own.tiny
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, tensor: Tensor) -> Tensor:
        """`tensor` with noise, and other noise on its gradient; whole numbers as they are."""
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        apply: Callable[..., Tensor] = _Moved.apply
        return apply(tensor, self)

    def moved(self, tensor: Tensor) -> Tensor:
        """`tensor` with noise."""
        return tensor * (1 + self.relative * self._noise(tensor)) + self.absolute * self._noise(tensor)

    def _noise(self, like: Tensor) -> Tensor:
        return 2 * torch.rand(like.shape, generator=self.generator, dtype=torch.float64) - 1


def rounding_limits(
    module: nn.Module,
    draws: Draws,
    expected: Quantities,
    errors: Mapping[str, float],
    dtype: torch.dtype,
    reference: Reference,
) -> dict[str, float]:
    """Quantity -> relative error that rounding to `dtype` may cause, dimensionless; infinite if it overflows.

    That is the largest of several draws, or of as many as explain all of `errors`.

    Args:
        module: on the CPU in float64; left as it is.
        draws: what it is given.
        expected: what it gives without rounding.
        errors: the same names -> the relative error that is to be explained.
        dtype: whose rounding.
        reference: runs it.
    """
    limits = dict.fromkeys(expected, 0.0)
    for seed in range(_NUM_DRAWS):
        # In float64 no rectifier is so near to its kink that one draw could miss what another shows.
        is_plain = seed > 0 and dtype == torch.float64
        if all(errors[name] <= limit or (is_plain and errors[name] > _PLAIN * limit) for name, limit in limits.items()):
            break
        rounding = Rounding(dtype, seed)
        moved = copy.deepcopy(module)
        with torch.no_grad():
            for parameter in moved.parameters():
                if parameter.is_floating_point() or parameter.is_complex():
                    parameter.copy_(rounding.moved(parameter))
        # Cotangents are exact.
        given = {name: own if "cotangent" in name else rounding.moved(own) for name, own in draws.items()}
        for name, error in relative_errors(reference(moved, given, rounding), expected).items():
            limits[name] = max(limits[name], _MARGIN * error if error < torch.inf else torch.inf)
    return limits
