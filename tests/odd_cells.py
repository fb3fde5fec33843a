"""Cells as people write them, each with one habit: those that a measurement must refuse, and those that it must not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from gradhorizon.cells.cell import Recurrent, State


class Plain(Recurrent):
    """h_t = tanh(W x_t + b + U h_{t−1})."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.inp = nn.Linear(input_size, hidden_size)
        self.rec: Any = nn.Linear(hidden_size, hidden_size, bias=False)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Any:  # noqa: ARG002
        return self.inp(x)

    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0]),)

    def new(self, drive: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(drive + self.rec(h))


class Two(Plain):
    """A memory c beside h."""

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,), "c": (self.hidden_size,)}

    def recur(self, projected_t: Any, state: State) -> Any:
        h, c = state
        c = 0.9 * c + self.new(projected_t, h)
        return torch.tanh(c), c


# --- what is kept between calls


class CountsInABuffer(Plain):
    def __init__(self, input_size: int, hidden_size: int, period: int = 4) -> None:
        super().__init__(input_size, hidden_size)
        self.period = period
        self.count: Tensor
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def recur(self, projected_t: Any, state: State) -> Any:
        self.count += 1
        return (self.new(projected_t, state[0]) if int(self.count) % self.period == 0 else state[0],)


class CountsInAList(Plain):
    def __init__(self, input_size: int, hidden_size: int, period: int = 3) -> None:
        super().__init__(input_size, hidden_size)
        self.period = period
        self.clock = [0]

    def recur(self, projected_t: Any, state: State) -> Any:
        self.clock[0] += 1
        new = self.new(projected_t, state[0])
        return (new if self.clock[0] % self.period == 0 else 0.9 * state[0] + 0.1 * new,)


class CountsModulo(Plain):
    """Its attribute is what it was after any multiple of the period."""

    def __init__(self, input_size: int, hidden_size: int, period: int = 12) -> None:
        super().__init__(input_size, hidden_size)
        self.period, self.phase = period, 0

    def recur(self, projected_t: Any, state: State) -> Any:
        self.phase = (self.phase + 1) % self.period
        return (self.new(projected_t, state[0]) if self.phase == 0 else state[0] + 0 * projected_t,)


class CountsOnItsClass(Plain):
    calls = 0

    def recur(self, projected_t: Any, state: State) -> Any:
        type(self).calls += 1
        return (self.new(projected_t, state[0]) * (0.5 if type(self).calls % 2 else 1.0),)


class CountsOnASubmodule(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec.notes = {"calls": [0]}

    def recur(self, projected_t: Any, state: State) -> Any:
        notes: Any = self.rec.notes
        notes["calls"][0] += 1
        return (self.new(projected_t, state[0]) * (0.5 if notes["calls"][0] % 2 else 1.0),)


class CountsByAnIterator(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.steps = itertools.count()

    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0]) * (0.5 if next(self.steps) % 2 else 1.0),)


class SetsItsClockInProject(Plain):
    """Right in one forward pass over a sequence, wrong wherever `recur` is called by itself."""

    clock = 0

    def project(self, x: Tensor, first_step: int = 0) -> Any:
        self.clock = first_step
        return self.inp(x)

    def recur(self, projected_t: Any, state: State) -> Any:
        self.clock += 1
        return (self.new(projected_t, state[0]) if self.clock % 3 == 0 else state[0] + 0 * projected_t,)


class SetsItsClockAtTheStart(SetsItsClockInProject):
    def project(self, x: Tensor, first_step: int = 0) -> Any:  # noqa: ARG002
        return self.inp(x)

    def initial_state(self, batch_size: int) -> State:
        self.clock = 0
        return super().initial_state(batch_size)


class KeepsItsState(Plain):
    """A stateful layer: what the last call reached is where the next one begins."""

    h: Tensor | None = None

    def recur(self, projected_t: Any, state: State) -> Any:
        before = self.h if self.h is not None and self.h.shape == state[0].shape else torch.zeros_like(state[0])
        new = self.new(projected_t, state[0] + 0.1 * before)
        self.h = new.detach()
        return (new,)


