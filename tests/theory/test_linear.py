"""Closed forms of scaled orthogonal and identity recurrences against networks that meet their assumptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradhorizon import theory
from gradhorizon.cells.elman import Elman
from tests.measurements.networks import LinearCell
from tests.theory.profiles import through_time


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
def test_scaled_orthogonal_growth_rate_is_that_of_a_linear_network(scale: float) -> None:
    norms = through_time(LinearCell(4, 4, scale), torch.randn(2, 30, 4), "h")
    np.testing.assert_allclose(np.diff(np.log(norms)), theory.scaled_orthogonal_growth_rate(scale), atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="`scale` must be positive"):
        theory.scaled_orthogonal_growth_rate(scale)


def test_identity_relu_growth_rate_is_that_of_active_units() -> None:
    cell = Elman(4, 4, nonlinearity="relu", initialization=set_identity)
    norms = through_time(cell, torch.rand(2, 30, 4), "h")
    np.testing.assert_allclose(np.diff(np.log(norms)), theory.identity_relu_growth_rate(), atol=1e-12)


@torch.no_grad()
def set_identity(cell: Elman) -> None:
    weight_ih, weight_hh, *biases = cell.rnn.all_weights[0]
    for eye in (weight_ih, weight_hh):
        torch.nn.init.eye_(eye)
    for bias in biases:
        bias.zero_()
