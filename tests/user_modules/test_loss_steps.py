"""A loss is that of the probed step, whatever the outputs look like; pooling belongs into the module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradhorizon import input_gradient_profile, state_gradient_profile
from tests.user_modules.naive import INPUTS, Made, assert_profile, last, last_of_layer, naive_norms, squares


@dataclass(frozen=True)
class Answer:
    logits: Tensor


class Named(dict[str, Tensor]):
    """A dict that PyTorch does not look into, with attributes."""

    def __init__(self, **parts: Tensor) -> None:
        super().__init__(parts)
        self.__dict__.update(parts)


def lstm_with(answer: Callable[[Any], Any]) -> nn.Module:
    return Made(lambda m, x: answer(m.lstm(x)[0]), lstm=nn.LSTM(3, 5, batch_first=True))


def per_step() -> nn.Module:
    return Made(lambda m, x: m.up(m.lstm(x)[0]).squeeze(2), lstm=nn.LSTM(3, 5, batch_first=True), up=nn.Linear(5, 1))


SEVERAL: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "sum": (lambda: lstm_with(lambda h: h), lambda h: h.square().sum(dim=(1, 2))),
    "mean": (lambda: lstm_with(lambda h: h), lambda h: squares(h.mean(dim=1))),
    "last two": (lambda: lstm_with(lambda h: h), lambda h: squares(h[:, -2:].flatten(1))),
    "one number a step": (per_step, squares),
    "time first": (lambda: lstm_with(lambda h: h.transpose(0, 1)), lambda h: h.square().sum(dim=(0, 2))),
    "tuple": (lambda: lstm_with(lambda h: (h, None, [h])), lambda o: squares(o[2][0].sum(dim=1))),
    "dict": (lambda: lstm_with(lambda h: {"h": h}), lambda o: squares(o["h"].sum(dim=1))),
    "data class": (lambda: lstm_with(Answer), lambda o: squares(o.logits.sum(dim=1))),
    "object": (lambda: lstm_with(lambda h: SimpleNamespace(h=h)), lambda o: squares(o.h.sum(dim=1))),
    "dict of ones own": (lambda: lstm_with(lambda h: Named(h=h)), lambda o: squares(o.h.sum(dim=1))),
    "one length": (
        lambda: Made(lambda m, x: x + m.p, p=nn.Parameter(torch.ones(12, 3))),
        lambda o: squares(o.sum(dim=1)),
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_loss_of_several_steps_is_refused(name: str) -> None:
    build, loss = SEVERAL[name]
    with pytest.raises(ValueError, match=r"must read the outputs of one step, the probed one, got steps \d+ … 12"):
        input_gradient_profile(build(), INPUTS, loss)


def looped(answer: Callable[..., Any]) -> nn.Module:
    """Outputs step by step, as a loop over a cell collects them."""
    return Made(lambda m, x: answer(list(m.lstm(x)[0].unbind(1))), lstm=nn.LSTM(3, 5, batch_first=True))


def turned() -> nn.Module:
    """Complex outputs at every step."""
    return lstm_with(lambda h: torch.complex(h, 2 * h))


COLLECTED: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "list": (lambda: looped(lambda steps: steps), lambda o: sum(map(squares, o))),
    "tuple in a pair": (lambda: looped(lambda steps: (tuple(steps), steps[-1])), lambda o: sum(map(squares, o[0]))),
    "list in a dict": (lambda: looped(lambda steps: {"hs": steps}), lambda o: squares(torch.stack(o["hs"]).mean(0))),
    "list in a data class": (lambda: looped(Answer), lambda o: squares(sum(o.logits))),
    "complex": (turned, lambda o: o.abs().square().sum(dim=(1, 2))),
}


@pytest.mark.parametrize("name", COLLECTED)
def test_loss_of_several_steps_is_refused_however_they_are_collected(name: str) -> None:
    build, loss = COLLECTED[name]
    with pytest.raises(ValueError, match="must read the outputs of one step, the probed one, got steps 1 … 12"):
        input_gradient_profile(build(), INPUTS, loss)


ONE: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "pooled inside": (lambda: lstm_with(lambda h: h.mean(dim=1)), squares),
    "pooled inside, all returned": (lambda: lstm_with(lambda h: (h, h.mean(dim=1))), lambda o: squares(o[1])),
    "both ends joined inside": (lambda: lstm_with(lambda h: torch.cat([h[:, 0], h[:, -1]], dim=1)), squares),
    "state and output": (lambda: nn.LSTM(3, 5, batch_first=True), lambda o: squares(o[1][1][0]) + last(o[0])),
    "one number a step": (per_step, lambda o: o[:, -1].square()),
    "as many classes as steps": (
        lambda: Made(lambda m, x: m.up(m.lstm(x)[1][0][0]), lstm=nn.LSTM(3, 5, batch_first=True), up=nn.Linear(5, 12)),
        lambda o: functional.cross_entropy(o, torch.tensor([0, 4, 2, 11]), reduction="none"),
    ),
    "last of a list": (lambda: looped(lambda steps: steps), lambda o: squares(o[-1])),
    "as many layers as steps": (
        lambda: lstm_with(lambda h: [h[:, -1] * layer for layer in range(12)]),
        lambda o: sum(map(squares, o)),
    ),
    "complex": (turned, lambda o: o[:, -1].abs().square().sum(dim=1)),
    "data class": (lambda: lstm_with(Answer), lambda o: last(o.logits)),
    "dict of ones own": (lambda: lstm_with(lambda h: Named(h=h)), lambda o: last(o["h"])),
    "float32 targets": (
        lambda: lstm_with(lambda h: h),
        lambda h: functional.mse_loss(h[:, -1], torch.ones(4, 5, dtype=torch.float32), reduction="none").sum(dim=1),
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_loss_of_one_step_has_the_profile_of_naive_autograd(name: str) -> None:
    build, loss = ONE[name]
    module = build()
    assert_profile(input_gradient_profile(module, INPUTS, loss), naive_norms(module, INPUTS, loss), [12] * 4)


def test_loss_of_another_step_is_refused_and_the_step_named() -> None:
    lstm = nn.LSTM(3, 5, batch_first=True)

    def at_fifth(outputs: Any) -> Tensor:
        return squares(outputs[0][:, 4])

    with pytest.raises(ValueError, match="must read the probed step 12, got step 5; pass probed_step=5"):
        input_gradient_profile(lstm, INPUTS, at_fifth)
    rows = input_gradient_profile(lstm, INPUTS, at_fifth, probed_step=5)
    assert_profile(rows, naive_norms(lstm, INPUTS, at_fifth)[:, :5], [5] * 4)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda o: last_of_layer(o).float(), "`loss` must compute in torch.float64 .*got torch.float32.*targets by"),
        (lambda o: last_of_layer(o).mean().expand(4), "samples must not interact"),
        (
            lambda o: functional.cross_entropy(o[0][:, -1], torch.zeros(3, dtype=torch.long), reduction="none"),
            "batch_size",
        ),
        (lambda o: o[0][:, -1] @ torch.ones(5, dtype=torch.float32), r"must run on `inputs`.*`\.to\(outputs\)`"),
        (lambda o: o["h"], "must run on `inputs` in torch.float64, got TypeError"),
    ],
)
def test_loss_that_cannot_be_measured_is_refused_in_one_line(loss: Callable[[Any], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        input_gradient_profile(nn.LSTM(3, 5, batch_first=True), INPUTS, loss)
    assert "\n" not in str(caught.value)


def test_loss_without_a_number_is_counted() -> None:
    rows = input_gradient_profile(
        nn.LSTM(3, 5, batch_first=True), INPUTS, lambda outputs: last_of_layer(outputs) * torch.nan
    )
    assert (rows["num_non_finite_norms"] == 4).all()


def test_output_that_is_not_made_from_the_returned_state_is_refused() -> None:
    cell = Made(lambda m, x, h: (m.up(h), torch.tanh(x + h)), up=nn.Linear(3, 5))
    with pytest.raises(ValueError, match="loss must depend on the last state"):
        state_gradient_profile(cell, INPUTS, squares, initial_state=torch.zeros(4, 3))