class KeepsAHistory(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.history: list[Tensor] = []

    def recur(self, projected_t: Any, state: State) -> Any:
        self.history.append(self.new(projected_t, state[0]).detach())
        return (self.history[-1] + 0 * self.new(projected_t, state[0]),)


class KeepsAComputedWeight(Plain):
    """Computed once per segment, and left on the module with its graph: no copy can be made of it."""

    def project(self, x: Tensor, first_step: int = 0) -> Any:  # noqa: ARG002
        self.computed = torch.tanh(self.rec.weight)
        return self.inp(x)

    def recur(self, projected_t: Any, state: State) -> Any:
        return (torch.tanh(projected_t + state[0] @ self.computed.T),)


class DrawsFromItsOwnGenerator(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.random = np.random.default_rng(0)

    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0]) + 0.1 * self.random.normal(),)


class DrawsItsStart(Plain):
    def initial_state(self, batch_size: int) -> State:
        return (torch.randn(batch_size, self.hidden_size, dtype=self.inp.weight.dtype),)


# --- what is changed in place


class ScalesItsState(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        h = state[0].mul_(0.5)
        return (h + 0.5 * self.new(projected_t, h),)


class AddsToItsMemory(Two):
    def recur(self, projected_t: Any, state: State) -> Any:
        c = state[1].mul_(0.9).add_(self.new(projected_t, state[0]))
        return torch.tanh(c), c


class RectifiesItsState(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, torch.relu_(state[0])),)


class ZeroesAUnit(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        (h,) = state
        h[:, 0] = 0
        return (self.new(projected_t, h),)


class WritesBehindAutograd(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        state[0].data.mul_(0.5)
        return (self.new(projected_t, state[0]),)


class ClampsItsInput(Plain):
    def project(self, x: Tensor, first_step: int = 0) -> Any:  # noqa: ARG002
        return self.inp(x.clamp_(-0.5, 0.5))


class AddsToItsDrive(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        projected_t += self.rec(state[0])
        return (torch.tanh(projected_t),)


class ScalesInItsOutput(Plain):
    def output(self, projected_t: Any, state: State) -> Tensor:  # noqa: ARG002
        return state[0].mul_(2)


# --- what leaves float64


class MakesAFloat32Matrix(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (torch.tanh(projected_t + state[0] @ torch.eye(self.hidden_size)),)


class RoundsItsState(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0].float().to(projected_t.dtype)),)


class RoundsToHalf(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0]).half().to(projected_t.dtype),)


class RoundsToComplex64(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        turned = state[0].to(torch.complex64) * 1j
        return (self.new(projected_t, turned.imag.to(projected_t.dtype)),)


class RoundsItsInput(Plain):
    def project(self, x: Tensor, first_step: int = 0) -> Any:  # noqa: ARG002
        return self.inp(x.float().to(x.dtype))


class _RoundsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient.float().to(gradient.dtype)


class RoundsItsGradient(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, _RoundsBackward.apply(state[0])),)


class StartsInFloat32(Plain):
    def initial_state(self, batch_size: int) -> State:
        return (torch.zeros(batch_size, self.hidden_size),)


# --- what autograd does not see


class Detaches(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0].detach()),)


class TakesData(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0].data),)


class RecursWithoutGradient(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        with torch.no_grad():
            felt = self.rec(state[0])
        return (torch.tanh(projected_t + felt),)


class GoesThroughNumpy(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, torch.from_numpy(state[0].detach().numpy().copy())),)


class DetachesItsMemory(Two):
    def recur(self, projected_t: Any, state: State) -> Any:
        return super().recur(projected_t, (state[0], state[1].detach()))


