"""Precision against exact powers of two: every number of every format is known beforehand."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.cells.elman import Elman
from gradhorizon.measurements.precision import DTYPES, Precision
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.tasks.task import Batch
from tests.measurements.networks import NETWORKS, SquaredError, SumReadout, random_probe

NORMAL = {"float64": -1022, "float32": -126, "bfloat16": -126, "float16": -14}
"""Binary exponent of the smallest normal number."""
SUBNORMAL = {"float64": -1074, "float32": -149, "bfloat16": -133, "float16": -24}
"""Binary exponent of the smallest number; half of it is a tie, which rounds to the even 0."""
UNITS = (1, 2)
"""The gradient of the two units loses one and two binary digits per step."""
WEIGHTS = (0, -4, -10)
"""Binary exponents of the samples' gradients at lag 0."""


class PowersOfTwo(Recurrent):
    """h_t = a ⊙ h_{t−1} + x_t: every gradient is multiplied by exactly a per step, in every format."""

    def __init__(self, input_size: int, hidden_size: int, factors: Sequence[float]) -> None:
        super().__init__(input_size, hidden_size)
        self.factors = nn.Parameter(torch.tensor(factors, dtype=torch.float64))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x

    def recur(self, projected_t: Tensor, state: State) -> State:
        return (self.factors * state[0] + projected_t,)


class NoHalf(PowersOfTwo):
    """A cell of which one operation does not exist in float16."""

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        if x.dtype == torch.float16:
            raise NotImplementedError("not implemented for 'Half'")
        return x


class WeightedSum(SquaredError):  # noqa: N818, no exception
    """Loss = weight of the sample · sum of the predictions: the gradient at lag 0 is the weight."""

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (targets * predictions).sum(dim=-1)


def power_probe(
    factors: Sequence[float], input_len: int, weights: Sequence[int] = WEIGHTS, cell: type[PowersOfTwo] = PowersOfTwo
) -> Probe:
    network = Network(partial(cell, hidden_size=2, factors=factors), 2, 2)
    network.readout = SumReadout(2, 2)  # type: ignore[assignment]
    targets = torch.tensor([2.0**weight for weight in weights], dtype=torch.float64).reshape(-1, 1, 1).expand(-1, 1, 2)
    inputs = torch.zeros(len(weights), input_len, 2, dtype=torch.float64)
    return Probe(network, WeightedSum(input_len), Batch(inputs, targets, (input_len,)), num_cuts=2)


def read(probe: Probe, **options: Any) -> pd.DataFrame:
    return Precision(LogSpaced(), **options).read(probe)


def of(rows: pd.DataFrame, dtype: str) -> pd.DataFrame:
    return rows[rows["dtype"] == dtype].set_index("lag")


def stored(exponent: int, dtype: str) -> float:
    return math.ldexp(1.0, exponent) if exponent >= SUBNORMAL[dtype] else 0.0


def expected_row(dtype: str, scale: int, lag: int, last_lag: int) -> dict[str, Any]:
    exponents = [[weight + scale - unit * lag for unit in UNITS] for weight in WEIGHTS]
    entries = [exponent for sample in exponents for exponent in sample]
    errors = [
        math.hypot(*(stored(own, dtype) - math.ldexp(1.0, own) for own in sample))
        / math.hypot(*(math.ldexp(1.0, own) for own in sample))
        for sample in exponents
    ]
    num_zero = sum(exponent < SUBNORMAL[dtype] for exponent in entries)
    median_weight = sorted(WEIGHTS)[1] + scale
    underflow_lag, zero_lag = (median_weight - limits[dtype] + 1 for limits in (NORMAL, SUBNORMAL))
    return {
        "dtype": dtype,
        "loss_scale": 2.0**scale,
        "lag": lag,
        "is_supported": True,
        "fraction_zero": num_zero / len(entries),
        "fraction_subnormal": (sum(exponent < NORMAL[dtype] for exponent in entries) - num_zero) / len(entries),
        "fraction_non_finite": 0.0,
        "largest_entry_median": stored(median_weight - lag, dtype),
        "relative_error_median": sorted(errors)[1],
        "num_undefined_errors": 0,
        "underflow_lag_steps": float(min(underflow_lag, last_lag)),
        "is_underflow_censored": underflow_lag > last_lag,
        "zero_lag_steps": float(min(zero_lag, last_lag)),
        "is_zero_censored": zero_lag > last_lag,
        "num_samples": len(WEIGHTS),
    }


@pytest.mark.oracle("closed form: gradients that are powers of two, and the exponents at which each format ends")
def test_halved_gradients_end_where_the_exponents_of_each_format_do() -> None:
    rows = read(power_probe((0.5, 0.25), input_len=160), num_lags=200, loss_scales=(1.0, 1024.0))
    lags = of(rows[rows["loss_scale"] == 1], "float64").index
    expected = [expected_row(dtype, scale, lag, 159) for dtype in DTYPES for scale in (0, 10) for lag in lags]
    assert set(lags) >= {0, 12, 13, 20, 25, 159}
    pd.testing.assert_frame_equal(rows, pd.DataFrame(expected).astype({"dtype": object}), rtol=1e-12, atol=0)


def test_float64_is_lost_below_its_own_smallest_normal_number() -> None:
    rows = of(read(power_probe((2.0**-8,) * 2, input_len=150, weights=(0,))), "float64")
    assert (rows["underflow_lag_steps"] == 128).all()  # 2^-1024
    assert (rows["zero_lag_steps"] == 135).all()  # 2^-1080
    assert rows["relative_error_median"].loc[149:].isna().all()
    assert rows["num_undefined_errors"].loc[149:].eq(1).all()


