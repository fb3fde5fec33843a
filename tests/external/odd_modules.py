"""Cells and layers as people write them who have never heard of this package: each measured as it is, or refused.

None is a `Recurrent` or a `Layer`. D input size, H hidden size, B batch, N steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Plain(nn.Module):
    """h' = tanh(W x + U h), the state being what it returns; zeros where it is given none."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.inp = nn.Linear(input_size, hidden_size)
        self.rec = nn.Linear(hidden_size, hidden_size, bias=False)

    def zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.hidden_size)

    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.inp(x) + self.rec(h))

    def forward(self, x: Tensor, h: Tensor | None = None) -> Any:
        return self.new(x, self.zeros(x) if h is None else h)


class ComplexDiagonal(nn.Module):
    """A state of real and imaginary parts, complex weights."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.eigenvalue = nn.Parameter(0.9 * torch.exp(1j * torch.linspace(0.1, 2, hidden_size)))
        self.inp = nn.Parameter(torch.randn(hidden_size, input_size, dtype=torch.complex64))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Any:
        if state is None:
            state = (x.new_zeros(len(x), self.hidden_size),) * 2
        z = self.eigenvalue * torch.complex(*state) + x.to(self.inp.dtype) @ self.inp.T
        return z.real, (z.real, z.imag)


class BatchNormed(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.norm = nn.BatchNorm1d(hidden_size)

    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.inp(x) + self.rec(h)))


class Dropout(Plain):
    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return super().new(x, nn.functional.dropout(h, 0.3, self.training))


class Zoneout(Plain):
    def new(self, x: Tensor, h: Tensor) -> Tensor:
        new = super().new(x, h)
        rate = torch.full_like(h, 0.2)
        mask = torch.bernoulli(rate) if self.training else rate
        return mask * h + (1 - mask) * new


class WeightNormed(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec = parametrizations.weight_norm(self.rec)


class Orthogonal(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec = parametrizations.orthogonal(self.rec)  # type: ignore[assignment]


class Tied(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.again = nn.Linear(hidden_size, hidden_size, bias=False)
        self.again.weight = self.rec.weight

    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.inp(x) + self.again(torch.tanh(self.rec(h))))


class Frozen(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec.requires_grad_(requires_grad=False)


class LearnedStart(Plain):
    """Says what it starts from."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.start = nn.Parameter(torch.full((hidden_size,), 0.5))

    def zeros(self, x: Tensor) -> Tensor:
        return self.initial_state(len(x))

    def initial_state(self, batch_size: int) -> Tensor:
        return self.start.expand(batch_size, -1)


class NeedsAState(Plain):
    def forward(self, x: Tensor, h: Tensor) -> Any:  # type: ignore[override]
        return self.new(x, h)


class SpreadState(Plain):
    def forward(self, x: Tensor, *state: Tensor) -> Any:  # type: ignore[override]
        h, c = state or (self.zeros(x), self.zeros(x))
        return self.new(x, h + 0.5 * c), 0.9 * c + h


class TwoArguments(Plain):
    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Any:
        h, c = self.zeros(x) if h is None else h, self.zeros(x) if c is None else c
        new = self.new(x, h + 0.5 * c)
        return 2 * new, new, 0.9 * c + h


class Nested(Plain):
    def forward(self, x: Tensor, state: Any = None) -> Any:
        (h, (c, n)) = state if state is not None else (self.zeros(x), (self.zeros(x), self.zeros(x)))
        new = self.new(x, h + c)
        return new, (new, (0.9 * c + h, 0.5 * n + new))


class DictState(Plain):
    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> Any:  # type: ignore[override]
        state = state or {"h": self.zeros(x), "m": self.zeros(x)}
        new = self.new(x, state["h"] + 0.1 * state["m"])
        return new, {"h": new, "m": 0.9 * state["m"] + new}


class WithMask(Plain):
    def forward(self, x: Tensor, h: Tensor | None = None, mask: Tensor | None = None) -> Any:
        new = self.new(x, self.zeros(x) if h is None else h)
        return new if mask is None else new * mask


class KeywordOnly(Plain):
    def forward(self, x: Tensor, *, h: Tensor | None = None) -> Any:  # type: ignore[override]
        return self.new(x, self.zeros(x) if h is None else h)


class TakesArgs(Plain):
    def forward(self, *args: Tensor) -> Any:  # type: ignore[override]
        x = args[0]
        return self.new(x, args[1] if len(args) > 1 else self.zeros(x))


