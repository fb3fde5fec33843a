"""The two library calls: on anybody's modules, harmless, and clear about bad input."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradhorizon
from gradhorizon import input_gradient_profile, state_gradient_profile
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.state_gradients import StateGradients
from tests.measurements.networks import LevelAndMatrix, LinearCell, linear_network, random_probe
from tests.oracles import torch_cell

INPUTS = torch.randn(3, 12, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def sum_of_last(outputs: Tensor) -> Tensor:
    return outputs[:, -1].square().sum(dim=1)


def sum_of_output(h: Tensor) -> Tensor:
    return h.square().sum(dim=1)


def test_input_profile_of_a_scaled_orthogonal_network_decays_at_its_scale() -> None:
    rows = input_gradient_profile(LinearCell(2, 2, 0.5), INPUTS, sum_of_last)
    np.testing.assert_allclose(rows["relative_gradient_norm_median"], 0.5 ** rows["lag"], rtol=1e-12, atol=0)


def test_input_profile_equals_the_table_of_an_experiment() -> None:
    probe = random_probe(linear_network(0.8))
    expected = InputGradients(LogSpaced()).read(probe).drop(columns="training_loss_gradient_norm_median")
    targets = probe.batch.targets

    def loss(outputs: Tensor) -> Tensor:
        return (outputs[:, -1:] - targets).square().sum(dim=(1, 2))

    found = input_gradient_profile(probe.network.layers[0]["forward_cell"], probe.batch.inputs, loss)  # type: ignore[index]
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0)


def test_state_profile_has_the_columns_of_the_table_of_an_experiment() -> None:
    rows = state_gradient_profile(nn.GRUCell(2, 3), INPUTS, sum_of_output)
    assert list(rows.columns) == [column.name for column in StateGradients.table.columns]


def _total(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["part"] == "total") & (rows["component"] == "all")].set_index("lag")


def test_state_profile_of_a_scaled_orthogonal_cell_decays_at_its_scale() -> None:
    total = _total(state_gradient_profile(LinearCell(2, 2, 0.5), INPUTS, sum_of_output))
    np.testing.assert_allclose(total["relative_gradient_norm_median"], 0.5**total.index, rtol=1e-12, atol=0)


CELLS: dict[str, Callable[[], Elman | LSTM | GRU]] = {
    "elman": lambda: Elman(2, 3),
    "lstm": lambda: LSTM(2, 3),
    "gru": lambda: GRU(2, 3),
}


def kernel(cell: Elman | LSTM | GRU, batch_first: bool) -> nn.RNNBase:
    found = copy.deepcopy(cell.rnn)
    found.batch_first = batch_first
    return found


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("form", ["cell", "layer", "layer with time first"])
def test_state_profile_of_a_torch_module_equals_that_of_our_cell(name: str, form: str) -> None:
    cell = CELLS[name]()
    twin = torch_cell(cell) if form == "cell" else kernel(cell, batch_first=form == "layer")
    expected = state_gradient_profile(cell, INPUTS, sum_of_output)
    pd.testing.assert_frame_equal(state_gradient_profile(twin, INPUTS, sum_of_output), expected, rtol=1e-10, atol=0)


def test_state_profile_equals_autograd_with_one_leaf_at_the_cut() -> None:
    cell, state = nn.GRUCell(2, 3).double(), torch.zeros(3, 3, dtype=torch.float64)
    found = _total(state_gradient_profile(cell, INPUTS, sum_of_output, cuts=[4]))
    for t in range(12):
        if t == 4:
            leaf = state = state.detach().requires_grad_()
        state = cell(INPUTS[:, t], state)
    (gradient,) = torch.autograd.grad(sum_of_output(state).sum(), leaf)
    np.testing.assert_allclose(found["gradient_norm_median"], gradient.norm(dim=1).median().item(), rtol=1e-12)
    assert found.index.tolist() == [8]


def test_initial_state_is_where_the_recurrence_starts() -> None:
    cell = nn.RNNCell(2, 3).double()
    start = torch.full((3, 3), 2.0)
    later = _total(
        state_gradient_profile(cell, INPUTS[:, 1:], sum_of_output, initial_state=cell(INPUTS[:, 0], start.double()))
    )
    whole = _total(state_gradient_profile(cell, INPUTS, sum_of_output, initial_state=start, cuts=[1]))
    np.testing.assert_allclose(later["gradient_norm_median"].loc[11], whole["gradient_norm_median"].loc[11], rtol=1e-12)


def test_component_of_one_number_per_sample_is_measured() -> None:
    cell = LevelAndMatrix(2, 2)
    profile = state_gradient_profile(cell, INPUTS, lambda outputs: outputs.sum(dim=1), cuts=[4, 12])
    level = profile.query("part == 'total' and component == 'level'").set_index("lag")["gradient_norm_median"]
    np.testing.assert_allclose(level.loc[8], level.loc[0] * 0.5**8, rtol=1e-12)


class Leaky(nn.Module):
    """A cell of somebody's own: s ← a s + x, for one tensor or a pair."""

    def forward(self, x_t: Tensor, state: Any) -> Any:
        if isinstance(state, Tensor):
            return 0.5 * state + x_t
        fast, slow = state
        return 0.5 * fast + x_t + slow, 0.9 * slow