class DetachesInAGate(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        (h,) = state
        gate = torch.sigmoid(self.rec(h.detach()))
        return (gate * h + (1 - gate) * self.new(projected_t, h),)


class DetachesOneUnit(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        (h,) = state
        return (self.new(projected_t, torch.cat([h[:, :1].detach(), h[:, 1:]], dim=1)),)


class DetachesHalf(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        (h,) = state
        return (self.new(projected_t, 0.5 * h + 0.5 * h.detach()),)


class DetachesItsInput(Plain):
    def project(self, x: Tensor, first_step: int = 0) -> Any:  # noqa: ARG002
        return self.inp(x.detach())


class DetachesEveryTenth(Plain):
    """Truncation by the clock."""

    def project(self, x: Tensor, first_step: int = 0) -> Any:
        clock = torch.arange(first_step + 1, first_step + 1 + x.shape[1]).expand(len(x), -1)
        return self.inp(x), (clock % 10 == 0).unsqueeze(-1)

    def recur(self, projected_t: Any, state: State) -> Any:
        drive, is_cut = projected_t
        return (self.new(drive, torch.where(is_cut, state[0].detach(), state[0])),)


class DetachesWhileItTrains(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0].detach() if self.training else state[0]),)


# --- what is read, mixed, or not of the contract's form


class Branches(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        (h,) = state
        return (self.new(projected_t, h * 0.5 if h.abs().mean() > 0.3 else h),)


class ReadsAValue(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0]) * float(1 + state[0].square().mean()),)


class MixesBehindAutograd(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0]) + 0.1 * state[0].mean(dim=0).detach(),)


