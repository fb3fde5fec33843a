"""Slow, obvious twins: one step at a time, by other code than the project's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State, select_step


def torch_cell(cell: Recurrent) -> nn.RNNCellBase:
    """``torch.nn.RNNCell``, ``LSTMCell`` or ``GRUCell`` with the cell's weights copied."""
    (kernel,) = cell.children()
    weights = cast("nn.RNNBase", kernel).all_weights[0]
    dtype = weights[0].dtype
    if isinstance(kernel, nn.LSTM):
        twin: nn.RNNCellBase = nn.LSTMCell(cell.input_size, cell.hidden_size, dtype=dtype)
    elif isinstance(kernel, nn.GRU):
        twin = nn.GRUCell(cell.input_size, cell.hidden_size, dtype=dtype)
    else:
        nonlinearity = str(cell.nonlinearity)
        twin = nn.RNNCell(cell.input_size, cell.hidden_size, nonlinearity=nonlinearity, dtype=dtype)
    with torch.no_grad():
        for name, weight in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True):
            cast("Tensor", getattr(twin, name)).copy_(weight)
    return twin


def run_torch_cell(twin: nn.RNNCellBase, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Outputs (B, N, H) and the last state of ``torch.nn.*Cell``, step by step."""
    outputs = []
    for x_t in x.unbind(1):
        found = twin(x_t, state if isinstance(twin, nn.LSTMCell) else state[0])
        state = found if isinstance(found, tuple) else (found,)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state


def run_steps(cell: Recurrent, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Outputs (B, N, H) and the last state by the cell's own `step`, one input at a time."""
    outputs = []
    for t in range(1, x.shape[1] + 1):
        x_t = x[:, t - 1]
        state = cell.step(x_t, state, t - 1)
        outputs.append(cell.output(select_step(cell.project(x_t.unsqueeze(1), t - 1), 0), state))
    return torch.stack(outputs, dim=1), state


def through_time_and_direct(
    cell: Recurrent, x: Tensor, state: State, output_gradients: Tensor, t: int
) -> tuple[State, State]:
    """Both parts of the gradient of Σ ⟨output_gradients, outputs⟩ with respect to s_t, from a graph cut at t.

    The state at t enters the recurrence as one leaf and the output of step t as another, so that each part is the
    gradient of its own leaf.
    """
    with torch.no_grad():
        for step in range(1, t + 1):
            state = cell.step(x[:, step - 1], state, step - 1)
    into_recurrence = tuple(part.clone().requires_grad_() for part in state)
    into_output = tuple(part.clone().requires_grad_() for part in state)
    objective = x.new_zeros(())
    if t >= 1:
        projected_t = select_step(cell.project(x[:, t - 1 : t], t - 1), 0)
        objective = objective + (output_gradients[:, t - 1] * cell.output(projected_t, into_output)).sum()
    running: State = into_recurrence
    for step in range(t + 1, x.shape[1] + 1):
        running = cell.step(x[:, step - 1], running, step - 1)
        projected_t = select_step(cell.project(x[:, step - 1 : step], step - 1), 0)
        objective = objective + (output_gradients[:, step - 1] * cell.output(projected_t, running)).sum()
    leaves = (*into_recurrence, *into_output)
    found = torch.autograd.grad(objective, leaves, materialize_grads=True, allow_unused=True)
    return found[: len(state)], found[len(state) :]


def attention_predictions(
    query: Tensor, features: Tensor, scores: Sequence[Tensor], weight: Tensor, bias: Tensor
) -> Tensor:
    """One sample's prediction (O,) from its query (F,), visible features (M, F) and their scores, by plain sums."""
    exponentials = [torch.exp(score) for score in scores]
    total = torch.stack(exponentials).sum()
    context = torch.zeros_like(query)
    for exponential, feature in zip(exponentials, features, strict=True):
        context = context + exponential / total * feature
    return weight @ torch.cat([query, context]) + bias