def test_module_of_ones_own_with_a_bare_state_is_measured() -> None:
    total = _total(state_gradient_profile(Leaky(), INPUTS, sum_of_output, initial_state=torch.zeros(3, 2)))
    np.testing.assert_allclose(total["relative_gradient_norm_median"], 0.5**total.index, rtol=1e-12, atol=0)


def test_module_of_ones_own_with_a_tuple_of_states_is_measured_per_component() -> None:
    start = (torch.zeros(3, 2), torch.zeros(3, 2))
    rows = state_gradient_profile(Leaky(), INPUTS, sum_of_output, initial_state=start, cuts=range(12))
    through_time = rows[rows["part"] == "through_time"].set_index("component")
    fast = through_time["relative_gradient_norm_median"].loc["s0"].to_numpy()
    np.testing.assert_allclose(fast[::-1], 0.5 ** np.arange(1, 13), rtol=1e-12, atol=0)
    slow = through_time["relative_gradient_norm_median"].loc["s1"].to_numpy()[::-1]
    expected = [sum(0.9**k * 0.5 ** (lag - 1 - k) for k in range(lag)) for lag in range(1, 13)]
    np.testing.assert_allclose(slow, expected, rtol=1e-12, atol=0)


def test_through_time_part_at_the_last_step_is_exactly_zero() -> None:
    rows = state_gradient_profile(LSTM(2, 3), INPUTS, sum_of_output)
    probed = rows[(rows["lag"] == 0) & (rows["part"] == "through_time")]
    assert (probed["num_zero_entries"] == probed["num_entries"]).all()


@pytest.mark.parametrize("measure", ["inputs", "states"])
@pytest.mark.parametrize("has_gradients", [True, False])
@pytest.mark.parametrize("is_training", [True, False])
def test_module_gradients_mode_and_random_state_stay_as_they_were(
    measure: str, has_gradients: bool, is_training: bool
) -> None:
    module = nn.LSTM(2, 3, batch_first=True, dropout=0.0).train(is_training)
    if has_gradients:
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
    before = _bits(module)
    if measure == "inputs":
        input_gradient_profile(module, INPUTS, lambda outputs: sum_of_last(outputs[0]))
    else:
        state_gradient_profile(module, INPUTS, sum_of_output)
    assert _bits(module) == before


def _bits(module: nn.Module) -> list[Any]:
    tensors = [t for p in module.parameters() for t in (p.detach(), p.grad)]
    return [
        [None if t is None else (t.dtype, t.numpy().tobytes()) for t in tensors],
        module.training,
        torch.get_rng_state().tolist(),
        pickle.dumps(np.random.get_state()),  # noqa: NPY002
    ]


