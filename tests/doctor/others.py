"""Other people's layers, as the contracts of a layer and of a recurrence have them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Layer, Recurrent, State


class Mamba(Layer):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.inp = nn.Linear(input_size, hidden_size)
        mamba = import_module("mambapy.mamba")  # which has no annotations
        self.block = mamba.MambaBlock(mamba.MambaConfig(d_model=hidden_size, n_layers=1))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.block(self.inp(x))
        return made


def empty_cache(block: Any, batch_size: int) -> tuple[None, Tensor]:
    """What `MambaBlock.step` begins with: no state, and inputs of 0 before the first."""
    config = block.config
    return None, block.conv1d.weight.new_zeros(batch_size, config.d_inner, config.d_conv - 1)


class OfTorchrecurrent(Recurrent):
    """A layer of torchrecurrent: `segment` is its call on N steps, `recur` its call on one."""

    def __init__(self, input_size: int, hidden_size: int, kind: str = "LEM") -> None:
        super().__init__(input_size, hidden_size)
        self.layer = getattr(import_module("torchrecurrent"), kind)(input_size, hidden_size)
        state = self.layer(torch.zeros(1, 1, input_size))[1]
        self.num_parts = 1 if isinstance(state, Tensor) else len(state)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {f"s{index}": (self.hidden_size,) for index in range(self.num_parts)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x

    def recur(self, projected_t: Tensor, state: State) -> State:
        return self.segment(projected_t.unsqueeze(1), state)[1]

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:  # noqa: ARG002
        layered = tuple(part.unsqueeze(0) for part in state)
        outputs, last = self.layer(x.transpose(0, 1), layered if self.num_parts > 1 else layered[0])
        last = (last,) if isinstance(last, Tensor) else last
        return outputs.transpose(0, 1), tuple(part[0] for part in last)


class DetachesEachChunk(OfTorchrecurrent):
    """A wrapper that truncates backpropagation after 16 steps, as a training loop might."""

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        outputs: list[Tensor] = []
        for piece in x.split(16, dim=1):
            own, state = super().segment(piece, tuple(p.detach() for p in state) if outputs else state, first_step)
            outputs.append(own)
        return torch.cat(outputs, dim=1), state
