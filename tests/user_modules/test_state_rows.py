"""Cells that nest their state, or return an output of its own, against one leaf at the cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradhorizon import state_gradient_profile
from tests.user_modules.naive import INPUTS, Made, log_median, squares

ZEROS = torch.zeros(4, 3)
UP = nn.Linear(3, 5)
LSTM = nn.LSTMCell(3, 3)


def stepped(_: Any, x: Tensor, h: Tensor) -> Tensor:
    return torch.tanh(x + 0.7 * h.roll(1, dims=1))


FORMS: dict[str, tuple[Callable[..., Any], Any, Callable[[Any], Tensor]]] = {
    "one": (stepped, ZEROS, lambda returned: returned),
    "tuple of one": (lambda m, x, s: (stepped(m, x, s[0]),), (ZEROS,), lambda returned: returned[0]),
    "dict": (lambda m, x, s: {"h": stepped(m, x, s["h"])}, {"h": ZEROS}, lambda returned: returned["h"]),
    "output is state": (lambda m, x, h: (stepped(m, x, h),) * 2, ZEROS, lambda returned: returned[0]),
    "output": (lambda m, x, h: (m.up(n := stepped(m, x, h)), n), ZEROS, lambda returned: returned[0]),
    "output, pair": (lambda m, x, s: (m.up((n := m.cell(x, s))[0]), n), (ZEROS, ZEROS), lambda returned: returned[0]),
    "pair": (lambda m, x, s: m.cell(x, s), (ZEROS, ZEROS), lambda returned: returned[0]),
    "nested": (
        lambda m, x, s: (m.cell((a := m.cell(x, s[0]))[0], s[1])[0], (a, m.cell(a[0], s[1]))),
        ((ZEROS, ZEROS), (ZEROS, ZEROS)),
        lambda returned: returned[0],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_state_of_any_form_has_the_gradient_of_one_leaf_at_the_cut(name: str) -> None:
    function, start, output = FORMS[name]
    cell = Made(function, up=UP, cell=LSTM)
    exact = Made(function, up=nn.Linear(3, 5), cell=nn.LSTMCell(3, 3))
    exact.load_state_dict(cell.state_dict())
    exact.double()
    flatten, restore = torch.utils._pytree.tree_flatten, torch.utils._pytree.tree_unflatten
    parts, structure = flatten(start)
    rows = state_gradient_profile(cell, INPUTS, squares, initial_state=start, cuts=[5])
    state, leaves = [part.double() for part in parts], []
    for t, x_t in enumerate(INPUTS.double().unbind(1)):
        if t == 5:
            leaves = state = [part.detach().requires_grad_() for part in state]
        returned = exact(x_t, restore(state, structure))
        has_output = name.startswith(("output", "nested"))
        state = flatten(returned[1] if has_output else returned)[0]
    found = torch.autograd.grad(squares(output(returned)).sum(), leaves)
    norms = torch.stack([gradient.square().sum(dim=1) for gradient in found]).sum(dim=0).sqrt()
    row = rows.query("part == 'total' and component == 'all'").iloc[0]
    np.testing.assert_allclose(row["gradient_norm_median"], log_median(norms.numpy()), rtol=1e-12)


def test_components_of_the_last_state_are_independent_of_one_another() -> None:
    cell = Made(FORMS["output, pair"][0], up=UP, cell=LSTM)
    rows = state_gradient_profile(cell, INPUTS, squares, initial_state=(ZEROS, ZEROS), cuts=[12])
    direct = rows.query("part == 'direct'").set_index("component")["gradient_norm_median"]
    assert direct["s0"] > 0
    assert direct["s1"] == 0


REFUSED: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "output or gate": (lambda m, x, h: (stepped(m, x, h), torch.sigmoid(x)), ZEROS, "which part is the next state"),
    "extra value": (lambda m, x, h: (m.up(h), stepped(m, x, h), 1), ZEROS, r"or \(output, state\), got"),
    "gate of another size": (lambda m, x, h: (stepped(m, x, h), m.up(x)), ZEROS, r"or \(output, state\), got"),
    "number": (stepped, (ZEROS, 3), "must be a tensor, or tuples, lists or dicts"),
    "complex": (stepped, ZEROS + 0j, "must be real"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_state_that_is_unclear_is_refused_in_one_line(name: str) -> None:
    function, start, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        state_gradient_profile(Made(function, up=UP), INPUTS, squares, initial_state=start)
    assert "\n" not in str(caught.value)


def test_state_of_another_shape_than_the_cells_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be of shapes \[\('batch', 3\)\] for this GRUCell, got \[\(4, 5\)\]"):
        state_gradient_profile(nn.GRUCell(3, 3), INPUTS, squares, initial_state=torch.zeros(4, 5))
