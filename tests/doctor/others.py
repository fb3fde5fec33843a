"""Other people's layers, behind a projection to their size."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from gradhorizon.cells.cell import Layer


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
