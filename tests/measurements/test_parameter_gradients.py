"""Parameter-gradient norms against hand-made numbers and PyTorch's own clipping."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradhorizon.measurements.measurement import StepReading
from gradhorizon.measurements.parameter_gradients import TOTAL, ParameterGradients
from gradhorizon.measurements.schedule import Every
from tests.measurements.networks import NETWORKS, random_probe


def reading(norms: dict[str, float], clip_norm: float | None, num_clipped: int = 0, num_steps: int = 1) -> StepReading:
    tensors = {name: torch.tensor(norm, dtype=torch.float64) for name, norm in norms.items()}
    total = torch.tensor(math.sqrt(sum(norm**2 for norm in norms.values())), dtype=torch.float64)
    return StepReading(tensors, total, clip_norm, num_clipped, num_steps)


def read(step: StepReading) -> pd.DataFrame:
    return ParameterGradients(Every(50)).read(step)


@pytest.mark.oracle("by hand: norms 3 and 4 clipped at 2 become 1.2 and 1.6")
def test_norms_are_scaled_by_the_clip_threshold_over_the_total() -> None:
    rows = read(reading({"a": 3.0, "b": 4.0}, clip_norm=2.0, num_clipped=7, num_steps=50))
    expected = {
        "parameter": ["a", "b", TOTAL],
        "norm_unclipped": [3.0, 4.0, 5.0],
        "norm_clipped": [1.2, 1.6, 2.0],
        "clip_fraction": [0.14] * 3,
        "num_steps": [50] * 3,
        "num_non_finite_norms": [0, 0, 0],
    }
    pd.testing.assert_frame_equal(rows, pd.DataFrame(expected), rtol=1e-15, atol=0, check_dtype=False)


@pytest.mark.parametrize("clip_norm", [None, 5.0, 6.0])
def test_norms_within_the_threshold_are_left_alone(clip_norm: float | None) -> None:
    rows = read(reading({"a": 3.0, "b": 4.0}, clip_norm))
    assert rows["norm_clipped"].tolist() == [3.0, 4.0, 5.0]


def _gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3])
def test_clipped_norms_equal_those_that_torch_leaves(clip_norm: float) -> None:
    probe = random_probe(NETWORKS["deep"]())
    network, batch = probe.network, probe.batch
    probe.task.loss(network(batch.inputs, batch.loss_steps), batch.targets).mean().backward()
    norms = {name: gradient.norm() for name, gradient in _gradients(network).items()}
    total = nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    rows = read(StepReading(norms, total, clip_norm, 1, 1)).set_index("parameter")
    expected = {name: gradient.norm().item() for name, gradient in _gradients(network).items()}
    # torch divides by the total plus 1e-6
    np.testing.assert_allclose(rows.loc[list(expected), "norm_clipped"], list(expected.values()), rtol=1e-4, atol=0)
    np.testing.assert_allclose(rows["norm_clipped"].loc[TOTAL], min(clip_norm, total.item()), rtol=1e-12)


def test_zero_gradients_are_exact_zeros() -> None:
    rows = read(reading({"a": 0.0}, clip_norm=1.0))
    assert rows["norm_clipped"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_norms_are_counted_not_raised(bad: float) -> None:
    rows = read(reading({"a": 1.0, "b": bad, "c": bad}, clip_norm=1.0, num_clipped=1)).set_index("parameter")
    assert rows["num_non_finite_norms"].to_dict() == {"a": 0, "b": 1, "c": 1, TOTAL: 2}
    assert not np.isfinite(rows.loc[["b", "c", TOTAL], "norm_clipped"]).any()


def test_reading_before_any_step_has_no_clip_fraction() -> None:
    assert read(reading({"a": 1.0}, clip_norm=1.0, num_steps=0))["clip_fraction"].isna().all()


def test_float32_norms_of_a_fused_kernel_are_recorded_in_float64() -> None:
    rows = read(StepReading({"a": torch.tensor(1e-30)}, torch.tensor(1e-30), None, 0, 1))
    assert rows["norm_unclipped"].dtype == np.float64