class LazyParameters(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.inp = nn.LazyLinear(hidden_size)
        self.rec = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Any:
        h = x.new_zeros(len(x), self.hidden_size) if h is None else h
        return torch.tanh(self.inp(x) + self.rec(h))


class BuiltAtTheFirstCall(Plain):
    def new(self, x: Tensor, h: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Linear(self.hidden_size, self.hidden_size).to(x)
        return torch.tanh(self.inp(x) + self.late(h))


class KeepsState(Plain):
    def forward(self, x: Tensor, h: Tensor | None = None) -> Any:  # noqa: ARG002
        last = getattr(self, "last", None)
        self.last = self.new(x, self.zeros(x) if last is None or len(last) != len(x) else last.detach())
        return self.last


class CountsSteps(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.count = 0

    def new(self, x: Tensor, h: Tensor) -> Tensor:
        self.count += 1
        return super().new(x, h) if self.count % 2 else 0.5 * super().new(x, h)


class LegacyWeightNorm(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.rec = nn.utils.weight_norm(self.rec)


class HiddenStart(Plain):
    """Starts from something that it does not tell."""

    def zeros(self, x: Tensor) -> Tensor:
        return x.new_full((len(x), self.hidden_size), 0.5)


class InPlace(Plain):
    def forward(self, x: Tensor, h: Tensor | None = None) -> Any:
        h = self.zeros(x) if h is None else h
        return h.mul_(0.9).add_(self.inp(x))


class InPlaceWithoutGradient(Plain):
    def forward(self, x: Tensor, h: Tensor | None = None) -> Any:
        h = self.zeros(x) if h is None else h
        with torch.no_grad():
            h.mul_(0.9)
        return self.new(x, h)


class Float32Constants(Plain):
    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.inp(x) + h @ torch.eye(self.hidden_size, dtype=torch.float32))


class SamplesInteract(Plain):
    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return super().new(x, h - h.mean(dim=0, keepdim=True))


class Detaches(Plain):
    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.5 * h + super().new(x, h.detach())


class DetachesAll(Plain):
    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return super().new(x, h.detach())


class Branches(Plain):
    def new(self, x: Tensor, h: Tensor) -> Tensor:
        return super().new(x, h if h.sum() > 0 else 2 * h)


class ReturnsNoState(Plain):
    def forward(self, x: Tensor, h: Tensor | None = None) -> Any:
        return self.new(x, self.zeros(x) if h is None else h).sum(dim=1)


# Layers, from (B, N, D) to (B, N, H) unless they say otherwise.


class Convolution(nn.Module):
    """Causal, without a state."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(input_size, hidden_size, 3)

    def mixed(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(nn.functional.pad(x.transpose(1, 2), (2, 0)))).transpose(1, 2)

    def forward(self, x: Tensor) -> Any:
        return self.mixed(x)


class TimeMajor(Convolution):
    """(N, B, D), without saying so."""

    def forward(self, x: Tensor) -> Any:
        return self.mixed(x.transpose(0, 1)).transpose(0, 1)


class NonCausal(Convolution):
    def mixed(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(nn.functional.pad(x.transpose(1, 2), (1, 1)))).transpose(1, 2)


class LayerDropout(Convolution):
    def mixed(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().mixed(x), 0.2, self.training)


class LayerBatchNorm(Convolution):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.norm = nn.BatchNorm1d(hidden_size)

    def mixed(self, x: Tensor) -> Tensor:
        return self.norm(super().mixed(x).transpose(1, 2)).transpose(1, 2)


class ReturnsADict(Convolution):
    def forward(self, x: Tensor) -> Any:
        return {"last_hidden_state": self.mixed(x), "loss": None}


@dataclass
class Output:
    last_hidden_state: Tensor
    cache: Any = None


class ReturnsADataclass(Convolution):
    def forward(self, x: Tensor) -> Any:
        return Output(self.mixed(x))


class ChannelFirst(Convolution):
    """(B, D, N)."""

    def forward(self, x: Tensor) -> Any:
        return torch.tanh(self.conv(nn.functional.pad(x, (2, 0))))


class NeedsAWidth(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Any:
        return x + self.linear(x).cumsum(dim=1)


class KeepsACache(Convolution):
    def forward(self, x: Tensor) -> Any:
        mixed = self.mixed(x)
        before = getattr(self, "cache", None)
        self.cache = mixed[:, -1:].detach()
        return mixed if before is None or len(before) != len(mixed) else mixed + before


class MixesSamples(Convolution):
    def mixed(self, x: Tensor) -> Tensor:
        return super().mixed(x - x.mean(dim=0, keepdim=True))


class LastStepOnly(Convolution):
    def forward(self, x: Tensor) -> Any:
        return self.mixed(x)[:, -1]


def alone(module: nn.Module, x: Tensor, state: Any) -> Any:
    """(x, state) -> state."""
    state = module(x, state)
    return state, state


def paired(module: nn.Module, x: Tensor, state: Any) -> Any:
    """(x, state) -> (output, state)."""
    return module(x, state)


def spread(module: nn.Module, x: Tensor, state: Any) -> Any:
    """(x, *state) -> state."""
    state = module(x, *(state or ()))
    return state[0], state


def flat(module: nn.Module, x: Tensor, state: Any) -> Any:
    """(x, *state) -> (output, *state)."""
    output, *state = module(x, *(state or ()))
    return output, tuple(state)


def at_the_start(module: Any, x: Tensor, state: Any) -> Any:
    """As `alone`, but with a state from the first step on."""
    return alone(module, x, module.zeros(x) if state is None else state)


def without_none(module: nn.Module, x: Tensor, state: Any) -> Any:
    """As `alone`, but without a state at the start."""
    state = module(x) if state is None else module(x, state)
    return state, state


SOUND_CELLS: dict[type[nn.Module], Callable[..., Any]] = {
    Plain: alone,
    ComplexDiagonal: paired,
    BatchNormed: alone,
    Dropout: alone,
    Zoneout: alone,
    WeightNormed: alone,
    Orthogonal: alone,
    Tied: alone,
    Frozen: alone,
    LearnedStart: alone,
    NeedsAState: at_the_start,
    SpreadState: spread,
    TwoArguments: flat,
    Nested: paired,
    DictState: paired,
    WithMask: alone,
    TakesArgs: without_none,
}
"""Cell -> how its author calls it."""
SOUND_LAYERS: dict[type[nn.Module], Callable[..., Tensor]] = {
    Convolution: lambda module, x: module(x),
    TimeMajor: lambda module, x: module(x.transpose(0, 1)).transpose(0, 1),
    NonCausal: lambda module, x: module(x),
    LayerDropout: lambda module, x: module(x),
    LayerBatchNorm: lambda module, x: module(x),
    ReturnsADict: lambda module, x: module(x)["last_hidden_state"],
    ReturnsADataclass: lambda module, x: module(x).last_hidden_state,
}
"""Layer -> its outputs as its author reads them."""
_NO_CALL = "{} must be callable as a cell, (x, state) -> state or (output, state), or as a layer"
_LATE = "{} must have all its parameters when it is built, got "
_WRITES = "`{}.forward` must leave what it is given as it is, got one that changes its `state` in place"
_WORDS: dict[str, dict[type[nn.Module], str]] = {
    _NO_CALL: {
        KeywordOnly: "got (x, state): it takes no state by position",
        KeepsState: "got (x): (3, 4) back, which no state that it is given moves",
        DetachesAll: "got (x): (3, 4) back, which no state that it is given moves",
        ReturnsNoState: "(x): (3,) back, which no state that it is given moves",
        ChannelFirst: "(batch, steps, features): RuntimeError: Given groups=1, weight of size [4, 2, 3]",
        NeedsAWidth: "where it wants inputs of another width, write model/encoder=linear before it",
        LastStepOnly: "(batch, steps, features): (3, 4) back of (3, 5, 2)",
    },
    _LATE: {LazyParameters: "`inp.weight`", BuiltAtTheFirstCall: "`late.weight`"},
    _WRITES: {InPlace: "write new tensors", InPlaceWithoutGradient: "write new tensors"},
    "{} must keep nothing between calls, got one that changes ": {CountsSteps: "`count`:"},
    "{} must give the same numbers whenever it is called": {KeepsACache: "it keeps something between calls"},
    "legacy torch.nn.utils.weight_norm found on `rec` of {}": {LegacyWeightNorm: "torch.nn.utils.parametrizations"},
    "{} must start from zeros, or from what its method `initial_state(batch_size)`": {HiddenStart: "give it that"},
    "`{}.forward` must run in float64 on a batch": {Float32Constants: "constants need dtype=x.dtype"},
    "samples must not interact, got a {}": {
        SamplesInteract: "reduce over features",
        MixesSamples: "reduce over features",
    },
    "`{}.forward` must be differentiated as it is computed": {Detaches: "its state component `h` of 0.5"},
    "`{}.forward` must not read a value of its input or state": {Branches: "write torch.where"},
}
REFUSED: dict[type[nn.Module], tuple[str, str]] = {
    kind: (lead.format(kind.__name__), rest) for lead, kinds in _WORDS.items() for kind, rest in kinds.items()
}
"""Cell or layer -> words that refuse it: how they begin, and what they tell of the remedy or the cause."""
