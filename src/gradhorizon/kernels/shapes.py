"""Whether a cell's states, projections and outputs have the form that the contract of `Recurrent` gives them.

Notation: B batch, N steps, D input size, H hidden size; everything runs on the CPU in float64.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gradhorizon.cells.called import method_of, name_of
from gradhorizon.cells.cell import Recurrent, select_step
from gradhorizon.kernels.conduct import ConductError, evaluation_copy
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.terminal.reasons import reason_of
from gradhorizon.terminal.words import counted, one_line

BATCH_SIZE = 3
_NUM_STEPS = 2
_OF_FORMATS = re.compile(r"dtype|scalar type|float|double|complex", re.IGNORECASE)


def check_shapes(cell: Recurrent) -> None:
    """Refuse a cell whose states, projections or outputs are not those of the contract, or NaN at once.

    Args:
        cell: left as it is.

    Raises:
        ConductError: one line that names the method, what it gave and what to write.
    """
    name = name_of(cell)
    with own_surroundings(), torch.no_grad():
        copied = own_copy(cell)
        with in_words(f"{name}.state_shapes"):
            shapes = _checked_shapes(name, copied.state_shapes)
        with in_words(method_of(cell, "initial_state")):
            start = _checked_state(method_of(cell, "initial_state"), copied.initial_state(BATCH_SIZE), shapes)
        x = torch.randn(BATCH_SIZE, _NUM_STEPS, cell.input_size, generator=torch.Generator().manual_seed(0)).double()
        with in_words(method_of(cell, "project")):
            projected = copied.project(x, 0)
            _check_projected(name, projected)
        projected_t = select_step(projected, 0)
        with in_words(method_of(cell, "recur")):
            reached = _checked_state(method_of(cell, "recur"), copied.recur(projected_t, start), shapes)
        with in_words(method_of(cell, "output")):
            output = copied.output(projected_t, reached)
            _check_output(method_of(cell, "output"), output, cell.hidden_size)
    has_finite_weights = all(bool(own.isfinite().all()) for own in (*cell.parameters(), *cell.buffers(), *start))
    if has_finite_weights and any(bool(part.isnan().any()) for part in (*reached, output)):
        raise ConductError(
            f"`{name}` must be a number after one step from its initial state and weights, got NaN: look for 0/0, a "
            "root or logarithm of what is not positive, or a normalisation of zeros"
        )


def own_copy(cell: Recurrent) -> Recurrent:
    """A copy on the CPU in float64 and evaluation mode."""
    copied = evaluation_copy(cell, torch.float64, "cpu")
    assert isinstance(copied, Recurrent)  # noqa: S101, for the type checker
    return copied


@contextmanager
def in_words(method: str) -> Iterator[None]:
    """Whatever a cell's method raises, as one line that names the method.

    Args:
        method: that runs, behind the name of its class.
    """
    try:
        yield
    except (ConductError, KeyboardInterrupt):
        raise
    except Exception as error:
        hint = (
            "; in float64, in which everything is measured, constants need dtype=x.dtype and device=x.device, and "
            "`initial_state` the parameters' dtype"
            if _OF_FORMATS.search(one_line(error))
            else ""
        )
        raise ConductError(f"`{method}` must run in float64 on a batch, got {reason_of(error)}{hint}") from error


def _checked_shapes(name: str, shapes: Any) -> Mapping[str, tuple[int, ...]]:
    is_good = (
        isinstance(shapes, Mapping)
        and len(shapes) > 0
        and all(
            isinstance(key, str) and isinstance(shape, Sequence) and all(isinstance(size, int) for size in shape)
            for key, shape in shapes.items()
        )
    )
    if not is_good:
        raise ConductError(
            f"`{name}.state_shapes` must map each component's name to its shape without the batch, such as "
            f"{{'h': (hidden_size,)}}, got {str(shapes)[:80]}; a nested state has one entry per tensor"
        )
    return {key: tuple(shape) for key, shape in shapes.items()}


def _checked_state(method: str, state: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensor, ...]:
    wanted = f"a tuple of {counted(len(shapes), 'tensor')} ({', '.join(shapes)})"
    if not isinstance(state, tuple | list) or not all(isinstance(part, Tensor) for part in state):
        raise ConductError(f"`{method}` must return {wanted}, got {_shown(state)}; {_advice(state)}")
    if len(state) != len(shapes):
        raise ConductError(
            f"`{method}` must return {wanted}, got {len(state)} tensors; return the state alone (`output` and "
            "`gates` give what else is read), and name every component in `state_shapes`"
        )
    for part, (component, shape) in zip(state, shapes.items(), strict=True):
        _check_part(f"`{method}`", component, part, shape)
    return tuple(state)


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(_shown(part) for part in value)})"
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _advice(state: Any) -> str:
    if isinstance(state, Tensor):
        return "a single tensor is written (h,)"
    return "write a nested state flat, (h, c, n), and return nothing but the state"


def _check_part(where: str, component: str, part: Tensor, shape: tuple[int, ...]) -> None:
    if part.shape != (BATCH_SIZE, *shape):
        raise ConductError(
            f"{where} must give `{component}` the shape (batch, {', '.join(map(str, shape))}) that `state_shapes` "
            f"says, got {tuple(part.shape)} for a batch of {BATCH_SIZE}"
        )
    if part.is_complex():
        raise ConductError(
            f"{where} must give `{component}` as real numbers, got {part.dtype}; store a complex component as two, "
            "(z.real, z.imag), and join them by torch.complex(re, im) inside"
        )
    if not part.is_floating_point():
        raise ConductError(
            f"{where} must give `{component}` as real numbers, which have gradients, got {part.dtype}; a count of "
            "steps comes as `first_step` to `project`"
        )
    if part.dtype != torch.float64:
        raise ConductError(
            f"{where} must give `{component}` in the format that the cell computes in, got {part.dtype} from a "
            "float64 cell: everything after it would be of the lower precision; write dtype=x.dtype, or "
            "new_zeros of a parameter"
        )


def _check_projected(name: str, projected: Any) -> None:
    leaves = tree_leaves(projected)
    for leaf in leaves or [None]:
        if not isinstance(leaf, Tensor) or leaf.shape[:2] != (BATCH_SIZE, _NUM_STEPS):
            raise ConductError(
                f"`{name}.project` must return tensors of shape (batch, steps, …), got {_shown(leaf)} for "
                f"{_NUM_STEPS} steps of a batch of {BATCH_SIZE}; what is the same at all steps belongs to `recur`, or "
                "is expanded over them"
            )


def _check_output(method: str, output: Any, hidden_size: int) -> None:
    if not isinstance(output, Tensor) or output.shape != (BATCH_SIZE, hidden_size) or output.dtype != torch.float64:
        shown = f"{_shown(output)} in {output.dtype}" if isinstance(output, Tensor) else _shown(output)
        raise ConductError(
            f"`{method}` must return a real tensor (batch, hidden_size) = ({BATCH_SIZE}, {hidden_size}) in the "
            f"cell's format, got {shown} from a float64 cell; without an `output` it is the first state component"
        )
