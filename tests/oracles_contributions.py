"""A slow, obvious twin of the temporal contributions: a network in which every step has parameters of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State, select_step
from gradhorizon.measurements.probe import Probe, log_spaced_lags
from tests.oracles_gradients import read_step


class Untied(Recurrent):
    """A cell with a copy of its own for every step, so that each step has a gradient of its own."""

    def __init__(self, cell: Recurrent, input_len: int) -> None:
        super().__init__(cell.input_size, cell.hidden_size)
        self.cells = nn.ModuleList(copy.deepcopy(cell) for _ in range(input_len))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._own()[0].state_shapes

    def initial_state(self, batch_size: int) -> State:
        return self._own()[0].initial_state(batch_size)

    def project(self, x: Tensor, first_step: int = 0) -> Any:
        raise NotImplementedError

    def recur(self, projected_t: Any, state: State) -> State:
        raise NotImplementedError

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        outputs = []
        for step, cell in enumerate(self._own()):
            projected = select_step(cell.project(x[:, step : step + 1], first_step + step), 0)
            state = cell.recur(projected, state)
            outputs.append(cell.output(projected, state))
        return torch.stack(outputs, dim=1), state

    def _own(self) -> list[Recurrent]:
        return cast("list[Recurrent]", list(self.cells))


def gradients_by_step(probe: Probe) -> dict[tuple[int, str], list[np.ndarray]]:
    """(layer, direction) -> gradient of the batch-mean loss at t* for the parameters used at steps 1 … N."""
    network = copy.deepcopy(probe.network)
    for layer in network.layers:
        for name, cell in list(layer.items()):  # type: ignore[operator]
            layer[name] = Untied(cell, probe.input_len)  # type: ignore[operator]
    predictions = network(probe.batch.inputs, probe.batch.loss_steps)
    probe.task.loss(predictions, probe.batch.targets)[:, -1].mean().backward()
    return {
        (index, name.removesuffix("_cell")): [_flat_gradient(cell) for cell in untied.cells]
        for index, layer in enumerate(network.layers)
        for name, untied in layer.items()  # type: ignore[operator]
    }


def _flat_gradient(cell: nn.Module) -> np.ndarray:
    parts = [torch.zeros_like(own) if own.grad is None else own.grad for own in cell.parameters()]
    return torch.cat([part.flatten() for part in parts]).numpy()


def slow_table(probe: Probe, num_bins: int) -> pd.DataFrame:
    """The table of `TemporalContributions`, from `gradients_by_step` and plain sums."""
    rows = []
    for (layer, direction), gradients in gradients_by_step(probe).items():
        last = read_step(probe, layer, direction)
        of_lag = {last - t: gradient for t, gradient in enumerate(gradients, start=1)}
        edges = log_spaced_lags(last - 1, num_bins)
        bins = [(0, 0)] + [(edge + 1, edges[i + 1]) for i, edge in enumerate(edges[:-1])]
        felt_later = [lag for lag, gradient in of_lag.items() if lag < 0 and (gradient != 0).any()]
        bins = ([(min(felt_later), -1)] if felt_later else []) + bins
        rows += slow_rows({"layer": layer, "direction": direction}, of_lag, bins)
    return pd.DataFrame(rows)


def slow_rows(
    place: dict[str, Any], of_lag: dict[int, np.ndarray], bins: list[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Rows of one layer and direction, from the gradient of each lag, by plain sums."""
    full = sum(of_lag.values(), np.zeros(()))
    norm = np.sqrt((full**2).sum())
    rows = []
    for low, high in bins:
        share = sum((gradient for lag, gradient in of_lag.items() if low <= lag <= high), np.zeros_like(full))
        reached = sum((gradient for lag, gradient in of_lag.items() if lag <= high), np.zeros_like(full))
        missing = sum((gradient for lag, gradient in of_lag.items() if lag > high), np.zeros_like(full))
        row = {
            **place,
            "lag_from": low,
            "lag_to": high,
            "share_norm": np.sqrt((share**2).sum()),
            "share_of_norm": np.sqrt((share**2).sum()) / norm,
            "cumulative_cosine": (reached * full).sum() / np.sqrt((reached**2).sum()) / norm,
            "cumulative_norm_ratio": np.sqrt((reached**2).sum()) / norm,
            "cumulative_relative_error": np.sqrt((missing**2).sum()) / norm,
            "effective_horizon_steps": np.nan,
            "num_entries": share.size,
            "num_zero_entries": sum(entry == 0 for entry in share.tolist()),
            "num_subnormal_entries": 0,
            "num_non_finite_entries": 0,
        }
        rows.append(row)
    candidates = [row["lag_to"] for row in rows if row["lag_to"] >= 0]
    errors = {row["lag_to"]: row["cumulative_relative_error"] for row in rows}
    horizon = min(d for d in candidates if all(errors[later] <= 0.1 for later in candidates if later >= d))
    return [{**row, "effective_horizon_steps": horizon} for row in rows]
