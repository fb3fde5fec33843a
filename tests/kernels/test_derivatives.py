"""Autograd against finite differences: closed forms agree, what is cut off does not, kinks are not judged."""

from __future__ import annotations

import torch
from torch import Tensor

from gradhorizon.kernels.derivatives import compare_derivatives

POINT = torch.tensor([0.3, -0.7, 1.2], dtype=torch.float64)
MATRIX = torch.tensor([[1.0, 2.0, -1.0], [0.5, -3.0, 0.0]], dtype=torch.float64)


def test_both_are_the_closed_form() -> None:
    found = compare_derivatives(lambda z: torch.tanh(z @ MATRIX.T), POINT, [0, 1], [0, 1, 2])
    exact = (1 - torch.tanh(MATRIX @ POINT) ** 2)[:, None] * MATRIX
    torch.testing.assert_close(found.by_autograd, exact, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(found.by_differences, exact, rtol=1e-8, atol=1e-9)
    assert not found.is_wrong.any()
    assert not found.has_function


def test_a_part_that_is_cut_off_is_found_where_it_is() -> None:
    def function(z: Tensor) -> Tensor:
        return torch.tanh(torch.cat([z[:, :1], z[:, 1:2].detach(), z[:, 2:]], dim=1) @ MATRIX.T)

    found = compare_derivatives(function, POINT, [0, 1], [0, 1, 2])
    assert found.is_wrong.tolist() == [[False, True, False], [False, True, False]]
    assert not found.by_autograd[:, 1].any()


def test_rows_and_columns_are_picked() -> None:
    found = compare_derivatives(lambda z: z @ MATRIX.T, POINT, [1], [2, 0])
    assert found.by_autograd.tolist() == [[0.0, 0.5]]
    torch.testing.assert_close(found.by_differences, found.by_autograd, rtol=1e-8, atol=1e-9)


def test_a_kink_is_not_judged() -> None:
    found = compare_derivatives(torch.relu, torch.zeros(2, dtype=torch.float64), [0, 1], [0, 1])
    assert found.by_autograd.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert not found.is_wrong.any()


def test_what_is_not_finite_is_not_judged() -> None:
    found = compare_derivatives(lambda z: (z - 1).sqrt(), POINT, [0, 1, 2], [0, 1, 2])
    assert not found.is_wrong.any()


def test_nothing_to_differentiate_is_a_derivative_of_zero() -> None:
    found = compare_derivatives(lambda z: z.detach() * 2, POINT, [0], [0])
    assert found.by_autograd.tolist() == [[0.0]]
    assert found.is_wrong.tolist() == [[True]]
