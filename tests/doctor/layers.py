"""Layers without a step: one that is right, and the same with one habit or fault each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Layer

CHUNK = 16


class Averaging(Layer):
    """y_t = tanh(W Σ_{k ≤ t} 0.9^{t−k} x_k), all steps at once; right and causal."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.affine = nn.Linear(input_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        lag = torch.arange(x.shape[1], device=x.device)
        lag = lag[:, None] - lag
        weights = torch.where(lag >= 0, 0.9 ** lag.clamp(min=0).to(x.dtype), 0.0).to(x.dtype)
        return self.nonlinear(self.affine(self.mixed(weights, x)))

    def mixed(self, weights: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("ts,bsd->btd", weights, x)

    def nonlinear(self, drive: Tensor) -> Tensor:
        return torch.tanh(drive)

    def step(self, x_t: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor]:
        """Its recurrent mode."""
        cache = x_t if cache is None else 0.9 * cache + x_t
        return torch.tanh(self.affine(cache)), cache


def zeros(module: Averaging, batch_size: int) -> Tensor:
    """A cache to begin with."""
    return module.affine.weight.new_zeros(batch_size, module.input_size)


class Rectified(Averaging):
    """Right, with kinks."""

    def nonlinear(self, drive: Tensor) -> Tensor:
        return torch.relu(drive) - 0.1


class Both(Averaging):
    """Right, and not causal."""

    def mixed(self, weights: Tensor, x: Tensor) -> Tensor:
        return super().mixed(weights + weights.T, x)


class InChunks(Averaging):
    """Right, and refuses what is no multiple of a chunk."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % CHUNK:
            raise ValueError(f"steps must be a multiple of {CHUNK}, got {x.shape[1]}")
        return super().forward(x)


class MixesHalves(Averaging):
    """Raises in half precision, where it meets a float32 constant."""

    def mixed(self, weights: Tensor, x: Tensor) -> Tensor:
        return super().mixed(weights.float() if weights.dtype.itemsize == 2 else weights, x)


class CrashesBeyondAChunk(Averaging):
    def mixed(self, weights: Tensor, x: Tensor) -> Tensor:
        return super().mixed(weights[:CHUNK, :CHUNK], x)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, rest: int) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.rest = rest
        return torch.einsum("ts,bsd->btd", weights, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weights,) = ctx.saved_tensors
        found = torch.einsum("ts,btd->bsd", weights, gradient)
        if ctx.rest < found.shape[1]:
            found = torch.cat([found[:, : ctx.rest], torch.zeros_like(found[:, ctx.rest :])], dim=1)
        return None, found, None


class LosesTheRest(Averaging):
    """Steps beyond the last full chunk get no gradient."""

    def mixed(self, weights: Tensor, x: Tensor) -> Tensor:
        num_steps = x.shape[1]
        rest = num_steps - num_steps % CHUNK if num_steps > CHUNK else num_steps
        made: Tensor = _Adjoint.apply(weights, x, rest)
        return made


class ForgetsItsBias(Averaging):
    """Its bias moves the outputs, and gets no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        made = super().forward(x)
        return made + 0.1 * self.affine.bias.detach()


class DetachesTheFirst(Averaging):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x[:, :1].detach(), x[:, 1:]], dim=1))


class Normalises(Averaging):
    """Divides by the number of steps."""

    def mixed(self, weights: Tensor, x: Tensor) -> Tensor:
        return super().mixed(weights, x) / x.shape[1]


class Branches(Averaging):
    def nonlinear(self, drive: Tensor) -> Tensor:
        return torch.tanh(drive) if float(drive.mean()) > 0 else torch.tanh(drive) * 1.5


class KeepsAMean(Averaging):
    seen: Tensor | None = None

    def nonlinear(self, drive: Tensor) -> Tensor:
        before = 0.0 if self.seen is None else self.seen
        self.seen = before + drive.detach().mean()
        return torch.tanh(drive + 0.01 * self.seen)


class MixesSamples(Averaging):
    def nonlinear(self, drive: Tensor) -> Tensor:
        return torch.tanh(drive - drive.mean(dim=0))


class Overwrites(Averaging):
    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return super().forward(x)
        return super().forward(x.mul_(0.5))


class ComputesInFloat32(Averaging):
    def nonlinear(self, drive: Tensor) -> Tensor:
        return torch.tanh(drive.float()).to(drive.dtype)


class Rounds(Averaging):
    """A straight-through estimator."""

    def nonlinear(self, drive: Tensor) -> Tensor:
        return drive + (torch.round(drive) - drive).detach()


class ShrinksItself(Averaging):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 1:]


class WrongInFloat16(Averaging):
    def nonlinear(self, drive: Tensor) -> Tensor:
        return torch.tanh(drive) * (1.1 if drive.dtype == torch.float16 else 1.0)


class WrongAlone(Averaging):
    def nonlinear(self, drive: Tensor) -> Tensor:
        return torch.tanh(drive) * (1.1 if len(drive) == 1 else 1.0)


class StepsLate(Averaging):
    """Its recurrent mode reads the input before; as a scan and a step of other conventions do."""

    def step(self, x_t: Tensor, cache: Any) -> Any:
        made, following = super().step(x_t, cache)
        return (made if cache is None else torch.tanh(self.affine(cache))), following


class LosesTheRestBesideItsStep(LosesTheRest):
    """Outputs agree with the recurrent mode, gradients do not."""
