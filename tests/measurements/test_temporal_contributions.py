"""Temporal contributions against closed forms, a network with untied weights and truncated backpropagation."""

from __future__ import annotations

import copy
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.state_gradients import StateGradients
from gradhorizon.measurements.temporal_contributions import EFFECTIVE_HORIZON_ERROR, TemporalContributions
from gradhorizon.network import Network
from gradhorizon.tasks.task import Batch
from tests.measurements.networks import NETWORKS, LinearCell, SquaredError, SumReadout, attention, random_probe
from tests.oracles_contributions import slow_table
from tests.synthetic_cells import ClockedReader

RELATIVE = ["share_of_norm", "cumulative_cosine", "cumulative_norm_ratio", "cumulative_relative_error"]


def read(probe: Probe, num_bins: int = 5) -> pd.DataFrame:
    return TemporalContributions(LogSpaced(), num_bins).read(probe)


@cache
def measured_and_expected(name: str, loss_steps: tuple[int, ...]) -> tuple[Probe, pd.DataFrame]:
    torch.manual_seed(1)
    probe = random_probe(NETWORKS[name]().double(), 7, loss_steps, batch_size=3)
    return probe, slow_table(probe, num_bins=4)


def check_slow_twin(name: str, loss_steps: tuple[int, ...]) -> None:
    probe, expected = measured_and_expected(name, loss_steps)
    pd.testing.assert_frame_equal(read(probe, 4), expected, rtol=1e-9, atol=0, check_dtype=False)


@pytest.mark.oracle("slow twin: a network in which every step has parameters of its own")
def test_table_equals_that_of_untied_weights() -> None:
    check_slow_twin("bidirectional", (2, 5))


