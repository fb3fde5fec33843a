r"""A network: encoder -> stacked, possibly bidirectional layers -> readout at the task's loss steps.

Notation: B batch, N steps, K loss steps, D input size, E encoder features, H hidden size, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gradhorizon.cells.cell import Layer, Recurrent
from gradhorizon.cells.unroll import Trajectory, unroll
from gradhorizon.readouts import Readout, StateReadout


@dataclass(frozen=True)
class LayerTrace:
    """One direction of one layer along a batch.

    Attributes:
        layer: 0 is the one nearest to the input.
        direction: ``forward`` or ``backward``.
        cell: the layer that ran.
        inputs: what it consumed, in its own time, shape (B, N, D).
        trajectory: in its own time: step u of the backward direction consumed input t = N + 1 − u.
        read_step: the step, in its own time, at which the last loss step reads it; lags are counted back from there.
    """

    layer: int
    direction: str
    cell: Recurrent
    inputs: Tensor
    trajectory: Trajectory
    read_step: int


@dataclass(frozen=True)
class Trace:
    """A forward pass with everything whose gradient is measured.

    Attributes:
        predictions: shape (B, K, O).
        encoded: the encoder's output that the first layer consumed, shape (B, N, E); requires grad.
        layers: one entry per recurrent layer and direction, lowest first.
    """

    predictions: Tensor
    encoded: Tensor
    layers: tuple[LayerTrace, ...]


class Network(nn.Module):
    """Encoder, `num_layers` layers of one kind, readout.

    A bidirectional network whose only loss step is the last reads each direction at that direction's own
    last step, as ``torch.nn.LSTM``'s ``h_n`` does; with more loss steps it reads both directions at each.

    Args:
        cell: builds one layer; called with ``input_size``.
        input_size: D.
        output_size: O.
        num_layers: how many layers are stacked.
        bidirectional: whether each layer has a second one that runs from the end.
        readout: builds the readout; called with ``num_features`` and ``output_size``.
        encoder: builds a per-step map, called with ``input_size``, whose attribute ``output_size`` is E;
            the identity if None.
        recompute_every: steps per segment whose inner activations are recomputed in the backward pass; see `unroll`.

    Raises:
        ValueError: fewer than one layer, or a size below 1.
    """

    def __init__(
        self,
        cell: Callable[..., Layer],
        input_size: int,
        output_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        readout: Callable[..., Readout] = StateReadout,
        encoder: Callable[..., nn.Module] | None = None,
        recompute_every: int | None = None,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1, got {num_layers}")
        self.encoder = nn.Identity() if encoder is None else encoder(input_size=input_size)
        self.bidirectional = bidirectional
        self.recompute_every = recompute_every
        num_features = int(getattr(self.encoder, "output_size", input_size))
        layers: list[nn.ModuleDict] = []
        for _ in range(num_layers):
            names = ("forward_cell", "backward_cell") if bidirectional else ("forward_cell",)
            layers.append(nn.ModuleDict({name: cell(input_size=num_features) for name in names}))
            num_features = sum(layer.hidden_size for layer in layers[-1].values())  # type: ignore[misc]
        self.layers = nn.ModuleList(layers)
        self.readout = readout(num_features=num_features, output_size=output_size)

    def forward(self, inputs: Float[Tensor, "B N D"], loss_steps: Sequence[int]) -> Float[Tensor, "B K O"]:
        """Predictions at `loss_steps`, shape (B, K, O).

        Args:
            inputs: shape (B, N, D).
            loss_steps: ascending t in 1 … N.
        """
        return self._propagate(self.encoder(inputs), loss_steps, ())[0]

    def trace(
        self,
        inputs: Float[Tensor, "B N D"],
        loss_steps: Sequence[int],
        lags: Sequence[int] = (),
    ) -> Trace:
        """Predictions, with the tensors whose gradients are measured.

        Args:
            inputs: shape (B, N, D).
            loss_steps: ascending t in 1 … N.
            lags: lags at which states are kept, counted back, in each direction's own time, from its `read_step`;
                those before its initial state are left out.
        """
        encoded = self.encoder(inputs)
        encoded = encoded.view_as(encoded) if encoded.requires_grad else encoded.detach().requires_grad_()
        predictions, layers = self._propagate(encoded, loss_steps, lags)
        return Trace(predictions, encoded, tuple(layers))

    def cells(self) -> list[Layer]:
        """Every layer and direction, lowest first."""
        return [cell for layer in self.layers for cell in layer.values()]  # type: ignore[operator]

    def _propagate(
        self, features: Tensor, loss_steps: Sequence[int], lags: Sequence[int]
    ) -> tuple[Tensor, list[LayerTrace]]:
        input_len = features.shape[1]
        loss_steps = tuple(loss_steps)
        every_step = tuple(range(1, input_len + 1))
        traces: list[LayerTrace] = []
        for index, layer in enumerate(self.layers):
            is_last = index == len(self.layers) - 1
            steps = loss_steps if is_last and not self.readout.reads_all_steps else every_step
            outputs = []
            for name, cell in layer.items():  # type: ignore[operator]
                is_backward = name == "backward_cell"
                read = self._backward_steps(steps, input_len) if is_backward else steps
                x = features.flip(1) if is_backward else features
                last = self._read_step(is_backward, is_last, loss_steps, input_len)
                cuts = [last - lag for lag in lags if lag <= last]
                own_outputs, trace = _run_layer(cell, x, read, cuts, self.recompute_every)
                outputs.append(own_outputs.flip(1) if is_backward else own_outputs)
                if trace is not None:
                    traces.append(LayerTrace(index, name.removesuffix("_cell"), cell, x, trace, last))
            features = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return self._read(features, loss_steps, input_len), traces

    def _read_step(self, is_backward: bool, is_last: bool, loss_steps: tuple[int, ...], input_len: int) -> int:
        if not is_backward:
            return loss_steps[-1]
        if is_last and not self.readout.reads_all_steps:
            return self._backward_steps(loss_steps, input_len)[0]
        return input_len

    def _backward_steps(self, steps: tuple[int, ...], input_len: int) -> tuple[int, ...]:
        if steps == (input_len,):
            return (input_len,)
        return tuple(input_len + 1 - t for t in reversed(steps))

    def _read(self, features: Tensor, loss_steps: tuple[int, ...], input_len: int) -> Tensor:
        arguments: tuple[Tensor | None, ...] = (features, None, None)
        if self.readout.reads_all_steps:
            queries = self._queries(features, loss_steps, input_len)
            arguments = (queries, features, self._is_visible(loss_steps, input_len, features.device))
        predictions: Tensor = self.readout(*arguments)
        return predictions

    def _queries(self, features: Tensor, loss_steps: tuple[int, ...], input_len: int) -> Tensor:
        if self.bidirectional and loss_steps == (input_len,):
            half = features.shape[-1] // 2
            return torch.cat([features[:, -1:, :half], features[:, :1, half:]], dim=-1)
        return features[:, [t - 1 for t in loss_steps]]

    def _is_visible(self, loss_steps: tuple[int, ...], input_len: int, device: torch.device) -> Bool[Tensor, "K N"]:
        if self.bidirectional:
            return torch.ones(len(loss_steps), input_len, dtype=torch.bool, device=device)
        steps = torch.arange(1, input_len + 1, device=device)
        return steps <= torch.tensor(loss_steps, device=device).unsqueeze(1)


def _run_layer(
    cell: nn.Module, x: Tensor, read: tuple[int, ...], cuts: Sequence[int], recompute_every: int | None
) -> tuple[Tensor, Trajectory | None]:
    if isinstance(cell, Recurrent):
        trajectory = unroll(cell, x, cuts=cuts, output_steps=read, recompute_every=recompute_every)
        return trajectory.outputs, trajectory
    outputs = cell(x)
    return (outputs if len(read) == x.shape[1] else outputs[:, [t - 1 for t in read]]), None


class LinearEncoder(nn.Linear):
    r"""Affine map of each step's input, :math:`W x_t + b`, for layers that want inputs of a width of their own.

    Args:
        input_size: D.
        output_size: E.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__(input_size, output_size)
        self.output_size = output_size
