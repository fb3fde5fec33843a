"""The input-gradient profile against closed forms and a slow twin."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gradhorizon.cells.elman import Elman
from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from tests import oracles_gradients
from tests.measurements.networks import NETWORKS, linear_network, random_probe

CAUSAL = [name for name in NETWORKS if "bidirectional" not in name]


def read(probe: Probe, **options: Any) -> pd.DataFrame:
    return InputGradients(LogSpaced(), **options).read(probe)


def slow_table(probe: Probe) -> pd.DataFrame:
    gradients = oracles_gradients.input_gradients(probe)
    training = oracles_gradients.input_gradients(probe, of_training_loss=True)
    references = [oracles_gradients.norm(sample[probe.probed_step - 1]) for sample in gradients]
    last = probe.input_len if probe.network.bidirectional else probe.probed_step
    rows = []
    for t in range(last, 0, -1):
        training_row = oracles_gradients.summary(training[:, t - 1].tolist(), references)
        rows.append(
            {
                "t": t,
                "lag": probe.probed_step - t,
                "lag_from_start": t - 1,
                **oracles_gradients.summary(gradients[:, t - 1].tolist(), references),
                "training_loss_gradient_norm_median": training_row["gradient_norm_median"],
            }
        )
    return pd.DataFrame(rows)


@cache
def measured_and_expected(name: str, input_len: int, loss_steps: tuple[int, ...]) -> tuple[Probe, pd.DataFrame]:
    torch.manual_seed(1)
    probe = random_probe(NETWORKS[name]().double(), input_len, loss_steps)
    return probe, slow_table(probe)


def check_slow_twin(name: str, loss_steps: tuple[int, ...], input_len: int = 7) -> None:
    probe, expected = measured_and_expected(name, input_len, loss_steps)
    found = read(probe)
    assert list(found.columns) == list(expected.columns)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=0, check_dtype=False)


@pytest.mark.oracle("closed form: with W = ρQ every gradient is multiplied by ρ per step")
def test_scaled_orthogonal_rnn_decays_at_its_scale() -> None:
    for scale in (0.5, 1.0, 1.5):
        rows = read(random_probe(linear_network(scale), input_len=40))
        for statistic in ("median", "p10", "p90"):
            found = rows[f"relative_gradient_norm_{statistic}"]
            np.testing.assert_allclose(found, scale ** rows["lag"], rtol=1e-12, atol=0)


@pytest.mark.oracle("slow twin: one sample, one step and one leaf at a time, sums in plain Python")
def test_table_equals_the_slow_twin() -> None:
    check_slow_twin("lstm", (2, 5, 7))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("loss_steps", [(7,), (3, 6, 7), (2, 5)], ids=["last", "several", "before the end"])
def test_every_network_equals_the_slow_twin(name: str, loss_steps: tuple[int, ...]) -> None:
    check_slow_twin(name, loss_steps)


@pytest.mark.parametrize("name", NETWORKS)
def test_sequence_of_one_step_equals_the_slow_twin(name: str) -> None:
    check_slow_twin(name, (1,), input_len=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_relative_norm_at_the_probed_step_is_exactly_one(name: str) -> None:
    rows = read(random_probe(NETWORKS[name]()))
    assert rows.loc[rows["lag"] == 0, "relative_gradient_norm_median"].tolist() == [1.0]


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_network_reports_no_step_after_the_probed_one(name: str) -> None:
    assert read(random_probe(NETWORKS[name](), loss_steps=(4,)))["t"].tolist() == [4, 3, 2, 1]


def test_bidirectional_network_reports_later_steps_with_negative_lags() -> None:
    rows = read(random_probe(NETWORKS["bidirectional"](), loss_steps=(2, 4)))
    assert rows["lag"].tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert (rows.loc[rows["lag"] < 0, "gradient_norm_p10"] > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_twice_the_loss_doubles_every_norm_exactly(name: str) -> None:
    network = NETWORKS[name]()
    once = read(random_probe(network))
    twice = read(random_probe(network, factor=2.0))
    norms = [column for column in once.columns.tolist() if column.startswith(("gradient_norm", "training"))]
    pd.testing.assert_frame_equal(twice[norms], 2 * once[norms], rtol=0, atol=0)
    pd.testing.assert_frame_equal(twice.drop(columns=norms), once.drop(columns=norms), rtol=0, atol=0)


def _parts_of(probe: Probe) -> list[Probe]:
    batch = probe.batch
    single = [type(batch)(batch.inputs[b, None], batch.targets[b, None], batch.loss_steps) for b in range(5)]
    return [Probe(probe.network, probe.task, one) for one in single]


def test_batch_of_five_has_the_median_of_five_batches_of_one() -> None:
    whole = random_probe(NETWORKS["lstm"](), batch_size=5)
    alone = [read(part)["gradient_norm_median"] for part in _parts_of(whole)]
    expected = np.median(alone, axis=0)
    np.testing.assert_allclose(read(whole)["gradient_norm_median"], expected, rtol=1e-12, atol=0)


def test_norm_of_the_batch_mean_gradient_is_another_number() -> None:
    whole = random_probe(NETWORKS["lstm"](), batch_size=5)
    of_mean = whole.input_gradient.mean(dim=0).norm(dim=-1).flip(0).numpy()
    assert (np.abs(read(whole)["gradient_norm_median"] / of_mean - 1) > 0.1).all()


def test_training_loss_column_equals_the_probed_one_for_one_loss_step() -> None:
    rows = read(random_probe(NETWORKS["gru"]()))
    assert (rows["training_loss_gradient_norm_median"] == rows["gradient_norm_median"]).all()


def test_training_loss_column_is_no_horizon_for_several_loss_steps() -> None:
    probe = random_probe(linear_network(0.1), input_len=30, loss_steps=tuple(range(1, 31)))
    earliest = read(probe).iloc[-1]
    assert earliest["relative_gradient_norm_median"] < 1e-28
    assert earliest["training_loss_gradient_norm_median"] > 1e-3


def test_long_profile_is_log_spaced_and_reaches_both_ends() -> None:
    rows = read(random_probe(linear_network(1.0), input_len=300), max_lags=20)
    assert rows["lag"].iloc[[0, 1, -1]].tolist() == [0, 1, 299]
    assert 10 < len(rows) <= 21
    assert rows["lag"].is_monotonic_increasing


def test_profile_of_max_lags_steps_is_complete() -> None:
    assert read(random_probe(linear_network(1.0), input_len=20), max_lags=20)["lag"].tolist() == list(range(20))


def test_vanished_norms_stay_numbers_far_below_float32() -> None:
    rows = read(random_probe(linear_network(1e-3), input_len=100))
    np.testing.assert_allclose(np.log10(rows["relative_gradient_norm_median"]), -3 * rows["lag"], rtol=1e-9)
    assert (rows["num_zero_norms"] == 0).all()


def test_gradient_below_float64_is_counted_as_subnormal_then_as_zero() -> None:
    rows = read(random_probe(linear_network(1e-3), input_len=120)).set_index("lag")
    assert rows["num_zero_entries"].loc[119] == rows["num_entries"].loc[119]
    assert rows["gradient_norm_median"].loc[119] == 0
    assert rows["num_subnormal_entries"].sum() > 0


def test_exploding_gradients_are_counted_not_raised() -> None:
    probe = random_probe(linear_network(2.0), input_len=2000)
    probe.batch.inputs.zero_()  # the states stay finite, so that the gradients alone explode
    rows = read(probe, max_lags=2000).set_index("lag")
    np.testing.assert_allclose(rows["relative_gradient_norm_median"].loc[900], 2.0**900, rtol=1e-12)
    assert rows.loc[1500:1500, ["num_non_finite_norms", "num_undefined_relative_norms"]].eq(4).all(axis=None)
    assert np.isnan(rows["gradient_norm_median"].loc[1500])
    assert rows["num_non_finite_entries"].loc[1500] == rows["num_entries"].loc[1500]


def test_exploding_states_leave_nothing_but_counts() -> None:
    rows = read(random_probe(linear_network(2.0), input_len=2000), max_lags=2000)
    assert (rows[["num_non_finite_norms", "num_undefined_relative_norms"]] == 4).all(axis=None)
    assert rows["relative_gradient_norm_median"].isna().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_nan_parameters_are_counted_not_raised(name: str) -> None:
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    rows = read(random_probe(network))
    assert (rows[["num_non_finite_norms", "num_undefined_relative_norms"]] == 4).all(axis=None)
    assert rows["gradient_norm_median"].isna().all()


def test_a_sample_without_gradient_is_undefined_not_dropped() -> None:
    probe = random_probe(linear_network(0.5))
    with torch.no_grad():
        probe.batch.targets[0] = probe.network(probe.batch.inputs, (7,))[0]
    rows = read(probe)
    assert rows["num_zero_norms"].tolist() == rows["num_undefined_relative_norms"].tolist() == [1] * 7
    np.testing.assert_allclose(rows["relative_gradient_norm_median"], 0.5 ** rows["lag"], rtol=1e-12, atol=0)


def test_constant_input_gives_every_sample_the_same_profile() -> None:
    probe = random_probe(Network(partial(LSTM, hidden_size=3), 2, 2), input_len=10)
    probe.batch.inputs.fill_(0.3)
    probe.batch.targets.fill_(1.0)
    rows = read(probe)
    np.testing.assert_allclose(rows["gradient_norm_p10"], rows["gradient_norm_p90"], rtol=1e-12, atol=0)


def test_dead_relu_network_has_exact_zeros() -> None:
    network = Network(partial(Elman, hidden_size=3, nonlinearity="relu"), 2, 2)
    with torch.no_grad():
        network.layers[0]["forward_cell"].rnn.bias_ih_l0.fill_(-1e6)  # type: ignore[index]
    rows = read(random_probe(network))
    assert (rows[["gradient_norm_median", "num_non_finite_norms"]] == 0).all(axis=None)
    assert (rows["num_zero_entries"] == rows["num_entries"]).all()
    assert rows["relative_gradient_norm_median"].isna().all()


def test_reading_twice_gives_the_same_bits() -> None:
    network = NETWORKS["deep"]()
    pd.testing.assert_frame_equal(read(random_probe(network)), read(random_probe(network)), rtol=0, atol=0)


def test_max_lags_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="`max_lags` must be at least 2"):
        InputGradients(LogSpaced(), max_lags=1)


def test_float32_probe_is_measured_in_float64_norms() -> None:
    probe = random_probe(linear_network(0.1), input_len=30, dtype=torch.float32)
    assert probe.input_gradient.dtype == torch.float32
    rows = read(probe).set_index("lag")
    np.testing.assert_allclose(rows["relative_gradient_norm_median"].loc[29], 1e-29, rtol=1e-4, atol=0)
