r"""What a kernel and the loop over steps are compared in: outputs, final state and every gradient, on the same numbers.

Notation: B batch, N steps, D input size; the error of a tensor a against its reference b is ‖a − b‖ / ‖b‖.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gradhorizon.cells.cell import Recurrent, State, select_step

Draws = dict[str, Tensor]
"""Name -> tensor: the inputs ``x``, ``outputs_cotangent``, and of a state ``state/<name>``, ``cotangent/<name>``."""
Quantities = dict[str, Tensor]
Run = Callable[[Recurrent, Tensor, State], tuple[Tensor, State]]
"""A cell, inputs (B, N, D) and s_0 -> outputs (B, N, H) and s_N."""

FIRST_STEP = 3
"""How many inputs came before: not 0, so that a clocked cell which forgets its offset is caught."""
OF_PARAMETERS = "parameter_gradient/"
_CANCELLED = 1e-2
"""Share of the norm of all parameters' gradients below which that of one is not held against itself alone.

A bias before a normalisation, or of the keys before a softmax, has a gradient of 0 of which rounding leaves some.
"""


def draws_of(cell: Recurrent, dtype: torch.dtype, input_len: int, batch_size: int) -> Draws:
    """Inputs, a non-zero initial state and cotangents, standard normal, in float64, rounded to `dtype` beforehand."""
    shapes: dict[str, tuple[int, ...]] = {
        "x": (batch_size, input_len, cell.input_size),
        "outputs_cotangent": (batch_size, input_len, cell.hidden_size),
    }
    for name, shape in cell.state_shapes.items():
        shapes[f"state/{name}"] = shapes[f"cotangent/{name}"] = (batch_size, *shape)
    return drawn(shapes, dtype)


def drawn(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Draws:
    """A standard normal tensor per shape, in order, in float64, rounded to `dtype` beforehand."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).double()
        for name, shape in shapes.items()
    }


def quantities_of(cell: Recurrent, draws: Draws, run: Run) -> Quantities:
    """All that is compared of `cell`, by name.

    Args:
        cell: in the format and on the device of the draws.
        draws: what `draws_of` gives.
        run: `run_segment` or `run_steps`, or like them.
    """
    components = list(cell.state_shapes)
    x = draws["x"].clone().requires_grad_()
    state = tuple(draws[f"state/{name}"].clone().requires_grad_() for name in components)
    parameters = {name: parameter for name, parameter in cell.named_parameters() if parameter.requires_grad}
    outputs, final_state = run(cell, x, state)
    cotangents = [draws["outputs_cotangent"], *(draws[f"cotangent/{name}"] for name in components)]
    wanted = [x, *state, *parameters.values()]
    gradients = torch.autograd.grad((outputs, *final_state), wanted, cotangents, materialize_grads=True)
    names = [
        "input_gradient",
        *(f"initial_state_gradient/{name}" for name in components),
        *(f"{OF_PARAMETERS}{name}" for name in parameters),
    ]
    final = {f"final_state/{name}": part.detach() for name, part in zip(components, final_state, strict=True)}
    return {"outputs": outputs.detach(), **final, **dict(zip(names, gradients, strict=True))}


def run_segment(cell: Recurrent, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One call of `segment`: the kernel."""
    return cell.segment(x, state, FIRST_STEP)


def run_steps(
    cell: Recurrent, x: Tensor, state: State, rounded: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, State]:
    """The loop over the cell's step: the definition.

    Args:
        cell: the recurrence.
        x: inputs, shape (B, N, D).
        state: s_0.
        rounded: what becomes of every tensor that a step hands on; it stays as it is if None.
    """

    def handed_on(tree: Any) -> Any:
        return tree if rounded is None else tree_map(rounded, tree)

    outputs = []
    for t, x_t in enumerate(x.split(1, dim=1)):
        projected_t = handed_on(select_step(cell.project(x_t, FIRST_STEP + t), 0))
        state = handed_on(cell.recur(projected_t, state))
        outputs.append(handed_on(cell.output(projected_t, state)))
    return torch.stack(outputs, dim=1), state


def relative_errors(found: Quantities, expected: Quantities) -> dict[str, float]:
    """Quantity -> relative error, dimensionless.

    Of parameters, relative to a hundredth of the norm of them all where their own is smaller.

    Args:
        found: on any device, in any dtype.
        expected: on the CPU; its names count.
    """
    least = _CANCELLED * math.hypot(*(_norm(own) for name, own in expected.items() if name.startswith(OF_PARAMETERS)))
    return {
        name: _relative_error(found[name].to("cpu", own.dtype), own, least if name.startswith(OF_PARAMETERS) else 0.0)
        for name, own in expected.items()
    }


def _relative_error(found: Tensor, expected: Tensor, least_norm: float) -> float:
    error = _norm(found - expected)
    return 0.0 if error == 0 else error / max(_norm(expected), least_norm, sys.float_info.min)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor))
