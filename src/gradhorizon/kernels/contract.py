"""Whether a cell is measured as the equation that it writes down: it remembers, overwrites, rounds and hides nothing.

Everything runs on the CPU in float64, in evaluation mode, in which probes run.

Notation: B batch, N steps, D input size, S entries of the full state, t counts inputs.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradhorizon.cells.called import is_from_elsewhere, method_of, name_of
from gradhorizon.cells.cell import Projected, Recurrent, State, select_step, split_steps
from gradhorizon.kernels.attributes import are_same_tensors, is_same_tensor
from gradhorizon.kernels.conduct import LENGTHS, ConductError, check_precision, check_repeats, check_untouched
from gradhorizon.kernels.derivatives import Derivatives, compare_derivatives
from gradhorizon.kernels.gate import SamplesInteractError, configuration
from gradhorizon.kernels.shapes import BATCH_SIZE, check_shapes, in_words, own_copy
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)

_NUM_STEPS = max(LENGTHS)
_FIRST_STEP = 3
_CLOCK = (0, 1, 2, 3, 4, 5, 99)  # `first_step` of the steps that are looked at: what is done at each k-th is among them
_WATCHED = (0, 1, 99)  # those whose single operations are followed, which takes ten times as long
_MOST_ENTRIES = 64  # rows and columns of a Jacobian that are compared
_TOLERANCE = 1e-10  # as the kernel gate's for float64
_SCALES = (0.03, 1.0, 10.0)  # of the samples that run together and alone

_passed: set[Hashable] = set()


def check_contract(cell: Recurrent) -> None:
    """Refuse a cell that is not measured as what it is.

    That is one that keeps something between calls, changes what it is given, leaves float64, reads a value, lets one
    sample's numbers depend on another's, or detaches. A pass is remembered for the process, per class and
    configuration. Gradients that differ from finite differences by choice (a surrogate) are said once.

    Args:
        cell: left as it is: parameters, their gradients, mode and all random states.

    Raises:
        ConductError: one line: what was found, what to write instead.
    """
    key = configuration(cell)
    if key in _passed:
        return
    check_shapes(cell)
    with own_surroundings(), in_words(method_of(cell, "segment")):
        copied = own_copy(cell)
        with torch.no_grad():
            given, rounds = _check_steps(copied)
            _check_memory(copied)
            _check_samples(copied)
        _check_copies(copied)
        _check_derivatives(copied, given, rounds)
    _passed.add(key)


def check_training_memory(cell: Recurrent) -> None:
    """Refuse a cell that changes itself while it trains, where its steps are recomputed in the backward pass.

    Batch statistics, a power iteration or a counter would move twice, and the gradient be that of other numbers.

    Args:
        cell: left as it is.

    Raises:
        ConductError: attributes or buffers change in training mode.
    """
    with own_surroundings(), torch.no_grad():
        copied = own_copy(cell)
        x, state = _draws(copied)
        torch.manual_seed(0)
        for parameter in copied.train().parameters():
            # As after some training: what has converged at the start (a power iteration) moves again.
            parameter.add_(0.3 * parameter.abs().mean() * torch.randn_like(parameter))
        random_state = torch.get_rng_state()

        def call(length: int) -> Any:
            torch.set_rng_state(random_state)
            return copied.segment(x[:, :length], state, 0)

        try:
            check_repeats(copied, call, tolerance=_TOLERANCE)
        except ConductError as error:
            raise ConductError(f"with `recompute_every`, in training mode too: {error}; or set it to null") from error


def _draws(cell: Recurrent) -> tuple[Tensor, State]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH_SIZE, _NUM_STEPS, cell.input_size, generator=generator, dtype=torch.float64)
    return x, cell.segment(x, cell.initial_state(BATCH_SIZE), 0)[1]


def _check_memory(cell: Recurrent) -> None:
    x, state = _draws(cell)
    check_repeats(cell, lambda _: cell.initial_state(BATCH_SIZE), tolerance=_TOLERANCE)
    check_repeats(cell, lambda length: cell.segment(x[:, :length], state, _FIRST_STEP), tolerance=_TOLERANCE)
    projected = split_steps(cell.project(x, _FIRST_STEP), _NUM_STEPS)
    # One projection for all: a clock that `project` sets and `recur` moves is caught.
    check_repeats(cell, lambda length: list(_steps(cell, projected[:length], state)), tolerance=_TOLERANCE)


def _steps(cell: Recurrent, projected: Sequence[Projected], state: State) -> Iterator[Any]:
    for projected_t in projected:
        gates = cell.gates(projected_t, state)
        state = cell.recur(projected_t, state)
        yield state, cell.output(projected_t, state), gates


def _check_steps(cell: Recurrent) -> tuple[list[tuple[Tensor, State]], bool]:
    """Inputs and states of steps that were run one by one, and whether any rounds."""
    name = method_of(cell, "recur")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH_SIZE, _NUM_STEPS, cell.input_size, generator=generator, dtype=torch.float64)
    state = tuple(part.detach().clone() for part in cell.initial_state(BATCH_SIZE))
    given, rounds = [], False
    for t, x_t in zip(_CLOCK, x.split(1, dim=1), strict=True):
        reached = _untouched_step(cell, x_t, state, t)
        if t in _WATCHED:
            leaves = _leaves((x_t, *state))
            rounds |= check_precision(name, cell, partial(_step, cell, x_t, state, t), (x_t, state)).rounds
            check_precision(name, cell, partial(_pass_back, cell, leaves, t), leaves)
        given.append((x_t, state))
        state = tuple(part.detach() for part in reached)
    return given, rounds


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def _step(cell: Recurrent, x_t: Tensor, state: State, t: int) -> tuple[State, Tensor]:
    projected_t = select_step(cell.project(x_t, t), 0)
    state = tuple(cell.recur(projected_t, state))
    return state, cell.output(projected_t, state)


def _untouched_step(cell: Recurrent, x_t: Tensor, state: State, t: int) -> State:
    projected = check_untouched(method_of(cell, "project"), lambda x: cell.project(x, t), {"x": x_t})
    projected_t = select_step(projected, 0)
    arguments = {"input" if is_from_elsewhere(cell) else "projected_t": projected_t, "state": state}
    reached: State = tuple(check_untouched(method_of(cell, "recur"), cell.recur, arguments))
    check_untouched(method_of(cell, "gates"), cell.gates, arguments)
    check_untouched(method_of(cell, "output"), cell.output, {"projected_t": projected_t, "state": reached})
    return reached


@torch.enable_grad()
def _pass_back(cell: Recurrent, leaves: Sequence[Tensor], t: int) -> None:
    reached, output = _step(cell, leaves[0], tuple(leaves[1:]), t)
    felt = [part for part in (*reached, output) if part.requires_grad]
    if felt:
        torch.autograd.grad([part.sum() for part in felt], leaves, allow_unused=True)


def _check_samples(cell: Recurrent) -> None:
    x, state = _draws(cell)
    scales = torch.tensor(_SCALES, dtype=torch.float64)
    x = x * scales[:, None, None]
    state = tuple(part * scales.view(-1, *[1] * (part.ndim - 1)) for part in state)
    together = _flattened(_step(cell, x[:, :1], state, _FIRST_STEP))
    for sample in range(BATCH_SIZE):
        own = slice(sample, sample + 1)
        alone = _flattened(_step(cell, x[own, :1], tuple(part[own] for part in state), _FIRST_STEP))
        if not are_same_tensors(alone, [part[own] for part in together], _TOLERANCE):
            raise SamplesInteractError(
                f"samples must not interact, got a {name_of(cell)} whose numbers for a sample depend on others "
                "of its batch in evaluation mode: every norm per sample would be that of a mixture; reduce over "
                "features, not over dimension 0, and branch by torch.where"
            )


def _flattened(result: tuple[State, Tensor]) -> tuple[Tensor, ...]:
    return (*result[0], result[1])


def _check_copies(cell: Recurrent) -> None:
    x, state = _draws(cell)
    own_copy(cell)
    used = copy.deepcopy(cell)
    used.segment(x, state, 0)
    own_copy(used)


def _check_derivatives(cell: Recurrent, given: Sequence[tuple[Tensor, State]], rounds: bool) -> None:
    pieces = ["its input", *(f"its state component `{name}`" for name in cell.state_shapes)]
    sizes = [cell.input_size, *(math.prod(shape) for shape in cell.state_shapes.values())]
    training = copy.deepcopy(cell).train()
    for t, (x_t, state) in zip(_CLOCK, given, strict=True):
        point = torch.cat([part[0].flatten() for part in (x_t, *state)])
        _judge(cell, _compared(cell, point, sizes, t), pieces, sizes, rounds, "")
        if t == _CLOCK[-1] and _is_alike(cell, training, point, t):
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
    reached, output = _step(cell, x_t.unsqueeze(1), state, t)
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