class Noisy(nn.Module):
    """Draws noise whatever its mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.rand_like(x))


def test_module_that_draws_noise_leaves_the_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    input_gradient_profile(Noisy(), INPUTS, sum_of_last)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_off_while_measuring() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.9))
    expected = input_gradient_profile(module[0], INPUTS, sum_of_last)
    pd.testing.assert_frame_equal(input_gradient_profile(module, INPUTS, sum_of_last), expected, rtol=0, atol=0)


def test_measuring_under_no_grad_is_the_same() -> None:
    expected = input_gradient_profile(nn.Identity(), INPUTS, sum_of_last)
    with torch.no_grad():
        found = input_gradient_profile(nn.Identity(), INPUTS, sum_of_last)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0)


def test_inputs_that_require_grad_keep_their_own_graph_untouched() -> None:
    inputs = INPUTS.clone().requires_grad_()
    input_gradient_profile(LSTM(2, 3), inputs, sum_of_last)
    assert inputs.grad is None


def test_frozen_module_is_measured() -> None:
    module = LSTM(2, 3).requires_grad_(requires_grad=False)
    assert (input_gradient_profile(module, INPUTS, sum_of_last)["gradient_norm_median"] > 0).all()
    assert (_total(state_gradient_profile(module, INPUTS, sum_of_output))["gradient_norm_median"] > 0).all()


def test_probed_step_counts_lags_and_later_steps_are_negative() -> None:
    rows = input_gradient_profile(LSTM(2, 3), INPUTS, lambda outputs: outputs[:, 7].sum(dim=1), probed_step=8)
    assert rows["lag"].tolist() == list(range(-4, 8))
    assert (rows.loc[rows["lag"] < 0, "gradient_norm_p90"] == 0).all()
    assert rows.loc[rows["lag"] == 0, "relative_gradient_norm_median"].tolist() == [1.0]


def test_nan_parameters_are_counted_not_raised() -> None:
    module = LSTM(2, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    assert (input_gradient_profile(module, INPUTS, sum_of_last)["num_non_finite_norms"] == 3).all()
    total = _total(state_gradient_profile(module, INPUTS, sum_of_output))
    assert (total["num_non_finite_norms"] == 3).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2), (4, 1, 2)])
def test_smallest_sizes_are_measured(shape: tuple[int, int, int]) -> None:
    cell, inputs = GRU(shape[2], 1), torch.ones(shape)
    assert len(input_gradient_profile(cell, inputs, sum_of_last)) == shape[1]
    assert _total(state_gradient_profile(cell, inputs, sum_of_output)).index.min() == 0


def test_float32_is_measured_on_request() -> None:
    rows = input_gradient_profile(
        LinearCell(2, 2, 1e-3), INPUTS[:, :1].repeat(1, 20, 1), sum_of_last, dtype=torch.float32
    )
    assert rows.loc[rows["lag"] == 19, "gradient_norm_median"].tolist() == [0.0]


BAD_INPUTS: list[tuple[Tensor, type[Exception], str]] = [
    (torch.zeros(3, 4), ValueError, r"must have shape \(batch, steps, features\), got \(3, 4\)"),
    (torch.zeros(0, 4, 2), ValueError, "at least one sample, step and feature"),
    (torch.zeros(3, 4, 2, dtype=torch.int64), TypeError, "must be floating point to have gradients, got torch.int64"),
    (torch.full((3, 4, 2), torch.nan), ValueError, "must be finite, got 24 infinite or NaN entries"),
]


@pytest.mark.parametrize("measure", [input_gradient_profile, state_gradient_profile])
@pytest.mark.parametrize(("inputs", "error", "message"), BAD_INPUTS)
def test_bad_inputs_are_refused(measure: Any, inputs: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measure(LSTM(2, 3), inputs, sum_of_last)


BAD_LOSSES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda outputs: outputs.mean(), r"one number per sample, shape \(3,\), got shape \(\).*reduction='none'"),
    (lambda outputs: outputs.reshape(3, -1), r"one number per sample, shape \(3,\), got shape"),
    (lambda outputs: outputs.sum().item(), "one number per sample, shape .* got float"),
    (lambda outputs: outputs.detach().reshape(3, -1).sum(dim=1), "must depend on the inputs.*detach"),
    (lambda _: torch.ones(3, requires_grad=True), "must depend on the inputs"),
    (lambda outputs: outputs.reshape(3, -1).sum(dim=1) * outputs.sum(), "samples must not interact"),
]


@pytest.mark.parametrize("measure", [input_gradient_profile, state_gradient_profile])
@pytest.mark.parametrize(("loss", "message"), BAD_LOSSES)
def test_bad_losses_are_refused(measure: Any, loss: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(LSTM(2, 3), INPUTS, loss)


def test_module_that_takes_the_batch_for_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"samples must not interact.*batch_first=True"):
        input_gradient_profile(nn.LSTM(2, 3), INPUTS, lambda outputs: sum_of_last(outputs[0]))


class BatchNormalised(nn.Module):
    """Batch normalisation over features."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def test_batch_norm_in_training_mode_is_measured_in_evaluation_mode() -> None:
    module = BatchNormalised().train()
    rows = input_gradient_profile(module, INPUTS, sum_of_last)
    assert rows.loc[rows["lag"] > 0, "gradient_norm_p90"].eq(0).all()
    assert module.norm.num_batches_tracked == 0


