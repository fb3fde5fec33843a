"""A whole layer with a recurrent mode of its own, ``module.step(x_t, cache) -> (y_t, cache)``, as inference uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gradhorizon.cells.cell import Layer
from gradhorizon.config import ConfigError
from gradhorizon.doctor.cases import BATCH_SIZE
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.terminal.words import one_line

Cache = Callable[[Any, int], Any]
"""The module and a batch size -> what its first step is given."""
_NUM_STEPS = 2


class SteppedLayer(Layer):
    """The module that has the step, without what was laid around it.

    Args:
        module: called on a sequence (B, N, D), it returns one (B, N, H).
        step: name of its method ``(x_t, cache) -> (y_t, cache)``.
        cache: what the first step is given; None if None.
        input_size: D.
        hidden_size: H.
    """

    def __init__(self, module: nn.Module, step: str, cache: Cache | None, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.module, self.step, self.cache = module, step, cache

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the whole sequence at once, (B, N, H)."""
        outputs: Tensor = self.module(x)
        return outputs

    def loop(self, x: Tensor, handed_on: Callable[[Tensor], Tensor]) -> Tensor:
        """The same, one step at a time.

        Args:
            x: inputs, shape (B, N, D).
            handed_on: what becomes of every tensor that a step returns.
        """
        cache = None if self.cache is None else self.cache(self.module, len(x))
        outputs = []
        for x_t in x.unbind(1):
            output, cache = getattr(self.module, self.step)(x_t, cache)
            cache = tree_map(lambda leaf: handed_on(leaf) if isinstance(leaf, Tensor) else leaf, cache)
            outputs.append(handed_on(output))
        return torch.stack(outputs, dim=1)


def stepped(layer: Layer, step: str, cache: Cache | None) -> SteppedLayer:
    """The part of `layer` that has the method `step`, the outermost one.

    Args:
        layer: no recurrence.
        step: the method's name.
        cache: what the first step is given.

    Raises:
        ConfigError: nothing has the method, it does not run, or the layer never calls the part.
    """
    parts = [own for own in layer.modules() if callable(getattr(own, step, None))]
    if not parts:
        raise ConfigError(f"`--step` must name a method of the layer or a part of it, got {step}: none has it")
    seen: list[tuple[Tensor, Tensor]] = []
    handle = parts[0].register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    try:
        with own_surroundings(), torch.no_grad():
            layer(torch.zeros(BATCH_SIZE, _NUM_STEPS, layer.input_size))
            x, outputs = seen[0]
            found = SteppedLayer(parts[0], step, cache, x.shape[-1], outputs.shape[-1])
            looped = found.loop(x, lambda tensor: tensor)
    except Exception as error:
        raise ConfigError(
            f"`--step` must name a method (x_t, cache) -> (y_t, cache) that runs on x_t of shape (batch, features), "
            f"got {step}: {type(error).__name__}: {one_line(error)}; `--cache` names a function (module, batch_size) "
            "that returns what the first step is given"
        ) from error
    finally:
        handle.remove()
    if looped.shape != outputs.shape:
        raise ConfigError(
            f"`--step` must give outputs of the shape that the layer gives, {tuple(outputs.shape)}, got "
            f"{tuple(looped.shape)} from {step}"
        )
    return found
