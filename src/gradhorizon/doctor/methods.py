"""What is held against what: `segment` against the loop over `step`, a layer against itself or its recurrent mode.

Notation: B batch, N steps, D input size, H hidden size.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Layer, Recurrent, State
from gradhorizon.doctor.cases import BATCH_SIZE, Case
from gradhorizon.doctor.stepping import SteppedLayer
from gradhorizon.kernels.casting import cast
from gradhorizon.kernels.gate import is_noisy_in_training
from gradhorizon.kernels.quantities import (
    FIRST_STEP,
    OF_PARAMETERS,
    Draws,
    Quantities,
    drawn,
    draws_of,
    quantities_of,
    run_steps,
)
from gradhorizon.kernels.rounding import Rounded

_COTANGENT = "outputs_cotangent"
_NUM_STEPS = 5


class Method(ABC):
    """How one module is examined.

    Attributes:
        words: what is compared with what.
        has_equation: whether the reference is a step, and not the module itself.
    """

    words: str
    has_equation = True

    def draws(self, module: Layer, case: Case, dtype: torch.dtype) -> Draws:
        """What the module is given, and what its loss reads, in float64, rounded to `dtype` beforehand."""
        draws = self.all_draws(module, case, dtype)
        if case.read_step is None:
            return draws
        read = draws[_COTANGENT][:, case.read_step - 1].clone()
        unread = {name: torch.zeros_like(own) for name, own in draws.items() if "cotangent" in name}
        unread[_COTANGENT][:, case.read_step - 1] = read
        return {**draws, **unread}

    def all_draws(self, module: Layer, case: Case, dtype: torch.dtype) -> Draws:
        """The same, with a loss that reads everything."""
        size = case.batch_size, case.num_steps
        return drawn({"x": (*size, module.input_size), _COTANGENT: (*size, module.hidden_size)}, dtype)

    @abstractmethod
    def kernel(self, module: Any, draws: Draws, case: Case) -> Quantities:
        """What is examined, in the format and on the device of the draws."""

    @abstractmethod
    def reference(self, module: Any, draws: Draws, rounded: Rounded) -> Quantities:
        """What is right, in float64 on the CPU; `rounded` is given every tensor that a step hands on."""

    def is_noisy(self, module: Any) -> bool:
        """Whether it draws random numbers while it trains, so that it is compared in evaluation mode alone."""
        del module
        return True

    def has_modes(self, module: Any) -> bool:
        """Whether the reference differs between training and evaluation mode."""
        del module
        return True


class OfSegment(Method):
    """A recurrence: `segment`, whole or in pieces, against the loop over `step`."""

    def __init__(self) -> None:
        self._modes: dict[int, tuple[Any, bool]] = {}

    words = "`segment` with the float64 loop over `step` on the CPU"

    def all_draws(self, module: Any, case: Case, dtype: torch.dtype) -> Draws:
        """With an initial state that is not zero."""
        return draws_of(module, dtype, case.num_steps, case.batch_size)

    def kernel(self, module: Any, draws: Draws, case: Case) -> Quantities:
        """`segment`, once, or once a piece."""
        return quantities_of(module, draws, partial(_run_pieces, cuts=case.cuts))

    def reference(self, module: Any, draws: Draws, rounded: Rounded | None = None) -> Quantities:
        """The loop over the cell's own step."""
        return quantities_of(module, draws, partial(run_steps, rounded=rounded))

    def is_noisy(self, module: Any) -> bool:
        """Whether training mode compares nothing; what raises here does so in the comparison too."""
        try:
            return is_noisy_in_training(module)
        except Exception:  # noqa: BLE001
            return False

    def has_modes(self, module: Any) -> bool:
        """Whether the loop gives other bits in evaluation mode (batch statistics), asked once of a module."""
        if id(module) not in self._modes:
            loop = cast(copy.deepcopy(module), torch.float64, "cpu")
            draws = draws_of(loop, torch.float64, _NUM_STEPS, BATCH_SIZE)
            first, second = (self.reference(loop.train(training), draws) for training in (True, False))
            self._modes[id(module)] = module, not all(torch.equal(first[name], second[name]) for name in first)
        return self._modes[id(module)][1]


def _run_pieces(cell: Recurrent, x: Tensor, state: State, cuts: tuple[int, ...]) -> tuple[Tensor, State]:
    outputs = []
    for start, end in pairwise((0, *cuts, x.shape[1])):
        own, state = cell.segment(x[:, start:end], state, FIRST_STEP + start)
        outputs.append(own)
    return torch.cat(outputs, dim=1), state


class OfLayer(Method):
    """A layer without a step: a batch of it against each sample alone, and its formats against its own float64."""

    has_equation = False
    words = "a layer without a step: each batch, device and dtype with its own float64 on the CPU, sample by sample"

    def kernel(self, module: Any, draws: Draws, case: Case) -> Quantities:  # noqa: ARG002
        """The layer, once."""
        return _of_layer(module, draws["x"], draws[_COTANGENT])

    def reference(self, module: Any, draws: Draws, rounded: Rounded | None = None) -> Quantities:
        """The layer, once a sample."""
        pairs = zip(draws["x"].split(1), draws[_COTANGENT].split(1), strict=True)
        alone = [_of_layer(module, x, cotangent, rounded) for x, cotangent in pairs]
        return {
            name: torch.stack([own[name] for own in alone]).sum(0)
            if name.startswith(OF_PARAMETERS)
            else torch.cat([own[name] for own in alone])
            for name in alone[0]
        }


class OfStep(OfLayer):
    """A layer that has a recurrent mode of its own: the whole sequence at once against the loop over that step."""

    has_equation = True
    words = "the layer with the float64 loop over its own step on the CPU"

    def reference(self, module: SteppedLayer, draws: Draws, rounded: Rounded | None = None) -> Quantities:
        """The loop over the layer's own step."""
        return _of_layer(module, draws["x"], draws[_COTANGENT], rounded, is_stepped=True)


def _of_layer(
    module: Any, x: Tensor, cotangent: Tensor, rounded: Rounded | None = None, is_stepped: bool = False
) -> Quantities:
    x = x.clone().requires_grad_()
    handed_on = rounded or (lambda tensor: tensor)
    outputs = module.loop(x, handed_on) if is_stepped else handed_on(module(handed_on(x)))
    parameters = {name: own for name, own in module.named_parameters() if own.requires_grad}
    gradients = torch.autograd.grad(outputs, [x, *parameters.values()], cotangent, materialize_grads=True)
    names = ["input_gradient", *(f"{OF_PARAMETERS}{name}" for name in parameters)]
    return {"outputs": outputs.detach(), **dict(zip(names, gradients, strict=True))}


def method_of(module: nn.Module) -> Method:
    """How `module` is examined.

    Args:
        module: a `Recurrent`, a layer with a step of its own, or a layer.
    """
    if isinstance(module, Recurrent):
        return OfSegment()
    return OfStep() if isinstance(module, SteppedLayer) else OfLayer()
