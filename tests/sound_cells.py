"""Cells with unusual habits that are measured as what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, hardsigmoid, relu6
from torch.nn.utils import parametrizations

from gradhorizon.cells.cell import Recurrent, State
from tests.odd_cells import Plain, Two


class ComplexDiagonal(Recurrent):
    """s_t = λ ⊙ s_{t−1} + W x_t with complex λ of modulus 0.99, a parameter; the state is a pair of reals."""

    def __init__(self, input_size: int, hidden_size: int, is_trained: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        phase = torch.linspace(0.2, 1.0, hidden_size) * math.pi * 0.9
        eigenvalues = torch.polar(torch.full((hidden_size,), 0.99), phase)
        if is_trained:
            self.eigenvalues = nn.Parameter(eigenvalues)
        else:
            self.register_buffer("eigenvalues", eigenvalues)
        self.inp = nn.Linear(input_size, hidden_size)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"re": (self.hidden_size,), "im": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return self.inp(x)

    def recur(self, projected_t: Tensor, state: State) -> State:
        reached = self.eigenvalues * torch.complex(*state) + projected_t
        return reached.real, reached.imag

    def recurrent_weights(self) -> dict[str, Tensor]:
        return {"eigenvalues": torch.diag(self.eigenvalues)}


class ComplexBuffer(ComplexDiagonal):
    """The same with λ fixed."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, is_trained=False)


class LeakyMean(Recurrent):
    """h_t = 0.9 h_{t−1} + mean(x_t): no parameter at all."""

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x.mean(-1, keepdim=True).expand(*x.shape[:2], self.hidden_size)

    def recur(self, projected_t: Tensor, state: State) -> State:
        return (0.9 * state[0] + projected_t,)


class ForgetsAtOnce(Plain):
    """No dependence on the state, by its equation."""

    def recur(self, projected_t: Any, state: State) -> Any:  # noqa: ARG002
        return (torch.tanh(projected_t),)


class ScalesByConstants(Plain):
    """Scalars and vectors made in float32, which promote to the format of the state."""

    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, torch.tensor(0.5) * state[0] * torch.linspace(0.5, 1, self.hidden_size)),)


class MasksByComparison(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0] * (state[0] > 0).float()),)


