"""The growth of products of ∂h_t/∂h_{t−1} against the blocks of exact Jacobians, and against what it leaves out."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM, forget_bias
from gradhorizon.measurements.hidden_block_spectrum import HiddenBlockSpectrum
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from tests.measurements.networks import NETWORKS, SquaredError, random_probe
from tests.measurements.spectra import (
    TWINS,
    cell_of,
    check_equal,
    jacobians_along_inputs,
    one_layer,
    slow_table,
)
from tests.synthetic_cells import PerStepLayer

COLUMNS = [column.name for column in HiddenBlockSpectrum.table.columns]


def read(probe: Probe, num_exponents: int | None = None, **options: Any) -> pd.DataFrame:
    return HiddenBlockSpectrum(LogSpaced(), num_exponents, **options).read(probe)


@cache
def measured_and_expected(name: str, num_exponents: int | None) -> tuple[Probe, pd.DataFrame, pd.DataFrame]:
    torch.manual_seed(1)
    probe = random_probe(TWINS[name]().double(), 6)
    size = next(iter(cell_of(probe.network).state_shapes.values()))
    blocks = {
        place: [[jacobian[: np.prod(size), : np.prod(size)] for jacobian in own] for own in found]
        for place, found in jacobians_along_inputs(probe, 3).items()
    }
    expected, errors = slow_table(blocks, num_exponents, 2)
    return probe, expected[COLUMNS], errors.filter(COLUMNS)


def check_slow_twin(name: str, num_exponents: int | None) -> None:
    probe, *expected = measured_and_expected(name, num_exponents)
    check_equal(read(probe, num_exponents, num_samples=3, transient_steps=2), *expected)


@pytest.mark.oracle("slow twin: leading blocks of exact Jacobians of one sample and step, multiplied out")
def test_table_equals_the_slow_twin() -> None:
    check_slow_twin("deep", 2)
    check_slow_twin("deep", None)


@pytest.mark.parametrize("name", [name for name in TWINS if "attention" not in name])
def test_every_network_equals_the_slow_twin(name: str) -> None:
    check_slow_twin(name, 1)
    check_slow_twin(name, None)


@pytest.mark.parametrize("num_exponents", [None, 2])
@pytest.mark.parametrize("cell", [Elman, GRU])
def test_state_of_one_component_has_its_lyapunov_spectrum(cell: Any, num_exponents: int | None) -> None:
    probe = random_probe(one_layer(cell), input_len=30)
    expected = LyapunovSpectrum(LogSpaced(), num_exponents, transient_steps=3).read(probe)[COLUMNS]
    pd.testing.assert_frame_equal(read(probe, num_exponents, transient_steps=3), expected, rtol=0, atol=0)


@pytest.mark.oracle("closed form: without recurrent weights ∂h_t/∂h_{t−1} is 0, whatever the memory cell keeps")
def test_lstm_without_recurrent_weights_has_no_number_although_it_remembers() -> None:
    network = one_layer(LSTM)
    with torch.no_grad():
        cell_of(network).rnn.weight_hh_l0.zero_()
    probe = random_probe(network, input_len=20)
    rows = read(probe)
    assert (rows["num_below_resolution"] == 4).all()
    assert rows.filter(like="nats_per_step").isna().all(axis=None)
    assert (LyapunovSpectrum(LogSpaced(), 3).read(probe)["num_below_resolution"] == 0).all()


def leading(bias: float) -> tuple[float, float]:
    """Largest number of the hidden block and largest Lyapunov exponent of an LSTM with that forget bias."""
    torch.manual_seed(0)
    network = one_layer(partial(LSTM, initialization=partial(forget_bias, value=bias)), 64)
    probe = random_probe(network, input_len=40, batch_size=2)
    tables = (read(probe, 1), LyapunovSpectrum(LogSpaced(), 1).read(probe))
    return tuple(rows["exponent_median_nats_per_step"].item() for rows in tables)


def test_lstm_lies_near_minus_two_whatever_its_forget_bias() -> None:
    (forgetful, forgetful_exponent), (keeping, keeping_exponent) = leading(-1.0), leading(5.0)
    assert -2.2 < keeping < -1.8
    assert abs(keeping - forgetful) < 0.1
    assert keeping_exponent - forgetful_exponent > 0.8


def test_network_and_task_that_cannot_be_measured_are_refused_before_training() -> None:
    check = partial(HiddenBlockSpectrum(LogSpaced(), 4, transient_steps=4).check, task=SquaredError(4))
    message = r"`num_exponents` must be at most the hidden block size, got 4 for the 3 entries"
    with pytest.raises(ValueError, match=message):
        check(NETWORKS["deep"]())
    with pytest.raises(ValueError, match=message):
        read(random_probe(NETWORKS["deep"]()), 4)
    with pytest.raises(ValueError, match=r"at least 1 step after the transient, got `transient_steps`=4 and 4 steps"):
        check(one_layer(LSTM, 4))
    check(one_layer(LSTM, 4), task=SquaredError(5))
    check(Network(partial(PerStepLayer, hidden_size=3), 2, 2))
