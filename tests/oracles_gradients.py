"""Slow, obvious twins of the gradient measurements: one sample, one step and one leaf at a time, then plain sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradhorizon.cells.cell import State, select_step
from gradhorizon.measurements.probe import Probe
from gradhorizon.network import Network

Place = tuple[int, str, int]
"""Layer, direction and step in the direction's own time."""


def run_one_sample(
    network: Network,
    x: list[Tensor],
    loss_steps: Sequence[int],
    consumed: Mapping[Place, State] | None = None,
    fed: Mapping[Place, Tensor] | None = None,
) -> tuple[Tensor, dict[Place, State], dict[Place, Tensor]]:
    """Predictions (K, O) of one sample, its states and its outputs, by `Recurrent.step` alone.

    Args:
        network: the network.
        x: encoder output at each step, shape (1, E) each.
        loss_steps: where predictions are due.
        consumed: states that the next step shall consume in place of its own.
        fed: outputs that shall go upward in place of their own.
    """
    states: dict[Place, State] = {}
    outputs: dict[Place, Tensor] = {}
    features = x
    for index, layer in enumerate(network.layers):
        columns = []
        for name, cell in layer.items():  # type: ignore[operator]
            direction = name.removesuffix("_cell")
            state = cell.initial_state(1)
            for u, x_u in enumerate(features if direction == "forward" else features[::-1], start=1):
                states[index, direction, u - 1] = state
                state = (consumed or {}).get((index, direction, u - 1), state)
                state = cell.step(x_u, state, u - 1)
                output = cell.output(select_step(cell.project(x_u.unsqueeze(1), u - 1), 0), state)
                outputs[index, direction, u] = (fed or {}).get((index, direction, u), output)
            states[index, direction, len(features)] = state
            order = range(1, len(features) + 1) if direction == "forward" else range(len(features), 0, -1)
            columns.append([outputs[index, direction, u] for u in order])
        features = [torch.cat(parts, dim=1) for parts in zip(*columns, strict=True)]
    return _read(network, features, columns, tuple(loss_steps)), states, outputs


def _read(network: Network, features: list[Tensor], columns: list[list[Tensor]], loss_steps: tuple[int, ...]) -> Tensor:
    input_len = len(features)
    queries = [features[t - 1] for t in loss_steps]
    if network.bidirectional and loss_steps == (input_len,):
        queries = [torch.cat([columns[0][-1], columns[1][0]], dim=1)]
    visible = [[network.bidirectional or t <= step for t in range(1, input_len + 1)] for step in loss_steps]
    return network.readout(torch.stack(queries, 1), torch.stack(features, 1), torch.tensor(visible))


def input_gradients(probe: Probe, of_training_loss: bool = False) -> np.ndarray:
    """∂L_b/∂x_t of every sample and step, shape (B, N, E), each sample run alone with one leaf per step."""
    found = []
    for b in range(len(probe.batch.inputs)):
        x = [x_t[None].clone().requires_grad_() for x_t in probe.network.encoder(probe.batch.inputs[b])]
        losses = _losses(probe, b, run_one_sample(probe.network, x, probe.batch.loss_steps)[0])
        loss = losses.mean() if of_training_loss else losses[-1]
        gradients = torch.autograd.grad(loss, x, allow_unused=True)
        found.append([np.zeros(x[0].shape[1]) if g is None else g[0].numpy() for g in gradients])
    return np.array(found)


def state_gradients(probe: Probe, layer: int, direction: str, t: int) -> dict[str, list[np.ndarray]]:
    """Part -> per component, ∂L_b(t*)/∂s_t of every sample, shape (B, S), from a graph that is cut at t.

    The state that step t + 1 consumes is one leaf, the output of step t another; the direct part of the latter is
    pulled back through the cell's `output` alone.
    """
    through_time, direct = [], []
    for b in range(len(probe.batch.inputs)):
        x = [x_t[None] for x_t in probe.network.encoder(probe.batch.inputs[b])]
        _, states, outputs = run_one_sample(probe.network, x, probe.batch.loss_steps)
        state = states[layer, direction, t]
        leaves = tuple(part.detach().clone().requires_grad_() for part in state)
        through_time.append(_pull(probe, b, x, {(layer, direction, t): leaves}, {}, leaves))
        if t == 0:
            direct.append([np.zeros(part.shape[1]) for part in state])
            continue
        fed = outputs[layer, direction, t].detach().clone().requires_grad_()
        (of_output,) = _pull(probe, b, x, {}, {(layer, direction, t): fed}, (fed,))
        cell = probe.network.layers[layer][f"{direction}_cell"]  # type: ignore[index]
        own_inputs = inputs_of_layer(probe, x, outputs, layer, direction)
        projected = select_step(cell.project(own_inputs[t - 1].unsqueeze(1), t - 1), 0)
        output = cell.output(projected, leaves)
        direct.append(_gradients((output * torch.from_numpy(of_output)).sum(), leaves))
    parts = {"through_time": through_time, "direct": direct}
    return {part: [np.array(component) for component in zip(*rows, strict=True)] for part, rows in parts.items()}


