"""The state-gradient profile against closed forms and a slow twin."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch

from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.state_gradients import WHOLE_STATE, StateGradients
from gradhorizon.network import Network
from tests import oracles_gradients
from tests.measurements.networks import NETWORKS, LevelAndMatrix, linear_network, random_probe
from tests.synthetic_cells import PerStepLayer

PARTS = ("through_time", "direct", "total")


def read(probe: Probe) -> pd.DataFrame:
    return StateGradients(LogSpaced()).read(probe)


def select(rows: pd.DataFrame, part: str, component: str = WHOLE_STATE) -> pd.DataFrame:
    chosen = rows[(rows["part"] == part) & (rows["component"] == component)]
    return chosen.set_index("lag").sort_index()


def slow_table(probe: Probe) -> pd.DataFrame:
    rows = []
    for index, layer in enumerate(probe.network.layers):
        for name, cell in layer.items():  # type: ignore[operator]
            direction = name.removesuffix("_cell")
            last = oracles_gradients.read_step(probe, index, direction)
            kept = sorted(last - lag for lag in probe.lags if lag <= last)
            cuts = {t: _with_whole_state(probe, index, direction, t) for t in kept}
            references = [np.nan] * len(probe.batch.inputs)
            if last in cuts:
                references = [oracles_gradients.norm(vector) for vector in cuts[last]["total"][-1].tolist()]
            for part in PARTS:
                for number, component in enumerate([*cell.state_shapes, WHOLE_STATE]):
                    for t, gradients in cuts.items():
                        summary = oracles_gradients.summary(gradients[part][number].tolist(), references)
                        lead = {"layer": index, "direction": direction, "component": component, "part": part}
                        rows.append({**lead, "t": t, "lag": last - t, **summary})
    return pd.DataFrame(rows)


def _with_whole_state(probe: Probe, layer: int, direction: str, t: int) -> dict[str, list[np.ndarray]]:
    gradients = oracles_gradients.state_gradients(probe, layer, direction, t)
    gradients["total"] = [a + b for a, b in zip(gradients["through_time"], gradients["direct"], strict=True)]
    return {part: [*found, np.concatenate(found, axis=1)] for part, found in gradients.items()}


@cache
def measured_and_expected(name: str, loss_steps: tuple[int, ...]) -> tuple[Probe, pd.DataFrame]:
    torch.manual_seed(1)
    probe = random_probe(NETWORKS[name]().double(), 4 if loss_steps[-1] > 1 else 1, loss_steps, batch_size=3)
    return probe, slow_table(probe)


def check_slow_twin(name: str, loss_steps: tuple[int, ...]) -> None:
    probe, expected = measured_and_expected(name, loss_steps)
    found = read(probe)
    assert list(found.columns) == list(expected.columns)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=0, check_dtype=False)


@pytest.mark.oracle("closed form: with W = ρQ every gradient is multiplied by ρ per step")
def test_scaled_orthogonal_rnn_decays_at_its_scale() -> None:
    for scale in (0.5, 1.0, 1.5):
        rows = read(random_probe(linear_network(scale), input_len=40))
        for part in ("through_time", "total"):
            for statistic in ("median", "p10", "p90"):
                earlier = select(rows, part).loc[1:, f"relative_gradient_norm_{statistic}"]
                np.testing.assert_allclose(earlier, scale ** earlier.index.to_numpy(), rtol=1e-12, atol=0)


@pytest.mark.oracle("slow twin: one sample, one step and one leaf at a time, sums in plain Python")
def test_table_equals_the_slow_twin() -> None:
    check_slow_twin("deep", (1, 3, 4))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("loss_steps", [(4,), (1, 3, 4)], ids=["last", "several"])
def test_every_network_equals_the_slow_twin(name: str, loss_steps: tuple[int, ...]) -> None:
    check_slow_twin(name, loss_steps)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "bidirectional" not in name])
def test_loss_before_the_end_equals_the_slow_twin(name: str) -> None:
    check_slow_twin(name, (1, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_sequence_of_one_step_equals_the_slow_twin(name: str) -> None:
    check_slow_twin(name, (1,))


@torch.no_grad()
def constant_gates(forget_bias: float) -> Network:
    """An LSTM without recurrent weights whose forget gate sees its bias alone."""
    network = Network(partial(LSTM, hidden_size=3), 2, 2).double()
    weight_ih, weight_hh, bias_ih, bias_hh = network.layers[0]["forward_cell"].rnn.all_weights[0]  # type: ignore[index]
    for zeroed in (weight_hh, bias_ih, bias_hh, weight_ih[3:6]):
        zeroed.zero_()
    bias_ih[3:6] = forget_bias
    return network


@pytest.mark.parametrize("bias", [-3.0, 0.0, 1.0, 4.0])
def test_cell_state_of_an_lstm_without_recurrent_weights_decays_at_its_forget_gate(bias: float) -> None:
    found = select(read(random_probe(constant_gates(bias), input_len=50)), "through_time", "c")
    forget_gate = 1 / (1 + np.exp(-bias))
    earlier = found.loc[1:, "gradient_norm_median"]
    np.testing.assert_allclose(earlier, earlier.loc[1] * forget_gate ** (earlier.index.to_numpy() - 1), rtol=1e-11)


def test_hidden_state_of_an_lstm_without_recurrent_weights_carries_nothing_back() -> None:
    rows = read(random_probe(constant_gates(1.0)))
    assert (select(rows, "through_time", "h")["gradient_norm_p90"] == 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_through_time_part_at_the_last_read_step_is_exactly_zero(name: str) -> None:
    rows = read(random_probe(NETWORKS[name](), loss_steps=(7,)))
    probed = rows[(rows["lag"] == 0) & (rows["part"] == "through_time")]
    assert len(probed) > 0
    assert (probed["num_zero_entries"] == probed["num_entries"]).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_total_of_the_whole_state_at_lag_zero_is_the_unit_of_relative_norms(name: str) -> None:
    rows = read(random_probe(NETWORKS[name]()))
    probed = rows[(rows["lag"] == 0) & (rows["part"] == "total") & (rows["component"] == WHOLE_STATE)]
    assert (probed["relative_gradient_norm_median"] == 1).all()


def test_only_the_probed_loss_step_feeds_a_single_layer_directly() -> None:
    direct = select(read(random_probe(NETWORKS["gru"](), loss_steps=(3, 5, 7))), "direct", "h")
    assert direct.index[direct["num_zero_norms"] == 0].tolist() == [0]


def test_attention_feeds_every_step_directly() -> None:
    direct = select(read(random_probe(NETWORKS["attention"]())), "direct", "h")
    assert (direct.loc[:6, "gradient_norm_p10"] > 0).all()
    assert direct["gradient_norm_p90"].loc[7] == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_twice_the_loss_doubles_every_norm_exactly(name: str) -> None:
    network = NETWORKS[name]()
    once, twice = read(random_probe(network)), read(random_probe(network, factor=2.0))
    norms = [column for column in once.columns.tolist() if column.startswith("gradient_norm")]
    pd.testing.assert_frame_equal(twice[norms], 2 * once[norms], rtol=0, atol=0)
    pd.testing.assert_frame_equal(twice.drop(columns=norms), once.drop(columns=norms), rtol=0, atol=0)


def test_batch_of_five_has_the_median_of_five_batches_of_one() -> None:
    whole = random_probe(NETWORKS["deep"](), batch_size=5)
    alone = []
    for b in range(5):
        one = type(whole.batch)(whole.batch.inputs[b, None], whole.batch.targets[b, None], whole.batch.loss_steps)
        alone.append(read(Probe(whole.network, whole.task, one))["gradient_norm_median"])
    np.testing.assert_allclose(read(whole)["gradient_norm_median"], np.median(alone, axis=0), rtol=1e-12, atol=0)


def test_vanished_norms_stay_numbers_far_below_float32() -> None:
    total = select(read(random_probe(linear_network(1e-3), input_len=100)), "total")
    np.testing.assert_allclose(np.log10(total["relative_gradient_norm_median"]), -3.0 * total.index, rtol=1e-9)


def test_exploding_gradients_are_counted_not_raised() -> None:
    probe = random_probe(linear_network(2.0), input_len=2000)
    probe.batch.inputs.zero_()  # the states stay finite, so that the gradients alone explode
    total = select(read(probe), "total")
    assert total.loc[2000:2000, ["num_non_finite_norms", "num_undefined_relative_norms"]].eq(4).all(axis=None)
    assert np.isnan(total["gradient_norm_median"].loc[2000])
    assert total["num_non_finite_norms"].loc[1] == 0


def test_nan_parameters_are_counted_not_raised() -> None:
    network = NETWORKS["deep"]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    total = select(read(random_probe(network)), "total")
    assert (total["num_non_finite_norms"] == 4).all()
    assert total["relative_gradient_norm_median"].isna().all()


def test_components_that_are_no_vectors_are_measured() -> None:
    rows = read(random_probe(Network(partial(LevelAndMatrix, hidden_size=2), 2, 2).double(), batch_size=3))
    level = select(rows, "total", "level")
    norms = level["gradient_norm_median"]
    np.testing.assert_allclose(norms.loc[1:], norms.loc[0] * 0.5 ** level.index[1:], rtol=1e-12)
    assert (level["num_entries"] == 3).all()
    assert (select(rows, "total", "matrix")[["num_entries", "num_zero_entries"]] == 3 * 4).all(axis=None)
    assert (select(rows, "total")["num_entries"] == 3 * (2 + 1 + 4)).all()


def test_network_without_recurrence_gives_no_rows() -> None:
    rows = read(random_probe(Network(partial(PerStepLayer, hidden_size=3), 2, 2)))
    assert rows.empty
    assert list(rows.columns) == [column.name for column in StateGradients.table.columns]


def test_reading_twice_gives_the_same_bits() -> None:
    network = NETWORKS["bidirectional"]()
    pd.testing.assert_frame_equal(read(random_probe(network)), read(random_probe(network)), rtol=0, atol=0)