@pytest.mark.parametrize("loss_steps", [(7,), (2, 5), (3, 7)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_equals_the_one_with_untied_weights(name: str, loss_steps: tuple[int, ...]) -> None:
    check_slow_twin(name, loss_steps)


def scalar_probe(weight: float, inputs: Tensor, targets: Tensor) -> Probe:
    """h_t = w h_{t−1} + x_t, inputs (B, N), read at the last step, with the loss (h_N − y)²."""
    network = Network(partial(LinearCell, hidden_size=1), 1, 1).double()
    network.readout = SumReadout(1, 1)  # type: ignore[assignment]
    with torch.no_grad():
        network.cells()[0].weight_hh.fill_(weight)  # type: ignore[operator]
    batch = Batch(inputs.double()[..., None], targets.double()[:, None, None], (inputs.shape[1],))
    return Probe(network, SquaredError(inputs.shape[1], size=1), batch)


@pytest.mark.oracle("closed form: h_t = (1 − w^t) x / (1 − w) and the share 2 (h_N − y) w^τ h_{t−1}, mean over samples")
def test_scalar_linear_network_has_geometric_shares() -> None:
    weight, num_steps, drive, target = 0.8, 60, np.array([1.0, -2.0]), np.array([3.0, 5.0])
    rows = read(scalar_probe(weight, torch.tensor(drive)[:, None].expand(2, 60), torch.tensor(target)), 12)
    lags = np.arange(num_steps)
    states = (1 - weight ** np.arange(num_steps + 1)) / (1 - weight)
    share = np.mean(2 * (states[-1] * drive - target) * drive) * weight**lags * states[num_steps - 1 - lags]
    expected = [share[low : high + 1].sum() for low, high in zip(rows["lag_from"], rows["lag_to"], strict=True)]
    beyond = [share[high + 1 :].sum() / share.sum() for high in rows["lag_to"]]
    np.testing.assert_allclose(rows["share_norm"], np.abs(expected), rtol=1e-12, atol=0)
    np.testing.assert_allclose(rows["cumulative_relative_error"], beyond, rtol=1e-12, atol=0)
    np.testing.assert_allclose(rows["cumulative_cosine"], 1.0, rtol=1e-15)
    assert (rows["effective_horizon_steps"] == rows["lag_to"][np.argmax(np.array(beyond) <= 0.1)]).all()


def test_effective_horizon_waits_until_no_later_share_disturbs() -> None:
    # States 0, −5, 5, 1 and w = 1: shares 1, 5, −5, 0 at lags 0 … 3, in units of 2 (h_N − y) = 2.
    rows = read(scalar_probe(1.0, torch.tensor([[-5.0, 10.0, -4.0, 1.0]]), torch.tensor([1.0])), 8)
    assert rows["lag_to"].tolist() == [0, 1, 2, 3]
    assert rows["share_norm"].tolist() == [2.0, 10.0, 10.0, 0.0]
    assert rows["share_of_norm"].tolist() == [1.0, 5.0, 5.0, 0.0]
    assert rows["cumulative_relative_error"].tolist() == [0.0, 5.0, 0.0, 0.0]
    assert rows["cumulative_norm_ratio"].tolist() == [1.0, 6.0, 1.0, 1.0]
    assert rows["effective_horizon_steps"].tolist() == [2.0] * 4
    assert rows["num_zero_entries"].tolist() == [0, 0, 0, 1]


def test_cosine_is_minus_one_while_the_early_shares_point_backwards() -> None:
    rows = read(scalar_probe(1.0, torch.tensor([[3.0, -4.0, 1.0]]), torch.tensor([1.0])), 8)
    assert rows["cumulative_cosine"].tolist() == [-1.0, 1.0, 1.0]


def truncated_gradient(probe: Probe, max_lag: int) -> Tensor:
    """Gradient of the cell's parameters with the state cut off before the last `max_lag` + 1 steps."""
    (cell,) = probe.network.cells()
    inputs, start = probe.batch.inputs, probe.input_len - 1 - max_lag
    state = cell.initial_state(len(inputs))  # type: ignore[operator]
    with torch.no_grad():
        for t in range(start):
            state = cell.step(inputs[:, t], state, t)  # type: ignore[operator]
    for t in range(start, probe.input_len):
        state = cell.step(inputs[:, t], state, t)  # type: ignore[operator]
    loss = probe.task.loss(probe.network.readout(state[0][:, None], None, None), probe.batch.targets)[:, -1].mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(cell.parameters()))])


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "one_unit"])
def test_shares_up_to_a_lag_are_the_gradient_truncated_there(name: str) -> None:
    probe = random_probe(NETWORKS[name]().double(), input_len=20)
    rows = read(probe, 8)
    full = truncated_gradient(probe, probe.input_len - 1)
    truncated = torch.stack([truncated_gradient(probe, lag) for lag in rows["lag_to"]])
    cosine = torch.cosine_similarity(truncated, full, dim=1).numpy()
    np.testing.assert_allclose(rows["cumulative_cosine"], cosine, rtol=1e-12, atol=0)
    np.testing.assert_allclose(rows["cumulative_norm_ratio"], truncated.norm(dim=1) / full.norm(), rtol=1e-12, atol=0)
    # The difference of two nearly equal vectors is known to their rounding only.
    errors = (truncated - full).norm(dim=1) / full.norm()
    np.testing.assert_allclose(rows["cumulative_relative_error"], errors, rtol=1e-12, atol=1e-14)