class NotANumberAtOnce(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        zero = (state[0] * 0).sum(-1, keepdim=True)
        return (self.new(projected_t, state[0]) + zero / zero,)


class ReturnsATensor(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return self.new(projected_t, state[0])


class NestsItsState(Two):
    def initial_state(self, batch_size: int) -> Any:
        h, c = super().initial_state(batch_size)
        return (h, (c, c))


class ReturnsMore(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        new = self.new(projected_t, state[0])
        return (new,), {"candidate": new}


class ReturnsOneMore(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        new = self.new(projected_t, state[0])
        return new, new


class CountsInItsState(Two):
    def initial_state(self, batch_size: int) -> State:
        h, c = super().initial_state(batch_size)
        return h, c.long()


class HasAComplexState(Plain):
    def initial_state(self, batch_size: int) -> State:
        return (super().initial_state(batch_size)[0].to(torch.complex128),)


class ShrinksItsState(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.new(projected_t, state[0])[:, :1],)


class ShrinksItsOutput(Plain):
    def output(self, projected_t: Any, state: State) -> Tensor:  # noqa: ARG002
        return state[0][:, :1]


class ProjectsOneStep(Plain):
    def project(self, x: Tensor, first_step: int = 0) -> Any:  # noqa: ARG002
        return self.inp(x[:, 0])


class NamesNoShape(Plain):
    @property
    def state_shapes(self) -> Any:
        return {"h": self.hidden_size}


class HasNoSuchAttribute(Plain):
    def recur(self, projected_t: Any, state: State) -> Any:
        return (self.no_such_layer(projected_t, state[0]),)  # type: ignore[operator]


class LegacyWeightNorm(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec = nn.utils.weight_norm(self.rec)


class LegacySpectralNorm(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec = nn.utils.spectral_norm(self.rec)


class LegacyPruning(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        prune.random_unstructured(self.rec, "weight", 0.3)


_KEEPS = "{name} must keep nothing between calls, got one that changes `{what}"
_WRITES = "`{name}.{what}` must leave what it is given as it is, got one that changes its "
_ROUNDS = "`{name}.recur` must compute in the format of its inputs, got one that makes torch.{what} of float64 numbers"
_CUT = "`{name}.recur` must be differentiated as it is computed, got a derivative by its {what}"
_READS = "`{name}.recur` must not read a value of its input or state"

_WORDS: Mapping[str, Mapping[type[Recurrent], str]] = {
    _KEEPS: {
        CountsInABuffer: "count",
        CountsInAList: "clock[0]",
        CountsModulo: "phase",
        CountsOnItsClass: "CountsOnItsClass.calls",
        CountsOnASubmodule: "rec.notes['calls'][0]",
        CountsByAnIterator: "steps[0]",
        SetsItsClockInProject: "clock",
        SetsItsClockAtTheStart: "clock",
        KeepsItsState: "h",
        KeepsAHistory: "history.len",
        DrawsFromItsOwnGenerator: "random",  # whose state each version of NumPy holds in its own way
    },
    _WRITES: {
        ScalesItsState: "recur",
        AddsToItsMemory: "recur",
        RectifiesItsState: "recur",
        ZeroesAUnit: "recur",
        WritesBehindAutograd: "recur",
        AddsToItsDrive: "recur",
        ClampsItsInput: "project",
        ScalesInItsOutput: "output",
    },
    _ROUNDS: {
        RoundsItsState: "float32",
        RoundsToHalf: "float16",
        RoundsToComplex64: "complex64",
        RoundsItsInput: "float32",
        RoundsItsGradient: "float32",
    },
    _CUT: {
        Detaches: "state component `h` of 0 ",
        TakesData: "state component `h` of 0 ",
        RecursWithoutGradient: "state component `h` of 0 ",
        GoesThroughNumpy: "state component `h` of 0 ",
        DetachesItsMemory: "state component `c` of 0 where finite differences give 0.9",
        DetachesInAGate: "state component `h` of ",
        DetachesOneUnit: "state component `h` of 0 ",
        DetachesHalf: "state component `h` of ",
        DetachesItsInput: "input of 0 ",
        DetachesEveryTenth: "state component `h` of 0 ",
        DetachesWhileItTrains: "state component `h` of 0 in training mode",
    },
    _READS: {Branches: "", ReadsAValue: ""},
    "{what}": {
        MixesBehindAutograd: "samples must not interact, got a MixesBehindAutograd",
        DrawsItsStart: "`DrawsItsStart` must give the same numbers whenever it is run, but it draws random ones",
        KeepsAComputedWeight: "KeepsAComputedWeight cannot be copied (Only Tensors created explicitly by the user",
        MakesAFloat32Matrix: "`MakesAFloat32Matrix.recur` must run in float64 on a batch, got RuntimeError",
        StartsInFloat32: "`StartsInFloat32.initial_state` must give `h` in the format that the cell computes in",
        NotANumberAtOnce: "`NotANumberAtOnce` must be a number after one step from its initial state and weights",
        ReturnsATensor: "`ReturnsATensor.recur` must return a tuple of 1 tensor (h), got a tensor of shape",
        NestsItsState: "`NestsItsState.initial_state` must return a tuple of 2 tensors (h, c), got (a tensor",
        ReturnsMore: "`ReturnsMore.recur` must return a tuple of 1 tensor (h), got ((a tensor",
        ReturnsOneMore: "`ReturnsOneMore.recur` must return a tuple of 1 tensor (h), got 2 tensors",
        CountsInItsState: "`CountsInItsState.initial_state` must give `c` as real numbers, which have gradients",
        HasAComplexState: "`HasAComplexState.initial_state` must give `h` as real numbers, got torch.complex128; store",
        ShrinksItsState: "`ShrinksItsState.recur` must give `h` the shape (batch, ",
        ShrinksItsOutput: "`ShrinksItsOutput.output` must return a real tensor (batch, hidden_size) = (3, ",
        ProjectsOneStep: "`ProjectsOneStep.project` must return tensors of shape (batch, steps, …)",
        NamesNoShape: "`NamesNoShape.state_shapes` must map each component's name to its shape",
        HasNoSuchAttribute: "`HasNoSuchAttribute.recur` must run in float64 on a batch, got AttributeError",
        LegacyWeightNorm: "legacy torch.nn.utils.weight_norm found on `rec` of LegacyWeightNorm",
        LegacySpectralNorm: "legacy torch.nn.utils.spectral_norm found on `rec` of LegacySpectralNorm",
        LegacyPruning: "torch.nn.utils.prune found on `rec` of LegacyPruning",
    },
}

REFUSED: dict[type[Recurrent], str] = {
    cell: form.format(name=cell.__name__, what=what) for form, cells in _WORDS.items() for cell, what in cells.items()
}
"""Cell -> words that refuse it."""
