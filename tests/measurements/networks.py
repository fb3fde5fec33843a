"""Tiny networks and a tiny task with which measurements are tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements.probe import Probe
from gradhorizon.network import Network
from gradhorizon.readouts import AdditiveScore, AttentionReadout
from gradhorizon.tasks.task import Batch, Task


class SquaredError(Task):
    """Regression of targets (B, K, O), its loss scaled by a factor."""

    name: ClassVar[str] = "squared_error"

    def __init__(self, seq_len: int, size: int = 2, factor: float = 1.0) -> None:
        super().__init__(seq_len)
        self.size = size
        self.factor = factor

    @property
    def input_size(self) -> int:
        return self.size

    @property
    def output_size(self) -> int:
        return self.size

    @property
    def input_len(self) -> int:
        return self.seq_len

    @property
    def chance(self) -> Mapping[str, float]:
        return {"loss": self.factor}

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        inputs = generator.normal(size=(batch_size, input_len or self.seq_len, self.size))
        targets = generator.normal(size=(batch_size, 1, self.size))
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), (inputs.shape[1],))

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.factor * (predictions - targets).square().sum(dim=-1)

    def metrics(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": self.loss(predictions, targets).mean(dim=1)}

    @property
    def solved_levels(self) -> Mapping[str, float]:
        return {}

    def is_solved(self, metrics: Mapping[str, float]) -> bool:
        return metrics["loss"] == 0


class LinearCell(Recurrent):
    """h_t = ρ Q h_{t−1} + x_t with Q orthogonal: every gradient is multiplied by ρ per step."""

    def __init__(self, input_size: int, hidden_size: int, scale: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        orthogonal = torch.linalg.qr(torch.randn(hidden_size, hidden_size, dtype=torch.float64)).Q
        self.weight_hh = nn.Parameter(scale * orthogonal)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x

    def recur(self, projected_t: Tensor, state: State) -> State:
        return (projected_t + state[0] @ self.weight_hh.T,)


class InputGatedOutput(LinearCell):
    """The linear recurrence and a leaky sum m of its states, read together: y_t = tanh(x_t) · (h_t² + m_t)."""

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,), "m": (self.hidden_size,)}

    def recur(self, projected_t: Tensor, state: State) -> State:
        (h,) = super().recur(projected_t, state[:1])
        return h, 0.9 * state[1] + h

    def output(self, projected_t: Any, state: State) -> Tensor:
        return torch.tanh(projected_t) * (state[0].square() + state[1])


class LevelAndMatrix(LinearCell):
    """The linear recurrence, read together with one leaky number per sample; a matrix that nobody reads."""

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,), "level": (), "matrix": (self.hidden_size, self.hidden_size)}

    def recur(self, projected_t: Tensor, state: State) -> State:
        (h,) = super().recur(projected_t, state[:1])
        return h, 0.5 * state[1] + projected_t.mean(dim=-1), 0.9 * state[2] + h.unsqueeze(-1) * h.unsqueeze(-2)

    def output(self, projected_t: Tensor, state: State) -> Tensor:  # noqa: ARG002
        return state[0] + state[1].unsqueeze(-1)


class SumReadout(nn.Module):
    """The features themselves as predictions."""

    reads_all_steps = False

    def __init__(self, num_features: int, output_size: int) -> None:
        super().__init__()
        assert num_features == output_size

    def forward(self, queries: Tensor, features: Tensor | None = None, is_visible: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return queries


attention = partial(AttentionReadout, score=AdditiveScore)

NETWORKS: dict[str, Callable[[], Network]] = {
    "elman": lambda: Network(partial(Elman, hidden_size=4), 2, 2),
    "lstm": lambda: Network(partial(LSTM, hidden_size=3), 2, 2),
    "gru": lambda: Network(partial(GRU, hidden_size=3), 2, 2),
    "one_unit": lambda: Network(partial(LSTM, hidden_size=1), 2, 2),
    "own_output": lambda: Network(partial(InputGatedOutput, hidden_size=2), 2, 2),
    "deep": lambda: Network(partial(LSTM, hidden_size=3), 2, 2, num_layers=2),
    "deep_own_output": lambda: Network(partial(InputGatedOutput, hidden_size=2), 2, 2, num_layers=2),
    "bidirectional": lambda: Network(partial(GRU, hidden_size=3), 2, 2, num_layers=2, bidirectional=True),
    "attention": lambda: Network(partial(LSTM, hidden_size=3), 2, 2, readout=attention),
    "bidirectional_attention": lambda: Network(
        partial(Elman, hidden_size=3), 2, 2, bidirectional=True, readout=attention
    ),
}


def random_probe(
    network: Network,
    input_len: int = 7,
    loss_steps: Sequence[int] | None = None,
    batch_size: int = 4,
    factor: float = 1.0,
    **options: Any,
) -> Probe:
    """A probe of `network` on random inputs and targets, the same ones for the same arguments."""
    generator = np.random.default_rng(5)
    loss_steps = (input_len,) if loss_steps is None else tuple(loss_steps)
    inputs = torch.from_numpy(generator.normal(size=(batch_size, input_len, 2)))
    targets = torch.from_numpy(generator.normal(size=(batch_size, len(loss_steps), 2)))
    return Probe(network, SquaredError(input_len, factor=factor), Batch(inputs, targets, loss_steps), **options)


def linear_network(scale: float, size: int = 2) -> Network:
    """Inputs and states of one size, read as they are: input and state gradients have the same norm."""
    network = Network(partial(LinearCell, hidden_size=size, scale=scale), size, size)
    network.readout = SumReadout(size, size)  # type: ignore[assignment]
    return network