def test_relative_error_lives_where_float64_itself_is_tiny() -> None:
    rows = of(read(power_probe((2.0**-6,) * 2, input_len=150, weights=(0,))), "float32")
    assert rows["relative_error_median"].loc[149] == 1  # of a gradient of 2^-894
    assert rows["relative_error_median"].loc[1] == 0


def test_half_of_the_samples_decide_the_lag() -> None:
    rows = of(read(power_probe((0.5, 0.5), input_len=40, weights=(0, 0, -9, -9))), "float16")
    assert (rows["underflow_lag_steps"] == 15 - 9).all()
    assert (rows["zero_lag_steps"] == 25 - 9).all()


def test_flushed_subnormals_move_the_lag_of_zeros_and_not_that_of_underflow() -> None:
    probe = power_probe((0.5, 0.5), input_len=160, weights=(0,))
    kept = of(read(probe), "float32")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush subnormal numbers")
    try:
        flushed = of(read(probe), "float32")
    finally:
        torch.set_flush_denormal(False)
    assert kept["underflow_lag_steps"].eq(127).all()
    assert kept["zero_lag_steps"].eq(150).all()
    assert flushed[["underflow_lag_steps", "zero_lag_steps"]].eq(127).all(axis=None)
    assert flushed["fraction_subnormal"].eq(0).all()


def test_overflow_is_counted_and_left_out() -> None:
    rows = of(read(power_probe((2.0, 2.0), input_len=40, weights=(0, 0, -9)), num_lags=100), "float16")
    assert rows["fraction_non_finite"].loc[[15, 16, 39]].tolist() == [0, 2 / 3, 1]
    assert rows["num_undefined_errors"].loc[39] == 3
    assert np.isnan(rows["largest_entry_median"].loc[39])
    assert rows["is_underflow_censored"].all()


def test_scale_beyond_float16_is_infinite_there_and_nowhere_else() -> None:
    rows = read(power_probe((0.5, 0.5), input_len=5, weights=(0,)), loss_scales=[65536.0])
    infinite = rows.groupby("dtype")["fraction_non_finite"].mean()
    assert infinite.to_dict() == {"float64": 0, "float32": 0, "bfloat16": 0, "float16": 1}


@pytest.mark.parametrize("name", NETWORKS)
def test_error_of_every_network_is_some_roundings_of_its_format(name: str) -> None:
    torch.manual_seed(1)
    rows = read(random_probe(NETWORKS[name]()))
    assert rows["is_supported"].all()
    for dtype in ("float32", "bfloat16", "float16"):
        errors = of(rows, dtype)["relative_error_median"]
        assert errors.between(0.01 * torch.finfo(DTYPES[dtype]).eps, 100 * torch.finfo(DTYPES[dtype]).eps).all()
    assert (of(rows, "float64")["relative_error_median"] == 0).all()


@pytest.mark.parametrize("name", ["deep", "bidirectional", "attention"])
def test_float64_profile_is_that_of_the_probe(name: str) -> None:
    probe = random_probe(NETWORKS[name](), loss_steps=(3, 5), batch_size=1)
    rows = of(read(probe), "float64")
    assert rows.index.tolist() == [0, 1, 2, 3, 4]  # steps after t* = 5 are left out
    largest = probe.input_gradient[0, :5].abs().amax(dim=-1).flip(0).tolist()
    assert rows["largest_entry_median"].tolist() == largest


def test_nan_parameters_are_counted_not_raised() -> None:
    network = NETWORKS["gru"]()
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    rows = read(random_probe(network))
    assert (rows["fraction_non_finite"] == 1).all()
    assert rows["relative_error_median"].isna().all()


def test_dead_network_is_lost_at_once_and_its_error_undefined() -> None:
    network = Network(partial(Elman, hidden_size=3, nonlinearity="relu"), 2, 2)
    with torch.no_grad():
        network.layers[0]["forward_cell"].rnn.bias_ih_l0.fill_(-1e4)  # type: ignore[index]
    rows = read(random_probe(network))
    assert (rows[["underflow_lag_steps", "zero_lag_steps", "is_zero_censored"]] == 0).all(axis=None)
    assert (rows["num_undefined_errors"] == rows["num_samples"]).all()


def test_format_that_the_device_cannot_run_has_rows_without_values(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = read(power_probe((0.5, 0.5), input_len=10, cell=NoHalf))
    assert "not measured in torch.float16" in caplog.text
    half = of(rows, "float16")
    assert not half["is_supported"].any()
    assert half[["fraction_zero", "underflow_lag_steps", "relative_error_median"]].isna().all(axis=None)
    assert of(rows, "bfloat16")["is_supported"].all()


def test_measuring_leaves_the_probe_and_the_random_state_as_they_were() -> None:
    probe = random_probe(NETWORKS["lstm"]())
    before = [parameter.clone() for parameter in probe.network.parameters()]
    state = torch.get_rng_state()
    with torch.inference_mode():
        read(probe)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, probe.network.parameters()))
    assert all(parameter.grad is None for parameter in probe.network.parameters())


def test_one_lag_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_lags` must be at least 2"):
        Precision(LogSpaced(), num_lags=1)


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (math.inf,), (math.nan,), (2.0, 2.0)])
def test_loss_scales_without_sense_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`loss_scales` must be positive and finite, each named once"):
        Precision(LogSpaced(), loss_scales=scales)