def inputs_of_layer(
    probe: Probe, x: list[Tensor], outputs: Mapping[Place, Tensor], layer: int, direction: str
) -> list[Tensor]:
    """What a layer and direction consumed at each step of its own time, shape (1, …) each."""
    features = x
    if layer > 0:
        input_len = len(x)
        forward = [outputs[layer - 1, "forward", t] for t in range(1, input_len + 1)]
        features = forward
        if probe.network.bidirectional:
            backward = [outputs[layer - 1, "backward", input_len + 1 - t] for t in range(1, input_len + 1)]
            features = [torch.cat(pair, dim=1) for pair in zip(forward, backward, strict=True)]
    return [feature.detach() for feature in (features if direction == "forward" else features[::-1])]


def _pull(
    probe: Probe,
    b: int,
    x: list[Tensor],
    consumed: Mapping[Place, State],
    fed: Mapping[Place, Tensor],
    leaves: tuple[Tensor, ...],
) -> list[np.ndarray]:
    predictions, _, _ = run_one_sample(probe.network, x, probe.batch.loss_steps, consumed, fed)
    return _gradients(_losses(probe, b, predictions)[-1], leaves)


def _gradients(loss: Tensor, leaves: tuple[Tensor, ...]) -> list[np.ndarray]:
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    pairs = zip(found, leaves, strict=True)
    return [np.zeros(leaf.shape[1]) if g is None else g[0].detach().numpy() for g, leaf in pairs]


def _losses(probe: Probe, b: int, predictions: Tensor) -> Tensor:
    return probe.task.loss(predictions, probe.batch.targets[b : b + 1])[0]


def norm(vector: Iterable[float]) -> float:
    """Euclidean norm by Python's own `math.hypot`, which neither underflows nor overflows."""
    return math.hypot(*vector)


def summary(vectors: Sequence[Sequence[float]], references: Sequence[float]) -> dict[str, Any]:
    """Every summary column of one row, from one vector per sample, by plain Python."""
    norms = [norm(vector) for vector in vectors]
    relative = [own / by for own, by in zip(norms, references, strict=True) if by > 0]
    entries = [abs(entry) for vector in vectors for entry in vector]
    smallest = float(np.finfo(np.float64).tiny)
    return {
        **_quantiles("gradient_norm", norms),
        **_quantiles("relative_gradient_norm", relative),
        "num_samples": len(norms),
        "num_zero_norms": norms.count(0.0),
        "num_non_finite_norms": sum(not math.isfinite(own) for own in norms),
        "num_undefined_relative_norms": len(norms) - len(relative),
        "num_entries": len(entries),
        "num_zero_entries": entries.count(0.0),
        "num_subnormal_entries": sum(0 < entry < smallest for entry in entries),
        "num_non_finite_entries": sum(not math.isfinite(entry) for entry in entries),
    }


def _quantiles(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {f"{name}_{label}": math.nan for label in ("median", "p10", "p90")}
    quantiles = [log_quantile(sorted(values), probability) for probability in (0.5, 0.1, 0.9)]
    return {f"{name}_{label}": value for label, value in zip(("median", "p10", "p90"), quantiles, strict=True)}


def log_quantile(ordered: Sequence[float], probability: float) -> float:
    """Between the logarithms of two neighbours, of which a 0 leaves 0."""
    below, weight = divmod(probability * (len(ordered) - 1), 1)
    low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    if weight == 0 or low == 0:
        return low
    return math.exp((1 - weight) * math.log(low) + weight * math.log(high))


def read_step(probe: Probe, layer: int, direction: str) -> int:
    """The last own-time step of a direction that the probed prediction reads, from the layout of the network alone."""
    input_len, probed = probe.input_len, probe.probed_step
    if direction == "forward":
        return probed
    is_top = layer == len(probe.network.layers) - 1
    is_read_at_loss_steps = is_top and type(probe.network.readout).__name__ == "StateReadout"
    is_for_whole_sequence = probe.batch.loss_steps == (input_len,)
    return input_len + 1 - probed if is_read_at_loss_steps and not is_for_whole_sequence else input_len
