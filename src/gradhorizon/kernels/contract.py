"""Whether a cell is measured as the equation that it writes down: it remembers, overwrites, rounds and hides nothing.

Everything runs on the CPU in float64, in evaluation mode, in which probes run.

Notation: B batch, N steps, D input size, S entries of the full state, t counts inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from gradhorizon.cells.called import is_from_elsewhere, method_of, name_of
from gradhorizon.cells.cell import Projected, Recurrent, State, select_step, split_steps
from gradhorizon.kernels.attributes import are_same_tensors
from gradhorizon.kernels.conduct import LENGTHS, ConductError, check_precision, check_repeats, check_untouched
from gradhorizon.kernels.gate import SamplesInteractError, configuration
from gradhorizon.kernels.one_step import check_derivatives, one_step
from gradhorizon.kernels.shapes import BATCH_SIZE, check_shapes, in_words, own_copy
from gradhorizon.kernels.surroundings import own_surroundings

_NUM_STEPS = max(LENGTHS)
_FIRST_STEP = 3
_CLOCK = (0, 1, 2, 3, 4, 5, 99)  # `first_step` of the steps that are looked at: what is done at each k-th is among them
_WATCHED = (0, 1, 99)  # those whose single operations are followed, which takes ten times as long
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
    for check in contract_checks(cell).values():
        check()
    _passed.add(key)


def contract_checks(cell: Recurrent) -> dict[str, Callable[[], None]]:
    """What `check_contract` asks, in its order: what must hold, in words -> raises ConductError where it does not.

    Args:
        cell: left as it is.
    """
    examined = _Examined(cell)
    return {FORM: partial(check_shapes, cell), **{words: partial(examined.ask, own) for words, own in _ASKED.items()}}


class _Examined:
    """A copy of a cell, and what earlier checks have found of it for later ones."""

    def __init__(self, cell: Recurrent) -> None:
        self.original = cell

    @cached_property
    def cell(self) -> Recurrent:
        return own_copy(self.original)

    @cached_property
    def given(self) -> list[tuple[Tensor, State]]:
        return _untouched_steps(self.cell)

    @cached_property
    def rounds(self) -> bool:
        return _watched_steps(self.cell, self.given)

    def ask(self, check: Callable[[_Examined], object]) -> None:
        with own_surroundings(), in_words(method_of(self.original, "segment")):
            check(self)


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


@torch.no_grad()
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


@torch.no_grad()
def _untouched_steps(cell: Recurrent) -> list[tuple[Tensor, State]]:
    """Inputs and states of steps that were run one by one, and changed neither."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH_SIZE, _NUM_STEPS, cell.input_size, generator=generator, dtype=torch.float64)
    state = tuple(part.detach().clone() for part in cell.initial_state(BATCH_SIZE))
    given = []
    for t, x_t in zip(_CLOCK, x.split(1, dim=1), strict=True):
        reached = _untouched_step(cell, x_t, state, t)
        given.append((x_t, state))
        state = tuple(part.detach() for part in reached)
    return given


@torch.no_grad()
def _watched_steps(cell: Recurrent, given: Sequence[tuple[Tensor, State]]) -> bool:
    """Whether any step rounds; none leaves float64 or reads a value."""
    name = method_of(cell, "recur")
    rounds = False
    for t, (x_t, state) in zip(_CLOCK, given, strict=True):
        if t in _WATCHED:
            leaves = _leaves((x_t, *state))
            rounds |= check_precision(name, cell, partial(one_step, cell, x_t, state, t), (x_t, state)).rounds
            check_precision(name, cell, partial(_pass_back, cell, leaves, t), leaves)
    return rounds


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


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
    reached, output = one_step(cell, leaves[0], tuple(leaves[1:]), t)
    felt = [part for part in (*reached, output) if part.requires_grad]
    if felt:
        torch.autograd.grad([part.sum() for part in felt], leaves, allow_unused=True)


@torch.no_grad()
def _check_samples(cell: Recurrent) -> None:
    x, state = _draws(cell)
    scales = torch.tensor(_SCALES, dtype=torch.float64)
    x = x * scales[:, None, None]
    state = tuple(part * scales.view(-1, *[1] * (part.ndim - 1)) for part in state)
    together = _flattened(one_step(cell, x[:, :1], state, _FIRST_STEP))
    for sample in range(BATCH_SIZE):
        own = slice(sample, sample + 1)
        alone = _flattened(one_step(cell, x[own, :1], tuple(part[own] for part in state), _FIRST_STEP))
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


FORM = "states, projections and outputs have the form that is declared"
_ASKED: dict[str, Callable[[_Examined], object]] = {
    "leaves its input and state as they are": lambda examined: examined.given,
    "stays in float64 and branches on no value": lambda examined: examined.rounds,
    "keeps nothing between calls": lambda examined: _check_memory(examined.cell),
    "mixes no samples": lambda examined: _check_samples(examined.cell),
    "can be copied": lambda examined: _check_copies(examined.cell),
    "its gradient is its derivative, nothing is detached": lambda examined: check_derivatives(
        examined.cell, examined.given, _CLOCK, examined.rounds
    ),
}