class TrainedStart(LinearCell):
    """The linear recurrence from an initial state that is trained."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.start = nn.Parameter(torch.ones(hidden_size))

    def initial_state(self, batch_size: int) -> State:
        return (self.start.expand(batch_size, -1),)


def read_cell(cell: Recurrent, input_len: int = 7) -> pd.DataFrame:
    network = Network(partial(LinearCell, hidden_size=cell.hidden_size), cell.input_size, 2).double()
    network.layers[0]["forward_cell"] = cell.double()  # type: ignore[operator]
    return read(random_probe(network, input_len))


def test_trained_initial_state_belongs_to_the_longest_lag() -> None:
    rows = read_cell(TrainedStart(2, 2))
    assert rows["num_entries"].tolist() == [6] * len(rows)
    assert rows["num_zero_entries"].tolist() == [2] * (len(rows) - 1) + [0]


@pytest.mark.parametrize("cell", [ClockedReader, TrainedStart])
def test_cell_of_ones_own_equals_the_one_with_untied_weights(cell: type[Recurrent]) -> None:
    probe = random_probe(Network(partial(cell, hidden_size=2), 2, 2, num_layers=2).double())
    expected = slow_table(probe, num_bins=5)
    pd.testing.assert_frame_equal(read(probe), expected, rtol=1e-9, atol=0, check_dtype=False)


def test_frozen_parameters_have_no_share() -> None:
    cell = Elman(2, 2).double()
    cell.rnn.bias_ih_l0.requires_grad = False
    assert set(read_cell(cell)["num_entries"]) == {10}


def test_cell_without_trained_parameters_gives_no_rows() -> None:
    rows = read_cell(LinearCell(2, 2).requires_grad_(requires_grad=False))
    assert rows.empty
    assert list(rows.columns) == [column.name for column in TemporalContributions.table.columns]


class Forgetful(LinearCell):
    """A cell that hands its input on and uses no parameter."""

    def recur(self, projected_t: Tensor, state: State) -> State:  # noqa: ARG002
        return (projected_t,)


def test_parameters_that_are_never_used_have_shares_of_zero() -> None:
    rows = read_cell(Forgetful(2, 2))
    assert (rows["share_norm"] == 0).all()
    assert (rows["num_zero_entries"] == rows["num_entries"]).all()


def test_steps_after_the_probed_one_have_rows_only_where_they_are_felt() -> None:
    rows = read(random_probe(NETWORKS["bidirectional"](), 7, (2, 5)))
    negative = rows[rows["lag_from"] < 0]
    assert negative[["layer", "direction", "lag_from", "lag_to"]].to_numpy().tolist() == [[0, "forward", -2, -1]]
    assert (negative["share_norm"] > 0).all()


def test_effective_horizon_is_never_negative() -> None:
    # Step 1, the only one with a lag of 0 or more, multiplies the matrix with the zero state: the rest is all.
    network = Network(partial(LinearCell, hidden_size=2), 2, 2, bidirectional=True, readout=attention)
    rows = read(random_probe(network, 7, (1,))).query("direction == 'forward'")
    assert rows["cumulative_relative_error"].tolist() == [0.0, 0.0]
    assert rows["lag_to"].tolist() == [-1, 0]
    assert rows["effective_horizon_steps"].tolist() == [0.0, 0.0]


def test_causal_network_has_no_negative_lags() -> None:
    assert (read(random_probe(NETWORKS["deep"](), 7, (2, 5)))["lag_from"] >= 0).all()


def test_bins_are_adjacent_and_log_spaced() -> None:
    rows = read(random_probe(NETWORKS["one_unit"](), 101), 5)
    assert rows["lag_from"].tolist() == [0, 1, 2, 4, 11, 33]
    assert rows["lag_to"].tolist() == [0, 1, 3, 10, 32, 100]


def test_number_of_bins_does_not_change_what_is_reached_at_a_common_edge() -> None:
    probe = random_probe(NETWORKS["lstm"](), 33)
    coarse, fine = (read(probe, num_bins).set_index("lag_to")[RELATIVE[1:]] for num_bins in (2, 32))
    pd.testing.assert_frame_equal(coarse, fine.loc[coarse.index], rtol=1e-12, atol=0)


def test_one_step_is_one_bin_with_all_of_the_gradient() -> None:
    rows = read(random_probe(NETWORKS["elman"](), 1))
    assert rows[["lag_from", "lag_to", "effective_horizon_steps"]].to_numpy().tolist() == [[0, 0, 0]]
    np.testing.assert_allclose(rows[RELATIVE], [[1, 1, 1, 0]], rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", ["lstm", "bidirectional"])
def test_twice_the_loss_doubles_the_shares_exactly_and_changes_no_ratio(name: str) -> None:
    network = NETWORKS[name]()
    once, twice = (read(random_probe(network, factor=factor)) for factor in (1.0, 2.0))
    assert (twice["share_norm"] == 2 * once["share_norm"]).all()
    pd.testing.assert_frame_equal(once.drop(columns="share_norm"), twice.drop(columns="share_norm"))


def test_zero_gradient_has_no_ratios_and_no_horizon() -> None:
    # One step from the zero state: the recurrent matrix multiplies nothing.
    rows = read_cell(LinearCell(2, 2), input_len=1)
    assert rows["share_norm"].tolist() == [0.0]
    assert rows["num_zero_entries"].tolist() == [4]
    assert rows[[*RELATIVE, "effective_horizon_steps"]].isna().to_numpy().all()


def test_shares_whose_squares_underflow_keep_their_ratios() -> None:
    network = NETWORKS["lstm"]()
    plain, tiny = (read(random_probe(network, factor=factor)) for factor in (1.0, 2.0**-600))
    np.testing.assert_allclose(tiny["share_norm"] * 2.0**600, plain["share_norm"], rtol=1e-14, atol=0)
    pd.testing.assert_frame_equal(tiny[RELATIVE], plain[RELATIVE], rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_parameters_are_counted_not_raised(bad: float) -> None:
    network = NETWORKS["lstm"]()
    with torch.no_grad():
        for parameter in network.layers.parameters():
            parameter.fill_(bad)
    rows = read(random_probe(network))
    assert (rows["num_non_finite_entries"] > 0).all()
    assert rows[[*RELATIVE, "effective_horizon_steps"]].isna().to_numpy().all()


def test_one_overflowing_share_leaves_the_norms_of_the_others() -> None:
    # States 1e300, 0, 1, 1e10: only the share that multiplies the first one by the loss gradient overflows.
    inputs = torch.tensor([[1e300, -1e300, 1.0, 1e10]], dtype=torch.float64)
    rows = read(scalar_probe(1.0, inputs, torch.tensor([0.0])), 8)
    assert rows["num_non_finite_entries"].tolist() == [0, 0, 1, 0]
    assert np.isfinite(rows["share_norm"]).tolist() == [True, True, False, True]
    assert rows["effective_horizon_steps"].isna().all()


def test_reading_leaves_the_probe_to_other_measurements() -> None:
    probe = random_probe(NETWORKS["deep"]())
    before = copy.deepcopy(probe.network.state_dict())
    first = read(probe)
    StateGradients(LogSpaced()).read(probe)
    pd.testing.assert_frame_equal(read(probe), first, rtol=0, atol=0)
    assert all(torch.equal(own, before[name]) for name, own in probe.network.state_dict().items())
    assert all(own.grad is None for own in probe.network.parameters())


def test_fused_kernel_keeps_its_own_weights() -> None:
    probe = random_probe(NETWORKS["lstm"]())
    read(probe)
    kernel = probe.network.cells()[0].rnn
    assert all(held is own for held, own in zip(kernel._flat_weights, kernel.parameters(), strict=True))  # type: ignore[arg-type, union-attr]


def test_reading_works_where_a_validation_hook_probes() -> None:
    network = Network(partial(LSTM, hidden_size=3), 2, 2)
    expected = read(random_probe(network))
    with torch.inference_mode():
        pd.testing.assert_frame_equal(read(random_probe(network)), expected, rtol=0, atol=0)


def test_fewer_than_two_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="`num_bins` must be at least 2"):
        TemporalContributions(LogSpaced(), num_bins=1)


def test_effective_horizon_allows_a_tenth() -> None:
    assert EFFECTIVE_HORIZON_ERROR == 0.1
