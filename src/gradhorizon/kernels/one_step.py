"""One step of a cell as a map of vectors, whose derivatives by autograd are held against finite differences.

Notation: B batch, D input size, H hidden size, S entries of the full state, M samples.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradhorizon.cells.called import method_of, name_of
from gradhorizon.cells.cell import Recurrent, State, select_step
from gradhorizon.kernels.attributes import is_same_tensor
from gradhorizon.kernels.conduct import ConductError
from gradhorizon.kernels.derivatives import Derivatives, compare_derivatives
from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)

_MOST_ENTRIES = 64  # rows and columns of a Jacobian that are compared
_TOLERANCE = 1e-10  # as the kernel gate's for float64


def one_step(cell: Recurrent, x_t: Tensor, state: State, t: int) -> tuple[State, Tensor]:
    """State and output after the step that t inputs came before; x_t has the shape (B, 1, D)."""
    projected_t = select_step(cell.project(x_t, t), 0)
    state = tuple(cell.recur(projected_t, state))
    return state, cell.output(projected_t, state)


def check_derivatives(
    cell: Recurrent, given: Sequence[tuple[Tensor, State]], clock: Sequence[int], rounds: bool
) -> None:
    """Refuse a cell whose step has another gradient than its derivative: something is detached.

    Args:
        cell: on the CPU in float64 and evaluation mode.
        given: input and state of some steps.
        clock: their `first_step`.
        rounds: whether a step takes a piecewise constant function of its data.

    Raises:
        ConductError: part of a derivative is missing.
    """
    pieces = ["its input", *(f"its state component `{name}`" for name in cell.state_shapes)]
    sizes = [cell.input_size, *(math.prod(shape) for shape in cell.state_shapes.values())]
    training = copy.deepcopy(cell).train()
    for t, (x_t, state) in zip(clock, given, strict=True):
        point = torch.cat([part[0].flatten() for part in (x_t, *state)])
        _judge(cell, _compared(cell, point, sizes, t), pieces, sizes, rounds, "")
        if t == clock[-1] and _is_alike(cell, training, point, t):
            _judge(cell, _compared(training, point, sizes, t), pieces, sizes, rounds, " in training mode")


def _is_alike(cell: Recurrent, training: Recurrent, point: Tensor, t: int) -> bool:
    """Whether a step gives the same numbers in training mode, no batch statistics and no noise."""
    points = torch.stack([point, 0.5 * point, point])
    with torch.no_grad():
        return is_same_tensor(_map(cell, points, t), _map(training, points, t), _TOLERANCE)


def _compared(cell: Recurrent, point: Tensor, sizes: Sequence[int], t: int) -> Derivatives:
    rows = _spread([cell.hidden_size, *sizes[1:]])
    return compare_derivatives(lambda points: _map(cell, points, t), point, rows, _spread(sizes))


def _map(cell: Recurrent, points: Tensor, t: int) -> Tensor:
    """One step as a map of flat vectors: (input, state) -> (output, state), shapes (M, D + S) -> (M, H + S)."""
    x_t, *parts = points.split([cell.input_size, *(math.prod(shape) for shape in cell.state_shapes.values())], dim=1)
    state = tuple(
        part.reshape(len(points), *shape) for part, shape in zip(parts, cell.state_shapes.values(), strict=True)
    )
    reached, output = one_step(cell, x_t.unsqueeze(1), state, t)
    return torch.cat([part.reshape(len(points), -1) for part in (output, *reached)], dim=1)


def _spread(sizes: Sequence[int]) -> list[int]:
    """Some entries of every piece, evenly spread."""
    found, start = [], 0
    most = max(1, _MOST_ENTRIES // len(sizes))
    for size in sizes:
        count = min(size, most)
        found += [start + index * size // count for index in range(count)]
        start += size
    return found


def _judge(
    cell: Recurrent, found: Derivatives, pieces: Sequence[str], sizes: Sequence[int], rounds: bool, where: str
) -> None:
    ends = torch.tensor(sizes).cumsum(0)
    owner = torch.searchsorted(ends, torch.tensor(found.columns), right=True)
    for index, piece in enumerate(pieces):
        is_wrong = found.is_wrong & (owner == index)
        if not is_wrong.any():
            continue
        is_missing = not bool((found.by_autograd[:, owner == index] != 0).any())
        if is_missing or not (rounds or found.has_function):
            raise ConductError(_words_of_detached(cell, found, is_wrong, piece, where))
        say_once(
            log,
            f"note: the gradient of {name_of(cell)} is a surrogate, and differs from the derivative of what the "
            "cell computes; measurements are of the gradient that trains",
        )


def _words_of_detached(cell: Recurrent, found: Derivatives, is_wrong: Tensor, piece: str, where: str) -> str:
    gap = torch.where(is_wrong, (found.by_autograd - found.by_differences).abs(), 0)
    worst = int(gap.argmax())
    right, got = found.by_differences.flatten()[worst], found.by_autograd.flatten()[worst]
    return (
        f"`{method_of(cell, 'recur')}` must be differentiated as it is computed, got a derivative by {piece} of "
        f"{float(got):.3g}{where} where finite differences give {float(right):.3g}: part of it is cut off; remove "
        "detach(), .data, no_grad or NumPy, or mend a backward pass of your own"
    )
