"""A slow, obvious twin of every measurement of a module from elsewhere: the module itself, called as its authors say.

One sample, one step and one leaf at a time; nothing of how the project calls it is used. S is the size of the state.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from gradhorizon.network import Network
from gradhorizon.tasks.task import Batch, Task
from tests.conditioning import EPSILON, exponent_errors, step_error
from tests.oracles_contributions import slow_rows
from tests.oracles_gradients import summary

QUANTILES = {"median": 0.5, "p10": 0.1, "p90": 0.9}
RELATIVE = 1e-9
_NOISE = EPSILON / 4  # too little to lift what is 0 but for rounding over the resolution
"""Relative difference of two computations of one gradient."""


def step(module: nn.Module, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Output and state after one step, as the module's authors document it; ``state`` is None at the start."""
    if hasattr(module, "num_layers"):
        outputs, state = module(x_t.unsqueeze(1 if module.batch_first else 0), state)
        return outputs.squeeze(1 if module.batch_first else 0), state
    if any("Decoupled" in base.__name__ for base in type(module).__mro__):
        output, state = module(x_t, state)
        return output, state
    state = module(x_t, state)
    return (state[0] if isinstance(state, tuple) else state), state


@dataclass
class Naive:
    """A trained network in float64 whose one layer is called by hand, with the batch that it is measured on."""

    network: Network
    module: nn.Module
    batch: Batch
    task: Task

    @cached_property
    def encoded(self) -> Tensor:
        """Shape (B, N, D)."""
        return self.network.encoder(self.batch.inputs.double()).detach()

    def loss(self, output: Tensor, samples: slice) -> Tensor:
        """Loss of each sample, shape (B,), of the output after the last step, (B, H)."""
        readout: Any = self.network.readout
        predictions = readout.affine(output).unsqueeze(1)
        return self.task.loss(predictions, self.batch.targets[samples].double())[:, -1]

    def input_gradients(self) -> pd.DataFrame:
        """∂L/∂x_t of whole sequences, each run alone, the latest step first."""
        found = []
        for b in range(len(self.encoded)):
            x = self.encoded[b : b + 1].clone().requires_grad_()
            is_time_major = getattr(self.module, "batch_first", True) is False
            returned = self.whole(x.transpose(0, 1) if is_time_major else x)
            outputs = returned.transpose(0, 1) if is_time_major else returned
            (gradient,) = torch.autograd.grad(self.loss(outputs[:, -1], slice(b, b + 1)).sum(), x)
            found.append(gradient[0].numpy())
        references = [float(np.linalg.norm(own[-1])) for own in found]
        steps = range(self.encoded.shape[1], 0, -1)
        return pd.DataFrame([summary([own[t - 1].tolist() for own in found], references) for t in steps])

    def whole(self, x: Tensor) -> Tensor:
        """Outputs of a sequence: of a layer by one call, of a cell by a loop."""
        if isinstance(self.module, nn.RNNCellBase) or type(self.module).__name__.endswith("Cell"):
            state, outputs = None, []
            for x_t in x.unbind(1):
                output, state = step(self.module, x_t, state)
                outputs.append(output)
            return torch.stack(outputs, dim=1)
        returned = self.module(x)
        return returned[0] if isinstance(returned, tuple) else returned


