"""Gate statistics against constant gates and a slow twin."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements.gates import Gates
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from tests import oracles_gradients
from tests.measurements.networks import NETWORKS, random_probe

GATED = ["lstm", "gru", "one_unit", "deep", "bidirectional", "attention"]


def read(probe: Probe) -> pd.DataFrame:
    return Gates(LogSpaced()).read(probe)


def slow_table(probe: Probe) -> pd.DataFrame:
    values: dict[tuple[int, str, str, int], list[float]] = {}
    for b in range(len(probe.batch.inputs)):
        x = [x_t[None] for x_t in probe.batch.inputs[b]]
        _, states, outputs = oracles_gradients.run_one_sample(probe.network, x, probe.batch.loss_steps)
        for index, layer in enumerate(probe.network.layers):
            for name, cell in layer.items():  # type: ignore[operator]
                direction = name.removesuffix("_cell")
                own_inputs = oracles_gradients.inputs_of_layer(probe, x, outputs, index, direction)
                last = oracles_gradients.read_step(probe, index, direction)
                for t in sorted(last - lag + 1 for lag in probe.lags if 0 < lag <= last):
                    projected = cell.project(own_inputs[t - 1].unsqueeze(1), t - 1)[:, 0]
                    for gate, value in cell.gates(projected, states[index, direction, t - 1]).items():
                        values.setdefault((index, direction, gate, t), []).extend(value[0].tolist())
    rows = [_slow_row(*place, probe, numbers) for place, numbers in values.items()]
    return pd.DataFrame(rows).sort_values(["layer", "direction", "gate", "t"], ignore_index=True)


def _slow_row(layer: int, direction: str, gate: str, t: int, probe: Probe, values: list[float]) -> dict[str, Any]:
    last = oracles_gradients.read_step(probe, layer, direction)
    open_share = np.exp(np.quantile(np.log(values), [0.5, 0.1, 0.9]))
    scales = 1 / (1 - open_share) if gate in ("forget_gate", "update_gate") else [np.nan] * 3
    return {
        "layer": layer,
        "direction": direction,
        "gate": gate,
        "t": t,
        "lag": last - t,
        "mean": sum(values) / len(values),
        "saturated_low_fraction": sum(value < 0.1 for value in values) / len(values),
        "saturated_high_fraction": sum(value > 0.9 for value in values) / len(values),
        "time_scale_median_steps": scales[0],
        "time_scale_p10_steps": scales[1],
        "time_scale_p90_steps": scales[2],
        "num_values": len(values),
        "num_non_finite_values": 0,
    }


@cache
def measured_and_expected(name: str, loss_steps: tuple[int, ...]) -> tuple[Probe, pd.DataFrame]:
    torch.manual_seed(1)
    network = NETWORKS[name]().double()
    with torch.no_grad():
        for parameter in network.layers.parameters():
            parameter.mul_(5)  # so that some gates saturate
    probe = random_probe(network, 5, loss_steps, batch_size=3)
    return probe, slow_table(probe)


def check_slow_twin(name: str, loss_steps: tuple[int, ...]) -> None:
    probe, expected = measured_and_expected(name, loss_steps)
    found = read(probe).sort_values(["layer", "direction", "gate", "t"], ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=0, check_dtype=False)


@pytest.mark.oracle("slow twin: one sample and one step at a time, sums in plain Python")
def test_table_equals_the_slow_twin() -> None:
    check_slow_twin("deep", (2, 4))


@pytest.mark.parametrize("name", GATED)
def test_every_gated_network_equals_the_slow_twin(name: str) -> None:
    check_slow_twin(name, (5,))


@torch.no_grad()
def constant(cell: type[LSTM | GRU], biases: dict[int, float]) -> Network:
    """A network of three units per gate, all weights 0 and the bias of some blocks of rows given."""
    network = Network(partial(cell, hidden_size=3), 2, 2).double()
    for parameter in network.layers.parameters():
        parameter.zero_()
    bias = network.layers[0]["forward_cell"].rnn.bias_ih_l0  # type: ignore[index]
    for block, value in biases.items():
        bias[3 * block : 3 * block + 3] = value
    return network


@pytest.mark.oracle("closed form: a constant gate σ(b) has the time scale 1 + e^b")
def test_constant_forget_gate_has_the_time_scale_of_its_bias() -> None:
    rows = read(random_probe(constant(LSTM, {1: np.log(99.0)})))
    forget = rows[rows["gate"] == "forget_gate"]
    np.testing.assert_allclose(forget["mean"], 0.99, rtol=1e-12)
    for statistic in ("median", "p10", "p90"):
        np.testing.assert_allclose(forget[f"time_scale_{statistic}_steps"], 100.0, rtol=1e-10)


def test_update_gate_of_a_gru_is_a_retention_gate_and_its_reset_gate_is_not() -> None:
    rows = read(random_probe(constant(GRU, {1: np.log(9.0)}))).set_index("gate")
    np.testing.assert_allclose(rows["time_scale_median_steps"].loc["update_gate"], 10.0, rtol=1e-10)
    assert rows["time_scale_median_steps"].loc["reset_gate"].isna().all()


@pytest.mark.parametrize(
    ("bias", "low", "high"), [(-2.3, 1.0, 0.0), (-2.1, 0.0, 0.0), (2.1, 0.0, 0.0), (2.3, 0.0, 1.0)]
)
def test_gate_is_saturated_below_a_tenth_and_above_nine_tenths(bias: float, low: float, high: float) -> None:
    rows = read(random_probe(constant(LSTM, {0: bias}))).set_index("gate").loc["input_gate"]
    assert (rows["saturated_low_fraction"] == low).all()
    assert (rows["saturated_high_fraction"] == high).all()


def test_gate_that_never_forgets_has_an_infinite_time_scale() -> None:
    rows = read(random_probe(constant(LSTM, {1: 1e6}))).set_index("gate")
    assert (rows["time_scale_median_steps"].loc["forget_gate"] == np.inf).all()


def test_gate_acts_at_the_step_after_the_cut_whose_state_it_reads() -> None:
    probe = random_probe(NETWORKS["lstm"](), loss_steps=(5,))
    rows = read(probe)
    assert sorted(set(rows["t"])) == sorted(6 - lag for lag in probe.lags if 0 < lag <= 5)
    assert (rows["t"] + rows["lag"] == 5).all()


def test_cell_without_gates_gives_no_rows() -> None:
    rows = read(random_probe(NETWORKS["elman"]()))
    assert rows.empty
    assert list(rows.columns) == [column.name for column in Gates.table.columns]


def test_nan_parameters_are_counted_not_raised() -> None:
    network = NETWORKS["lstm"]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    rows = read(random_probe(network))
    assert (rows["num_non_finite_values"] == rows["num_values"]).all()
    assert rows[["mean", "saturated_low_fraction", "time_scale_median_steps"]].isna().to_numpy().all()


def test_reading_leaves_the_probe_as_it_was() -> None:
    probe = random_probe(NETWORKS["lstm"]())
    before = [state[0].clone() for state in probe.trace.layers[0].trajectory.states]
    read(probe)
    after = [state[0] for state in probe.trace.layers[0].trajectory.states]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
