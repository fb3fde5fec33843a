"""Layers that take time first are refused at any batch size; whoever transposes is measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from gradhorizon import input_gradient_profile, state_gradient_profile
from tests.user_modules.naive import INPUTS, Made, assert_profile, last, last_of_layer, naive_norms, squares

SIZES = [1, 2, 4, 12]  # 12 = N


def inputs_of(batch_size: int) -> Tensor:
    return torch.randn(batch_size, 12, 3, generator=torch.Generator().manual_seed(batch_size))


def time_first_loop(module: Any, x: Tensor, is_reversed: bool = False) -> Tensor:
    state, outputs = x.new_zeros(x.shape[1], 3), [x] * len(x)
    for t in reversed(range(len(x))) if is_reversed else range(len(x)):
        outputs[t] = state = torch.tanh(module.linear(state) + x[t])
    return torch.stack(outputs)


TIME_FIRST: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "rnn": (lambda: nn.RNN(3, 5), last_of_layer),
    "gru": (lambda: nn.GRU(3, 5), last_of_layer),
    "stacked bidirectional lstm": (lambda: nn.LSTM(3, 5, 2, bidirectional=True), last_of_layer),
    "inside": (lambda: Made(lambda m, x: m.up(m.lstm(x)[0]), lstm=nn.LSTM(3, 5), up=nn.Linear(5, 2)), last),
    "under a right one": (
        lambda: Made(lambda m, x: m.b(m.a(x)[0]), a=nn.GRU(3, 5), b=nn.GRU(5, 3, batch_first=True)),
        last_of_layer,
    ),
    "transformer": (lambda: nn.TransformerEncoderLayer(3, 1, 8), last),
    "attention": (lambda: Made(lambda m, x: m.a(x, x, x), a=nn.MultiheadAttention(3, 1)), last_of_layer),
    "loop": (lambda: Made(time_first_loop, linear=nn.Linear(3, 3)), last),
    "loop backward": (lambda: Made(lambda m, x: time_first_loop(m, x, True), linear=nn.Linear(3, 3)), last),
    "sum": (lambda: Made(lambda _, x: x.cumsum(0)), last),
    "last state of all": (
        lambda: Made(lambda m, x: m.l(x)[1][0][-1], l=nn.LSTM(3, 5)),
        lambda h: squares(h).mean()[None],
    ),
}


@pytest.mark.parametrize("name", TIME_FIRST)
@pytest.mark.parametrize("batch_size", SIZES)
def test_module_that_takes_the_batch_for_time_is_refused(name: str, batch_size: int) -> None:
    build, loss = TIME_FIRST[name]
    with pytest.raises(ValueError, match=r"takes the batch for time|one number per sample"):
        input_gradient_profile(build(), inputs_of(batch_size), loss)


def test_refusal_names_the_layer_that_takes_time_first() -> None:
    with pytest.raises(ValueError, match=r"build `0` \(LSTM\) with batch_first=True, or transpose"):
        input_gradient_profile(nn.Sequential(nn.LSTM(3, 5)), inputs_of(1), last_of_layer)


BATCH_FIRST: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "lstm": (lambda: nn.LSTM(3, 5, batch_first=True), last_of_layer),
    "projected": (lambda: nn.LSTM(3, 5, proj_size=2, batch_first=True), last_of_layer),
    "bidirectional": (lambda: nn.GRU(3, 5, 2, bidirectional=True, batch_first=True), last_of_layer),
    "transposes": (
        lambda: Made(lambda m, x: m.l(x.transpose(0, 1))[0].transpose(0, 1), l=nn.LSTM(3, 5)),
        last,
    ),
    "answers time first": (
        lambda: Made(lambda m, x: m.l(x.transpose(0, 1))[0], l=nn.GRU(3, 5)),
        lambda o: squares(o[-1]),
    ),
    "state alone": (lambda: Made(lambda m, x: m.l(x.transpose(0, 1))[1][0][-1], l=nn.LSTM(3, 5)), squares),
    "transformer": (lambda: nn.TransformerEncoderLayer(3, 1, 8, batch_first=True), last),
    "one length": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), squares),
    "steps as channels": (lambda: nn.Conv1d(12, 12, 1), last),
    "packed": (
        lambda: Made(
            lambda m, x: m.l(pack_padded_sequence(x, [12] * len(x), batch_first=True)),
            l=nn.LSTM(3, 5, batch_first=True),
        ),
        lambda outputs: squares(outputs[1][0][-1]),
    ),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", BATCH_FIRST)
@pytest.mark.parametrize("batch_size", SIZES)
def test_module_that_takes_the_batch_first_has_the_profile_of_naive_autograd(name: str, batch_size: int) -> None:
    build, loss = BATCH_FIRST[name]
    module, inputs = build(), inputs_of(batch_size)
    norms = naive_norms(module, inputs, loss)
    if (norms > 0).all():
        assert_profile(input_gradient_profile(module, inputs, loss), norms, [12] * batch_size)
    else:
        assert name == "steps as channels"


def test_layer_of_one_batch_size_is_measured_or_refused_by_the_shape_it_is_fed() -> None:
    def fed(batch_first: bool) -> nn.Module:
        def run(module: Any, x: Tensor) -> Tensor:
            if len(x) != 1:
                raise RuntimeError("one sample at a time")
            return module.l(x)[0]

        return Made(run, l=nn.LSTM(3, 5, batch_first=batch_first))

    right = fed(batch_first=True)
    assert_profile(input_gradient_profile(right, INPUTS[:1], last), naive_norms(right, INPUTS[:1], last), [12])
    with pytest.raises(ValueError, match=r"inputs \(1, N, D\) of a layer that takes time first"):
        input_gradient_profile(fed(batch_first=False), INPUTS[:1], last)


@pytest.mark.parametrize("chosen", list(itertools.permutations(range(4), 2)))
def test_any_two_samples_of_four_that_interact_are_refused(chosen: tuple[int, int]) -> None:
    def mixed(_: Any, x: Tensor) -> Tensor:
        weights = torch.eye(len(x), dtype=x.dtype)
        if len(x) == 4:
            weights[chosen[1], chosen[0]] = 0.5
        return torch.einsum("ab,bnd->and", weights, x)

    with pytest.raises(ValueError, match="samples must not interact"):
        input_gradient_profile(Made(mixed), INPUTS, last)


def test_cell_that_mixes_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="samples must not interact"):
        state_gradient_profile(
            Made(lambda _, x, h: torch.tanh(x + h - h.mean(0))), INPUTS, squares, initial_state=torch.zeros(4, 3)
        )
