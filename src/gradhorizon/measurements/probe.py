r"""The probe: a float64 copy of a network on a fixed batch, and the gradients of its loss at one step t*.

.. math:: \text{objective} = \sum_b L_b(t^*), \qquad \text{lag } \tau = t^* - t

Samples do not interact, so the gradient of the sum with respect to sample b's tensors is the gradient of L_b alone.
Everything is computed once, on first use, and shared by the measurements that fire together.

Notation: B batch, N steps, E encoder features, K loss steps.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from gradhorizon.cells.cell import Recurrent, State, select_step
from gradhorizon.kernels.casting import cast
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.network import LayerTrace, Network, Trace
from gradhorizon.tasks.task import Batch, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateGradients:
    """Gradients of the objective at one cut of one layer and direction.

    Attributes:
        layer: the layer's trace.
        t: the cut, in the direction's own time.
        lag: the layer's and direction's `read_step` minus t.
        through_time: one tensor (B, …) per state component: what came back through the recurrence.
        direct: one tensor (B, …) per component: what step t itself fed upward.
    """

    layer: LayerTrace
    t: int
    lag: int
    through_time: tuple[Tensor, ...]
    direct: tuple[Tensor, ...]


class Probe:
    """A network under measurement: nothing done here touches the original.

    Args:
        network: the network as it trains; copied.
        task: the protocol, whose loss is probed.
        batch: the fixed probe batch, of `task.input_len` steps.
        num_cuts: how many states per layer and direction are kept, log-spaced in lag.
        dtype: precision of the copy; float64 for every number that is reported.
        device: where the copy lives; the network's own device if omitted.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        batch: Batch,
        num_cuts: int = 32,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        device = _float64_device(torch.device(device or next(network.parameters()).device), dtype)
        with _recording():
            self.network = cast(copy.deepcopy(network), dtype, device).eval()
            moved = batch.to(device, dtype)
            self.batch = replace(moved, inputs=moved.inputs.clone(), targets=moved.targets.clone())
        self.task = task
        self.num_cuts = num_cuts

    @property
    def input_len(self) -> int:
        """N, steps fed."""
        return self.batch.inputs.shape[1]

    @property
    def probed_step(self) -> int:
        """t*, the last loss step."""
        return self.batch.loss_steps[-1]

    @cached_property
    def lags(self) -> list[int]:
        """Ascending lags at which states are kept: 0, 1, and log-spaced ones up to N."""
        return log_spaced_lags(self.input_len, self.num_cuts)

    @cached_property
    def trace(self) -> Trace:
        """The forward pass, with cuts."""
        # cuDNN refuses a backward pass in evaluation mode; the native kernels do not.
        with _recording(), torch.backends.cudnn.flags(enabled=False):
            return self.network.trace(self.batch.inputs, self.batch.loss_steps, self.lags)

    @cached_property
    def losses(self) -> Tensor:
        """Loss of each sample at each loss step, shape (B, K)."""
        with _recording():
            return self.task.loss(self.trace.predictions, self.batch.targets)

    @cached_property
    def input_gradient(self) -> Tensor:
        """∂L_b(t*)/∂(encoder output), shape (B, N, E), float64."""
        return self._gradients[0]

    @cached_property
    def training_loss_input_gradient(self) -> Tensor:
        """The same for each sample's mean loss over all loss steps, the protocol's own loss; never called a horizon."""
        if len(self.batch.loss_steps) == 1:
            return self.input_gradient
        with _recording():
            mean_loss = self.losses.mean(dim=1).sum()
            return torch.autograd.grad(mean_loss, self.trace.encoded, retain_graph=True, materialize_grads=True)[0]

    @cached_property
    def state_gradients(self) -> list[StateGradients]:
        """Gradients at every cut of every recurrent layer and direction, lowest layer first."""
        found = []
        gradients = iter(self._gradients[1:])
        for layer in self.trace.layers:
            trajectory = layer.trajectory
            direct_of_step = dict(zip(trajectory.output_steps, next(gradients).unbind(1), strict=True))
            for t, state in zip(trajectory.cuts, trajectory.states, strict=True):
                through_time = tuple(next(gradients) for _ in state)
                direct = self._direct(layer, t, state, direct_of_step.get(t))
                found.append(StateGradients(layer, t, layer.read_step - t, through_time, direct))
        return found

    @cached_property
    def _gradients(self) -> tuple[Tensor, ...]:
        wanted = [self.trace.encoded]
        for layer in self.trace.layers:
            wanted.append(layer.trajectory.outputs)
            wanted += [part for state in layer.trajectory.states for part in state]
        with _recording():
            objective = self.losses[:, -1].sum()
            return torch.autograd.grad(objective, wanted, retain_graph=True, materialize_grads=True)

    def _direct(self, layer: LayerTrace, t: int, state: State, output_gradient: Tensor | None) -> State:
        if output_gradient is None:
            return tuple(torch.zeros_like(part) for part in state)
        if type(layer.cell).output is Recurrent.output:
            return (output_gradient, *(torch.zeros_like(part) for part in state[1:]))
        with _recording():
            leaves = tuple(part.detach().requires_grad_() for part in state)
            projected = layer.cell.project(layer.inputs[:, t - 1 : t].detach(), t - 1)
            output = layer.cell.output(select_step(projected, 0), leaves)
            return torch.autograd.grad(output, leaves, output_gradient, materialize_grads=True)


@contextmanager
def _recording() -> Iterator[None]:
    # A validation hook, from which a solved member is probed, runs in inference mode.
    with own_surroundings():
        yield


def _float64_device(device: torch.device, dtype: torch.dtype) -> torch.device:
    if dtype == torch.float64 and device.type == "mps":
        _say_once(f"{device} has no float64: probes run on the CPU")
        return torch.device("cpu")
    return device


@cache
def _say_once(message: str) -> None:
    log.warning(message)


def log_spaced_lags(longest: int, count: int) -> list[int]:
    """Ascending distinct lags: 0, 1, and about `count` log-spaced ones up to `longest`.

    Example:
        >>> log_spaced_lags(100, 5)
        [0, 1, 3, 10, 32, 100]
    """
    if count > 2 * longest * math.log(longest + 1) + 1:  # finer than one lag wherever it is coarsest
        return list(range(longest + 1))
    spaced = np.geomspace(1, longest, max(count, 2)) if longest >= 1 else np.empty(0)
    return sorted({0, *(int(lag) for lag in spaced.round())})