class HasKinks(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        (h,) = state
        gate = hardsigmoid(projected_t + self.rec(h))
        return (torch.maximum(gate * h + (1 - gate) * relu6(projected_t), h.abs() * 0.5),)


class FillsACache(Plain):
    """A table per length and a mask, made at the first call."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.tables: dict[int, Tensor] = {}
        self.mask: Tensor | None = None

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        if x.shape[1] not in self.tables:
            self.tables[x.shape[1]] = torch.ones(1, x.shape[1], 1, dtype=torch.float64)
        return self.inp(x) * self.tables[x.shape[1]].to(x.dtype)

    def recur(self, projected_t: Any, state: State) -> Any:
        if self.mask is None:
            self.mask = torch.ones(self.hidden_size)
        return (self.new(projected_t, state[0] * self.mask),)


class ShowsItsLastState(Plain):
    """Every call overwrites what was kept for inspection, with the same."""

    def recur(self, projected_t: Any, state: State) -> Any:
        new = self.new(projected_t, state[0])
        self.last = new.detach()
        return (new,)


class AssertsItsState(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        assert torch.isfinite(state[0]).all()
        if torch.isnan(state[0]).any():
            raise ValueError("NaN")
        return (self.new(projected_t, state[0]),)


class ReadsItsOwnFlag(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.register_buffer("is_on", torch.tensor(True))

    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0]) if self.is_on else state[0],)


class WritesIntoItsOwn(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        new = self.rec(state[0])
        new += projected_t
        return (new.tanh_(),)


class Dropout(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, dropout(state[0], 0.3, self.training)),)


class Zoneout(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        (h,) = state
        new = self.new(projected_t, h)
        if self.training:
            return (torch.where(torch.rand_like(h) < 0.1, h, new),)
        return (0.1 * h + 0.9 * new,)


class ShiftRegister(Plain):
    """Memory cells behind a rectifier: kinks where they are still empty."""

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"memory": (9, self.hidden_size)}

    def recur(self, projected_t: Any, state: State) -> Any:
        (memory,) = state
        new = torch.relu(projected_t + self.rec(torch.relu(memory[:, -1])))
        return (torch.cat([new.unsqueeze(1), memory[:, :-1]], dim=1),)

    def output(self, projected_t: Any, state: State) -> Tensor:  # noqa: ARG002
        return state[0][:, 0]


class BatchNormed(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.norm = nn.BatchNorm1d(hidden_size)

    def new(self, drive: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(drive + self.norm(self.rec(h)))


class BatchNormedBias(BatchNormed):
    """The gradient of its bias is 0, of which rounding leaves some."""

    def new(self, drive: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.norm(drive + self.rec(h)))


class WeightNormed(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec = parametrizations.weight_norm(self.rec)


class SpectrallyNormed(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec = parametrizations.spectral_norm(self.rec)


class OrthogonalCayley(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec = parametrizations.orthogonal(self.rec, orthogonal_map="cayley")


class Frozen(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.requires_grad_(requires_grad=False)


class TiesItsWeights(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.again = nn.Linear(hidden_size, hidden_size, bias=False)
        self.again.weight = self.rec.weight

    def new(self, drive: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(drive + self.rec(h) + 0.1 * self.again(h))


class LearnsItsStart(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.start = nn.Parameter(torch.randn(hidden_size))

    def initial_state(self, batch_size: int) -> State:
        return (self.start.expand(batch_size, -1),)


class MakesItsWeights(Plain):
    """A hypernetwork: a low-rank part scaled by the state."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.make = nn.Linear(hidden_size, 2)
        self.u = nn.Parameter(torch.randn(hidden_size, 2) / 8)
        self.v = nn.Parameter(torch.randn(2, hidden_size) / 8)

    def new(self, drive: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(drive + self.rec(h) + ((h @ self.u) * torch.tanh(self.make(h))) @ self.v)


SOUND: tuple[type[Recurrent], ...] = (
    ComplexDiagonal,
    ComplexBuffer,
    LeakyMean,
    ForgetsAtOnce,
    ScalesByConstants,
    MasksByComparison,
    HasKinks,
    FillsACache,
    ShowsItsLastState,
    AssertsItsState,
    ReadsItsOwnFlag,
    WritesIntoItsOwn,
    Dropout,
    Zoneout,
    ShiftRegister,
    BatchNormed,
    BatchNormedBias,
    WeightNormed,
    SpectrallyNormed,
    OrthogonalCayley,
    Frozen,
    TiesItsWeights,
    LearnsItsStart,
    MakesItsWeights,
    Plain,
    Two,
)
"""Cells that must pass, and whose gradients are right."""


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, potential: Tensor) -> Tensor:
        ctx.save_for_backward(potential)
        return (potential > 0).to(potential.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / (1 + 10 * ctx.saved_tensors[0].abs()) ** 2


class Spikes(Two):
    """Integrate and fire, with a surrogate gradient."""

    def recur(self, projected_t: Any, state: State) -> Any:
        spike, potential = state
        potential = 0.9 * potential + projected_t + self.rec(spike) - spike
        return _Spike.apply(potential - 0.3), potential


class StraightThrough(Plain):
    """Rounded forward, as if it were not in the backward pass."""

    def recur(self, projected_t: Any, state: State) -> Any:
        new = self.new(projected_t, state[0])
        return (new + (torch.round(new) - new).detach(),)


class ChoosesOneUnit(Plain):
    """`one_hot` asks whether its indices are in their range, which is no branch on a value."""

    def recur(self, projected_t: Any, state: State) -> Any:
        chances = torch.softmax(self.new(projected_t, state[0]), dim=1)
        chosen = nn.functional.one_hot(chances.argmax(dim=1), self.hidden_size)
        return (chosen - chances.detach() + chances,)


SURROGATES: tuple[type[Recurrent], ...] = (Spikes, StraightThrough, ChoosesOneUnit)
"""Cells whose gradient is another function's, on purpose."""