class NaiveRecurrence(Naive):
    """A layer with a state, whose every step is a map of the module's own state, a flat vector of S entries."""

    @cached_property
    def zeros(self) -> Any:
        """The module's own state of one sample at the start."""
        _, state = step(self.module, self.encoded[:1, 0], None)
        leaves, form = tree_flatten(state)
        return tree_unflatten([torch.zeros_like(leaf) for leaf in leaves], form)

    @cached_property
    def has_output(self) -> bool:
        """Whether the output is no part of the state, by its numbers."""
        output, state = step(self.module, self.encoded[:1, 0], None)
        return self._place_of(output, state) is None

    @staticmethod
    def _place_of(output: Tensor, state: Any) -> int | None:
        leaves = [leaf.flatten()[-output.numel() :] for leaf in tree_flatten(state)[0]]
        return next((at for at, leaf in enumerate(leaves) if torch.equal(leaf, output.flatten())), None)

    def run(self, b: int, state: Any, first: int, last: int) -> tuple[Tensor, Any]:
        """Output and state after inputs ``first`` + 1 … ``last`` of one sample."""
        output = torch.zeros(1, 1, dtype=torch.float64)
        for t in range(first, last):
            output, state = step(self.module, self.encoded[b : b + 1, t], state)
        return output, state

    def state_gradients(self, t: int) -> dict[str, list[list[np.ndarray]]]:
        """Part -> component (and all together) -> ∂L/∂s_t of every sample."""
        num_steps = self.encoded.shape[1]
        parts: dict[str, list[list[np.ndarray]]] = {"through_time": [], "direct": []}
        for b in range(len(self.encoded)):
            output, state = self.run(b, self.zeros, 0, t)
            leaves, form = tree_flatten(state)
            leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
            direct = [torch.zeros_like(leaf) for leaf in leaves]
            through_time = tuple(direct)
            if t < num_steps:
                last, _ = self.run(b, tree_unflatten(leaves, form), t, num_steps)
                loss = self.loss(last, slice(b, b + 1)).sum()
                through_time = torch.autograd.grad(loss, leaves, materialize_grads=True)
            fed = torch.zeros(1, self.network.readout.num_features, dtype=torch.float64)
            if t == num_steps:
                read = output.detach().requires_grad_()
                (fed,) = torch.autograd.grad(self.loss(read, slice(b, b + 1)).sum(), read)
                direct = self._placed(fed, output, state)
            own_output = [fed] if self.has_output else []
            parts["through_time"].append([*map(_flat, through_time), *(0 * _flat(own) for own in own_output)])
            parts["direct"].append([*map(_flat, direct), *map(_flat, own_output)])
        by_component = {
            part: [list(component) for component in zip(*samples, strict=True)] for part, samples in parts.items()
        }
        total = zip(by_component["through_time"], by_component["direct"], strict=True)
        by_component["total"] = [[a + b for a, b in zip(*pair, strict=True)] for pair in total]
        for found in by_component.values():
            found.append([np.concatenate(own) for own in zip(*found, strict=True)])
        return by_component

    def _placed(self, fed: Tensor, output: Tensor, state: Any) -> list[Tensor]:
        leaves = [torch.zeros_like(leaf) for leaf in tree_flatten(state)[0]]
        at = self._place_of(output, state)
        if at is not None:
            leaves[at].view(-1)[-fed.numel() :] = fed.flatten()
        return leaves

    @cached_property
    def jacobians(self) -> list[list[np.ndarray]]:
        """Per sample, ∂s_t/∂s_{t−1} at t = 1 … N, shape (S, S), by `torch.autograd.functional.jacobian`."""
        found = []
        for b in range(len(self.encoded)):
            state, own = self.zeros, []
            for t in range(self.encoded.shape[1]):
                own.append(self._jacobian(self.encoded[b : b + 1, t], state))
                _, state = self.run(b, state, t, t + 1)
            found.append(own)
        return found

    def _jacobian(self, x_t: Tensor, state: Any) -> np.ndarray:
        leaves, form = tree_flatten(state)
        sizes = [leaf.numel() for leaf in leaves]

        def mapped(flat: Tensor) -> Tensor:
            parts = [part.view_as(leaf) for part, leaf in zip(flat.split(sizes), leaves, strict=True)]
            output, following = step(self.module, x_t, tree_unflatten(parts, form))
            joined = [*tree_flatten(following)[0], *([output] if self.has_output else [])]
            return torch.cat([part.flatten() for part in joined])

        flat = torch.cat([leaf.flatten() for leaf in leaves]).detach()
        own = torch.autograd.functional.jacobian(mapped, flat).numpy()
        return np.pad(own, ((0, 0), (0, len(own) - own.shape[1])))  # an output that nothing consumes

    def exponents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finite-time exponents by a QR decomposition a step, the largest first, each array of shape (B, S).

        Returns:
            The exponents, −inf where below resolution; how far rounding may move them, inf where it decides whether
            they are resolved; and whether all of a sample's are.
        """
        values = np.array([_exponents(own) for own in self.jacobians])
        errors = np.array([_errors(own, found) for own, found in zip(self.jacobians, values, strict=True)])
        return values, errors, np.isfinite(values).all(axis=1)

    def products(self, t: int) -> list[np.ndarray]:
        """Per sample ∂s_N/∂s_t."""
        return [_product(own[t:], len(own[0])) for own in self.jacobians]

    def contributions(self, bins: Sequence[tuple[int, int]]) -> pd.DataFrame:
        """The table `temporal_contributions`, from a copy of the module for every step."""
        copies = [copy.deepcopy(self.module) for _ in range(self.encoded.shape[1])]
        state, output = None, self.encoded[:, 0]
        for own, x_t in zip(copies, self.encoded.unbind(1), strict=True):
            output, state = step(own, x_t, state)
        self.loss(output, slice(None)).mean().backward()
        of_lag = {lag: _gradient(own) for lag, own in enumerate(reversed(copies))}
        return pd.DataFrame(slow_rows({"layer": 0, "direction": "forward"}, of_lag, list(bins)))


def _flat(part: Tensor) -> np.ndarray:
    return part.detach().flatten().numpy()


def _gradient(module: nn.Module) -> np.ndarray:
    parts = [torch.zeros_like(own) if own.grad is None else own.grad for own in module.parameters()]
    return torch.cat([part.flatten() for part in parts]).numpy()


def _product(jacobians: Sequence[np.ndarray], size: int) -> np.ndarray:
    found = np.eye(size)
    for jacobian in jacobians:
        found = jacobian @ found
    return found


def _exponents(jacobians: Sequence[np.ndarray]) -> np.ndarray:
    size = len(jacobians[0])
    frame, logs = np.eye(size), np.zeros(size)
    for jacobian in jacobians:
        pushed = jacobian @ frame
        frame, triangle = np.linalg.qr(pushed)
        factors = np.abs(np.diag(triangle))
        floor = size * EPSILON * np.linalg.norm(pushed, axis=0).max()
        logs += np.log(factors, out=np.full(size, -np.inf), where=factors > floor)
    return np.sort(logs / len(jacobians))[::-1]


def _errors(jacobians: list[np.ndarray], exponents: np.ndarray) -> np.ndarray:
    """By their conditioning where every step has an inverse; elsewhere by doing what rounding does, and looking.

    A direction that a step annihilates is turned anywhere by rounding, and whatever leans on it follows.
    """
    size = len(exponents)
    if np.isfinite(exponents).all():
        return np.full(size, exponent_errors(jacobians, np.eye(size)).max())
    generator, found = np.random.default_rng(0), np.zeros(size)
    for _ in range(8):
        moved = _exponents([own + _NOISE * _noise(generator, own) for own in jacobians])
        is_alike = np.isfinite(moved) == np.isfinite(exponents)
        distance = np.subtract(moved, exponents, out=np.zeros(size), where=np.isfinite(moved) & np.isfinite(exponents))
        found = np.maximum(found, np.where(is_alike, np.abs(distance), np.inf))
    return found * step_error(size) / _NOISE  # of first order


def _noise(generator: np.random.Generator, jacobian: np.ndarray) -> np.ndarray:
    drawn = generator.standard_normal(jacobian.shape) * np.linalg.norm(jacobian, 2)
    return np.where(jacobian != 0, drawn, 0)  # what is structurally 0 stays so
