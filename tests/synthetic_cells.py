"""Cells made for tests: one with a closed form, one that uses every freedom of the contract."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Layer, Recurrent, State


class LinearRecurrence(Recurrent):
    r"""h_t = ρ Q h_{t−1} + U x_t with Q orthogonal: every state gradient decays by exactly ρ per step."""

    def __init__(self, input_size: int, hidden_size: int, spectral_radius: float = 0.9) -> None:
        super().__init__(input_size, hidden_size)
        orthogonal = torch.linalg.qr(torch.randn(hidden_size, hidden_size)).Q
        self.weight_hh = nn.Parameter(spectral_radius * orthogonal)
        self.weight_ih = nn.Parameter(torch.randn(hidden_size, input_size))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x @ self.weight_ih.T

    def recur(self, projected_t: Tensor, state: State) -> State:
        return (projected_t + state[0] @ self.weight_hh.T,)


class ClockedReader(Recurrent):
    """A cell with a clock, a projection of two parts, a state of two shapes and an output that reads the input."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.randn(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.randn(hidden_size, hidden_size) * hidden_size**-0.5)

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"memory": (self.hidden_size, 2), "trace": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> tuple[Tensor, Tensor]:
        clock = torch.arange(first_step, first_step + x.shape[1], dtype=x.dtype, device=x.device)
        return x @ self.weight_ih.T, torch.cos(clock).expand(x.shape[0], -1).unsqueeze(-1)

    def recur(self, projected_t: tuple[Tensor, Tensor], state: State) -> State:
        drive, phase = projected_t
        memory, trace = state
        new_trace = torch.tanh(drive + phase * (trace @ self.weight_hh.T) + 0.5 * memory.sum(-1))
        return 0.7 * memory + torch.stack([new_trace, drive], dim=-1), new_trace

    def output(self, projected_t: tuple[Tensor, Tensor], state: State) -> Tensor:
        return state[0].prod(-1) + projected_t[0] * state[1]


class PerStepLayer(Layer):
    """A layer that is no recurrence."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.affine = nn.Linear(input_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.affine(x))
