"""Cells whose `segment` is not what their equation says, each wrong in one way, as a kernel may be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradhorizon.cells.cell import State
from tests.synthetic_cells import LinearRecurrence


class WrongOutput(LinearRecurrence):
    """Outputs off by one percent."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        outputs, last = super().segment(x, state, first_step)
        return outputs * 1.01, last


class WrongWhereItIsMeasured(LinearRecurrence):
    """Right while it trains; outputs twice too large in evaluation mode, in which probes run."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        outputs, last = super().segment(x, state, first_step)
        return outputs if self.training else 2 * outputs, last


class Mixing(LinearRecurrence):
    """Samples that feel their batch's mean state; `segment` and `step` agree."""

    def recur(self, projected_t: Tensor, state: State) -> State:
        (h,) = super().recur(projected_t, state)
        return (h + 0.1 * state[0].mean(dim=0),)


class Noisy(LinearRecurrence):
    """Noise that it draws anew at every step."""

    def recur(self, projected_t: Tensor, state: State) -> State:
        (h,) = super().recur(projected_t, state)
        return (h + 0.1 * torch.randn_like(h),)


class _Damp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return 0.99 * gradient


class WrongInputGradient(LinearRecurrence):
    """Right forward; the gradient of the inputs is off by one percent."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        return super().segment(_Damp.apply(x), state, first_step)


class NotANumber(LinearRecurrence):
    """Outputs that are NaN."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        outputs, last = super().segment(x, state, first_step)
        return outputs * float("nan"), last


class Raising(LinearRecurrence):
    """A mistake in the code."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:  # noqa: ARG002
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


class FullPrecisionOnly(LinearRecurrence):
    """Right, with a kernel for 32 and 64 bits alone."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        if x.dtype in (torch.float16, torch.bfloat16):
            raise RuntimeError(f"\"scan_cpu\" not implemented for '{x.dtype}'")
        return super().segment(x, state, first_step)


class Unsupported(LinearRecurrence):
    """No kernel for any dtype."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        raise NotImplementedError(f"\"scan_cpu\" not implemented for '{x.dtype}'")


class Overflowing(LinearRecurrence):
    """Right, but no number survives fifty steps."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, spectral_radius=1e30)
