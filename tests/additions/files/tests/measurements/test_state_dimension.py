"""Spread of states against a slow twin, and against samples whose covariance is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.state_dimension import StateDimension, spread
from tests import oracles_gradients
from tests.measurements.networks import NETWORKS, random_probe

COMPARED = [column.name for column in StateDimension.table.columns]


def read(probe: Probe) -> pd.DataFrame:
    return StateDimension(LogSpaced()).read(probe)


def slow_table(probe: Probe) -> pd.DataFrame:
    """One sample at a time through the network, then every covariance as a sum over pairs of units."""
    states: dict[tuple[int, str, int], list[list[float]]] = {}
    for sample in probe.batch.inputs:
        run = oracles_gradients.run_one_sample(probe.network, [x_t[None] for x_t in sample], probe.batch.loss_steps)
        for place, state in run[1].items():
            states.setdefault(place, []).append([value for part in state for value in part.flatten().tolist()])
    rows = []
    for (layer, direction, t), samples in states.items():
        lag = oracles_gradients.read_step(probe, layer, direction) - t
        if lag in probe.lags:
            rows.append({"layer": layer, "direction": direction, "t": t, "lag": lag, **_slow_spread(samples)})
    return pd.DataFrame(rows).sort_values(["layer", "direction", "t"], ignore_index=True)


def _slow_spread(samples: list[list[float]]) -> dict[str, float]:
    units = [[value - sum(unit) / len(unit) for value in unit] for unit in zip(*samples, strict=True)]
    covariance = [[sum(a * b for a, b in zip(one, other, strict=True)) / (len(samples) - 1) for other in units]
                  for one in units]  # fmt: skip
    total = sum(covariance[unit][unit] for unit in range(len(units)))
    squares = sum(value**2 for row in covariance for value in row)
    ratio = total**2 / squares if squares else np.nan
    return {
        "total_variance": total,
        "participation_ratio": ratio,
        "num_samples": len(samples),
        "num_non_finite_samples": 0,
    }


def check_slow_twin(name: str, **options: Any) -> None:
    torch.manual_seed(1)
    probe = random_probe(NETWORKS[name]().double(), 5, batch_size=4, **options)
    found = read(probe).sort_values(["layer", "direction", "t"], ignore_index=True)
    expected = slow_table(probe)
    pd.testing.assert_frame_equal(found[COMPARED], expected[COMPARED], rtol=1e-9, atol=0, check_dtype=False)


@pytest.mark.oracle("slow twin: one sample at a time, sums in plain Python")
def test_table_equals_the_slow_twin() -> None:
    check_slow_twin("deep")


@pytest.mark.parametrize("name", ["elman", "one_unit", "bidirectional", "attention"])
def test_every_network_equals_the_slow_twin(name: str) -> None:
    check_slow_twin(name)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_samples_along_orthogonal_directions_have_as_many_dimensions(size: int) -> None:
    directions = np.linalg.qr(np.random.default_rng(3).normal(size=(7, 7)))[0][:size]
    found = spread(1e-200 + np.concatenate([directions, -directions]))
    assert found["participation_ratio"] == pytest.approx(size, rel=1e-12)
    assert found["total_variance"] == pytest.approx(2 * size / (2 * size - 1), rel=1e-12)


def test_a_weak_direction_counts_by_its_share_of_the_variance() -> None:
    samples = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert spread(samples)["participation_ratio"] == pytest.approx(10**2 / (9**2 + 1**2), rel=1e-12)


def test_a_scale_at_which_squares_vanish_does_not_change_the_ratio() -> None:
    samples = 1e-120 * np.random.default_rng(3).normal(size=(9, 4))
    assert spread(samples)["participation_ratio"] == pytest.approx(
        spread(1e120 * samples)["participation_ratio"], rel=1e-9
    )


def test_samples_that_are_not_finite_are_counted_and_left_out() -> None:
    samples = np.random.default_rng(3).normal(size=(6, 3))
    whole = spread(samples)
    found = spread(np.concatenate([samples, [[np.nan, 0.0, 0.0], [0.0, np.inf, 0.0]]]))
    assert found == {**whole, "num_samples": 8, "num_non_finite_samples": 2}


@pytest.mark.parametrize("num_finite", [0, 1])
def test_too_few_samples_have_no_spread(num_finite: int) -> None:
    samples = np.full((3, 2), np.nan)
    samples[:num_finite] = 1.0
    found = spread(samples)
    assert np.isnan([found["total_variance"], found["participation_ratio"]]).all()


def test_states_before_any_input_are_one_point() -> None:
    first = read(random_probe(NETWORKS["lstm"](), 5)).set_index("t").loc[0]
    assert first["total_variance"] == 0
    assert np.isnan(first["participation_ratio"])
