"""Encoders, readouts and layers without recurrence: odd ones are refused, sound ones are not."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradhorizon.kernels.conduct import ConductError
from gradhorizon.kernels.network_modules import check_modules
from gradhorizon.network import Network
from gradhorizon.readouts import AdditiveScore, AttentionReadout, StateReadout
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from tests.noisy_readout import NoisyReadout
from tests.synthetic_cells import LinearRecurrence, PerStepLayer

TASK = AddingArjovsky2016(seq_len=9)


class Encoder(nn.Module):
    """A per-step map, sound but for what a subclass does."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.affine = nn.Linear(input_size, 3)
        self.output_size = 3

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x)


class CountingEncoder(Encoder):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.affine(x)


class WritingEncoder(Encoder):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x.clamp_(max=0.5))


class RoundingEncoder(Encoder):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x.float().to(x.dtype))


class BranchingEncoder(Encoder):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x if x.mean() > 0 else -x)


class NoisyEncoder(Encoder):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x + torch.randn_like(x))


class LegacyEncoder(Encoder):
    def __init__(self, input_size: int) -> None:
        super().__init__(input_size)
        self.affine = nn.utils.spectral_norm(self.affine)


class CountingReadout(StateReadout):
    calls = 0

    def forward(self, queries: Tensor, features: Tensor | None = None, is_visible: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().forward(queries, features, is_visible)


class RoundingLayer(PerStepLayer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).half().to(x.dtype)


def network(cell: Any = LinearRecurrence, **parts: Any) -> Network:
    return Network(partial(cell, hidden_size=4), input_size=2, output_size=1, num_layers=2, **parts)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"encoder": CountingEncoder}, "CountingEncoder must keep nothing between calls, got one that changes `calls`"),
        ({"encoder": WritingEncoder}, "`WritingEncoder` must leave what it is given as it is, got .* its `input` in"),
        ({"encoder": RoundingEncoder}, "`RoundingEncoder` must compute in the format of its inputs"),
        ({"encoder": BranchingEncoder}, "`BranchingEncoder` must not read a value of its input"),
        ({"encoder": NoisyEncoder}, "`NoisyEncoder` must give the same numbers .* draws random ones"),
        ({"encoder": LegacyEncoder}, "legacy torch.nn.utils.spectral_norm found on `affine` of LegacyEncoder"),
        ({"readout": CountingReadout}, "CountingReadout must keep nothing between calls"),
        ({"cell": RoundingLayer}, "`RoundingLayer` must compute in the format of its inputs"),
    ],
)
def test_an_odd_part_is_refused(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConductError, match=words):
        check_modules(network(**parts), TASK)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"encoder": Encoder},
        {"readout": NoisyReadout},
        {"readout": partial(AttentionReadout, score=AdditiveScore)},
        {"cell": PerStepLayer},
    ],
    ids=str,
)
def test_a_sound_part_passes(parts: dict[str, Any]) -> None:
    check_modules(network(**parts), TASK)