@pytest.mark.parametrize("probed_step", [0, 13, -1])
def test_probed_step_outside_the_sequence_is_refused(probed_step: int) -> None:
    with pytest.raises(ValueError, match="`probed_step` must lie in 1 … 12"):
        input_gradient_profile(LSTM(2, 3), INPUTS, sum_of_last, probed_step=probed_step)


@pytest.mark.parametrize("cuts", [[-1], [13], [3, 99]])
def test_cuts_outside_the_sequence_are_refused(cuts: list[int]) -> None:
    with pytest.raises(ValueError, match="`cuts` must lie in 0 … 12"):
        state_gradient_profile(LSTM(2, 3), INPUTS, sum_of_output, cuts=cuts)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}])
def test_torch_layer_with_more_than_one_state_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`num_layers=1` and `bidirectional=False`"):
        state_gradient_profile(nn.LSTM(2, 3, **options), INPUTS, sum_of_output)


def test_inputs_of_another_size_than_the_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="must have 5 features for this LSTMCell, got 2"):
        state_gradient_profile(nn.LSTMCell(5, 3), INPUTS, sum_of_output)


def test_module_of_ones_own_without_initial_state_is_refused() -> None:
    with pytest.raises(TypeError, match="got a Leaky without `initial_state`"):
        state_gradient_profile(Leaky(), INPUTS, sum_of_output)


def test_initial_state_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`initial_state` must be tensors of shape \(3, features\), got \(4, 2\)"):
        state_gradient_profile(Leaky(), INPUTS, sum_of_output, initial_state=torch.zeros(4, 2))


def test_module_that_changes_the_shape_of_its_state_is_refused() -> None:
    with pytest.raises(ValueError, match="must return a state like the one it was given"):
        state_gradient_profile(nn.Bilinear(2, 3, 5), INPUTS, sum_of_output, initial_state=torch.zeros(3, 3))


def test_function_that_is_no_module_is_refused() -> None:
    # The hook that checks types in tests would refuse it first, with another message.
    unchecked = inspect.unwrap(input_gradient_profile)
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module is measured, got builtin_function_or_method"):
        unchecked(torch.tanh, INPUTS, sum_of_last)


def test_module_that_cannot_be_copied_is_refused() -> None:
    module = nn.Linear(2, 2)
    vars(module)["lines"] = (line for line in "ab")
    with pytest.raises(ValueError, match="Linear cannot be copied"):
        input_gradient_profile(module, INPUTS, sum_of_last)


@pytest.mark.parametrize("name", ["gradhorizon", "gradhorizon.records"])
def test_importing_for_records_alone_imports_no_torch(name: str) -> None:
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_package_has_its_calls_and_its_version() -> None:
    assert set(gradhorizon.__all__) <= set(dir(gradhorizon))
    assert gradhorizon.__version__.count(".") >= 2


def test_package_says_what_it_has_instead_of_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute `profile`; it has .*input_gradient_profile"):
        gradhorizon.profile  # noqa: B018
