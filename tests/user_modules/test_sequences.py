"""Padded samples: lags count from each one's own end, or the call is refused; lengths that are none are refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from gradhorizon import input_gradient_profile, state_gradient_profile
from tests.user_modules.naive import (
    INPUTS,
    LENGTHS,
    Made,
    assert_profile,
    last,
    last_of_layer,
    log_median,
    naive_norms,
    squares,
)


def packed(lengths: Sequence[int], **options: Any) -> nn.Module:
    def run(module: Any, x: Tensor) -> Tensor:
        sequence = pack_padded_sequence(x, list(lengths), batch_first=True, enforce_sorted=False)
        return module.lstm(sequence)[1][0].transpose(0, 1).flatten(1)

    return Made(run, lstm=nn.LSTM(3, 5, batch_first=True, **options))


def own_ends(lengths: Sequence[int]) -> Callable[[Any], Tensor]:
    return lambda outputs: squares(outputs[0][torch.arange(4), torch.tensor(lengths) - 1])


@pytest.mark.parametrize("lengths", [LENGTHS, [12] * 4, [1] * 4, [1, 12, 1, 5], [2, 3, 4, 5], [12, 11, 11, 9]])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}])
def test_lags_of_packed_samples_count_from_their_own_ends(lengths: list[int], options: dict[str, Any]) -> None:
    module = packed(lengths, **options)
    rows = input_gradient_profile(module, INPUTS, squares, lengths=lengths)
    assert_profile(rows, naive_norms(module, INPUTS, squares), lengths)


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, torch.tensor, pd.Series, lambda own: torch.tensor(own, dtype=torch.int32)]
)
def test_lengths_may_be_any_whole_numbers(form: Callable[[list[int]], Any]) -> None:
    lstm = nn.LSTM(3, 5, batch_first=True)
    rows = input_gradient_profile(lstm, INPUTS, own_ends(LENGTHS), lengths=form(LENGTHS))
    assert_profile(rows, naive_norms(lstm, INPUTS, own_ends(LENGTHS)), LENGTHS)


def test_equal_lengths_are_the_same_as_none() -> None:
    lstm = nn.LSTM(3, 5, batch_first=True)
    expected = input_gradient_profile(lstm, INPUTS, last_of_layer)
    found = input_gradient_profile(lstm, INPUTS, last_of_layer, lengths=[12] * 4)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0)
    states = state_gradient_profile(lstm, INPUTS, squares)
    padded = state_gradient_profile(lstm, INPUTS, squares, lengths=[12] * 4)
    pd.testing.assert_frame_equal(padded, states, rtol=0, atol=0)


def test_long_padded_samples_are_reported_at_log_spaced_lags() -> None:
    lengths, inputs = [300, 90, 4, 300], torch.randn(4, 300, 3)
    rows = input_gradient_profile(packed(lengths), inputs, squares, lengths=lengths, max_lags=16).set_index("lag")
    assert rows.index.max() == 299
    assert rows["num_samples"].tolist() == [sum(length > lag for length in lengths) for lag in rows.index]


def test_states_of_padded_samples_are_those_of_each_alone() -> None:
    cell = nn.LSTMCell(3, 5)
    rows = state_gradient_profile(cell, INPUTS, squares, lengths=LENGTHS, cuts=range(13))
    label = ["part", "component", "lag"]
    alone = [
        state_gradient_profile(cell, INPUTS[b : b + 1, :length], squares, cuts=range(length + 1)).set_index(label)
        for b, length in enumerate(LENGTHS)
    ]
    for _, row in rows.iterrows():
        place = tuple(row[label])
        own = [frame.loc[place] for frame in alone if place in frame.index]
        assert row["num_samples"] == len(own)
        for column in ("gradient_norm_median", "relative_gradient_norm_median"):
            values = [one[column] for one in own]
            expected = log_median(values) if min(values) > 0 else 0.0
            np.testing.assert_allclose(row[column], expected, rtol=1e-11, atol=0)
    single = state_gradient_profile(cell, INPUTS, squares, cuts=range(13))
    assert rows[label[:2]].to_numpy().tolist() == single[label[:2]].to_numpy().tolist()
    assert rows["t"].tolist() == single["t"].tolist()


UNSAID: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "packed": (lambda: packed(LENGTHS), squares),
    "packed both ways": (lambda: packed(LENGTHS, bidirectional=True), squares),
    "outputs at own ends": (lambda: nn.LSTM(3, 5, batch_first=True), own_ends(LENGTHS)),
}


@pytest.mark.parametrize("name", UNSAID)
def test_samples_of_several_lengths_are_refused_without_them(name: str) -> None:
    build, loss = UNSAID[name]
    with pytest.raises(ValueError, match=r"3, 7, 9, 12.*pass lengths="):
        input_gradient_profile(build(), INPUTS, loss)


@pytest.mark.parametrize(
    ("module", "loss", "message"),
    [
        (packed([12, 8, 3, 9]), squares, "padding must not be felt, got a gradient at step 8 of sample 1"),
        (nn.GRU(3, 5, bidirectional=True, batch_first=True), own_ends(LENGTHS), "padding must not be felt"),
        (nn.GRU(3, 5, batch_first=True), last_of_layer, r"probed step of each sample, got step 12; read .*lengths - 1"),
    ],
)
def test_lengths_that_are_not_those_of_the_loss_are_refused(
    module: nn.Module, loss: Callable[[Any], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        input_gradient_profile(module, INPUTS, loss, lengths=LENGTHS)


def test_length_beyond_the_last_step_that_is_felt_is_said() -> None:
    with pytest.warns(UserWarning, match=r"probed steps of samples \[1\] do not move"):
        rows = input_gradient_profile(packed(LENGTHS), INPUTS, squares, lengths=[12, 8, 3, 9])
    assert rows["num_undefined_relative_norms"].tolist()[:2] == [1, 1]


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2, 3], ValueError, r"one number per sample, shape \(4,\), got \(3,\)"),
        (5, ValueError, r"one number per sample, shape \(4,\), got \(\)"),
        ([[1, 2, 3, 4]], ValueError, r"got \(1, 4\)"),
        ([0, 1, 2, 3], ValueError, r"must lie in 1 … 12 .*got 0 … 3"),
        ([1, 1, 1, 13], ValueError, r"must lie in 1 … 12 .*got 1 … 13"),
        ([1.0, 2.0, 3.0, 4.0], TypeError, "must be whole numbers, got float64"),
        ([True] * 4, TypeError, "must be whole numbers, got bool"),
    ],
)
@pytest.mark.parametrize("measure", [input_gradient_profile, state_gradient_profile])
def test_lengths_that_are_none_are_refused(measure: Any, lengths: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measure(nn.LSTM(3, 5, batch_first=True), INPUTS, squares, lengths=lengths)


def test_lengths_and_a_probed_step_are_refused_together() -> None:
    with pytest.raises(ValueError, match="got both"):
        input_gradient_profile(packed(LENGTHS), INPUTS, squares, lengths=LENGTHS, probed_step=3)


@pytest.mark.parametrize("probed_step", [2.5, True, "3"])
def test_step_that_is_no_whole_number_is_refused(probed_step: Any) -> None:
    with pytest.raises(TypeError, match="`probed_step` must be a whole number"):
        inspect.unwrap(input_gradient_profile)(packed([12] * 4), INPUTS, squares, probed_step=probed_step)


def last_but(number: int) -> nn.Module:
    return Made(lambda m, x: m.lstm(x[:, : 12 - number])[0][:, -1], lstm=nn.LSTM(3, 5, batch_first=True))


def test_probed_step_without_influence_is_refused_and_the_last_one_with_it_named() -> None:
    with pytest.raises(ValueError, match=r"exactly 0 at step 12; the last that does is 9: pass probed_step=9"):
        input_gradient_profile(last_but(3), INPUTS, squares)
    module = last_but(3)
    rows = input_gradient_profile(module, INPUTS, squares, probed_step=9)
    assert_profile(rows, naive_norms(module, INPUTS, squares)[:, :9], [9] * 4)


def test_loss_that_nothing_moves_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly 0 at every step of every sample"):
        input_gradient_profile(nn.Linear(3, 3), INPUTS, lambda outputs: (outputs[:, -1] * 0).sum(dim=1))


def test_sample_whose_loss_nothing_moves_is_said_and_left_out() -> None:
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    lstm = nn.LSTM(3, 5, batch_first=True)
    with pytest.warns(UserWarning, match=r"samples \[1\] do not move"):
        rows = input_gradient_profile(lstm, INPUTS, lambda outputs: last_of_layer(outputs) * weights)
    kept = [0, 2, 3]
    norms = naive_norms(lstm, INPUTS[kept], last_of_layer)
    expected = [log_median([*(norms[:, 11 - lag] / norms[:, 11])]) for lag in range(12)]
    np.testing.assert_allclose(rows["relative_gradient_norm_median"], expected, rtol=1e-11)


def test_maximum_over_steps_is_no_padding() -> None:
    module = Made(lambda m, x: m.linear(x).amax(dim=1), linear=nn.Linear(3, 64))
    norms = naive_norms(module, INPUTS, squares)
    unfelt = np.flatnonzero(norms[:, -1] == 0)
    with pytest.warns(UserWarning, match="do not move"):
        rows = input_gradient_profile(module, INPUTS, squares)
    assert len(unfelt) == rows["num_undefined_relative_norms"][0] > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (pack_padded_sequence(INPUTS, [12] * 4, batch_first=True), "PackedSequence; unpack it"),
        (INPUTS.to_sparse(), "got a tensor of layout torch.sparse_coo"),
        (INPUTS + 0j, "must be floating point"),
    ],
)
@pytest.mark.parametrize("measure", [input_gradient_profile, state_gradient_profile])
def test_inputs_that_are_no_dense_tensor_are_refused(measure: Any, inputs: Any, message: str) -> None:
    # The hook that checks types in tests would refuse some first, with another message.
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(measure)(nn.LSTM(3, 5, batch_first=True), inputs, squares)


@pytest.mark.parametrize(
    "inputs", [INPUTS[:1].expand(4, -1, -1), INPUTS.transpose(0, 1), INPUTS.half(), INPUTS.double()]
)
def test_inputs_are_left_as_they_are_however_they_lie_in_memory(inputs: Tensor) -> None:
    module = nn.Sequential(nn.LeakyReLU(0.5, inplace=True), nn.Linear(3, 3))
    before = inputs.clone()
    rows = input_gradient_profile(module, inputs, last)
    twin = nn.Sequential(nn.LeakyReLU(0.5), module[1])
    norms = naive_norms(twin, inputs, last)
    np.testing.assert_allclose(rows["gradient_norm_median"][0], log_median(norms[:, -1]), rtol=1e-12)
    assert torch.equal(inputs, before)
