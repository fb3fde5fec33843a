"""A gradient that is not the derivative, or of lower precision, is refused; rounding, kinks and chaos are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradhorizon import input_gradient_profile, state_gradient_profile
from tests.user_modules.naive import INPUTS, Made, assert_profile, last, last_of_layer, naive_norms, squares

LONG = torch.randn(4, 200, 3, generator=torch.Generator().manual_seed(6))


def truncated(every: int, parts: str) -> nn.Module:
    """An LSTM whose state is detached after each so many steps."""

    def run(module: Any, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 5)
        outputs = []
        for t, x_t in enumerate(x.unbind(1)):
            h, c = module.cell(x_t, (h, c))
            outputs.append(h)
            if t % every == 0:
                h, c = h.detach() if "h" in parts else h, c.detach() if "c" in parts else c
        return torch.stack(outputs, dim=1)

    return Made(run, cell=nn.LSTMCell(3, 5))


@pytest.mark.parametrize("parts", ["h", "c", "hc"])
@pytest.mark.parametrize("every", [1, 3, 10])
def test_module_that_detaches_its_state_is_refused(parts: str, every: int) -> None:
    with pytest.raises(ValueError, match="the gradient must be that of the loss"):
        input_gradient_profile(truncated(every, parts), INPUTS, last)


@pytest.mark.parametrize("every", [25, 190])
def test_truncation_long_ago_is_refused(every: int) -> None:
    with pytest.raises(ValueError, match="got 0 at steps that move it"):
        input_gradient_profile(truncated(every, "hc"), LONG, last)


def test_deliberate_truncation_is_measured_on_request() -> None:
    module = truncated(3, "hc")
    rows = input_gradient_profile(module, INPUTS, last, has_surrogate_gradients=True).set_index("lag")
    norms = naive_norms(module, INPUTS, last)
    np.testing.assert_allclose(rows["gradient_norm_median"][1], np.exp(np.median(np.log(norms[:, 10]))), rtol=1e-12)
    assert (rows["gradient_norm_p90"][rows.index > 1] == 0).all()


class Spike(torch.autograd.Function):
    """A threshold with the gradient of the identity."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def clipped(_: Any, x: Tensor) -> Tensor:
    y = x.cumsum(dim=1)
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return y


WRONG: dict[str, Callable[[], nn.Module]] = {
    "spikes": lambda: Made(lambda m, x: Spike.apply(m.l(x)[0]), l=nn.LSTM(3, 5, batch_first=True)),
    "straight through": lambda: Made(lambda _, x: (y := x.cumsum(1)) + (y.round() - y).detach()),
    "clipped gradient": lambda: Made(clipped),
    "numpy": lambda: Made(lambda _, x: x.cumsum(1) + torch.from_numpy(np.cumsum(np.tanh(x.detach().numpy()), axis=1))),
    "written past autograd": lambda: Made(lambda _, x: (x.data.mul_(2), x.cumsum(1))[1]),
    "statistics of the batch": lambda: Made(lambda _, x: (x - x.mean(0).detach()).cumsum(1)),
    "early steps": lambda: Made(lambda _, x: torch.cat([x[:, :3].detach(), x[:, 3:]], dim=1).cumsum(1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_gradient_that_is_no_derivative_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"the gradient must be that of the loss.*has_surrogate_gradients=True"):
        input_gradient_profile(WRONG[name](), INPUTS, last)


def scaled(layer: nn.RNN, scale: float) -> nn.RNN:
    with torch.no_grad():
        layer.all_weights[0][1].normal_(0, scale / layer.hidden_size**0.5)
    return layer


def identity_relu() -> nn.RNN:
    layer = nn.RNN(3, 20, batch_first=True, nonlinearity="relu", bias=False)
    with torch.no_grad():
        layer.all_weights[0][1].copy_(torch.eye(20))
    return layer


HARD: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "chaos": (lambda: scaled(nn.RNN(3, 50, batch_first=True), 4.0), LONG),
    "relu at its kink": (identity_relu, torch.cat([0 * LONG[:, :50], LONG[:, :50]], dim=1)),
    "vanished": (lambda: scaled(nn.RNN(3, 8, batch_first=True), 0.01), LONG),
    "one hot": (
        lambda: nn.LSTM(3, 5, batch_first=True),
        torch.eye(3)[torch.arange(48).reshape(4, 12) % 3],
    ),
    "hard saturation": (lambda: nn.Sequential(nn.Linear(3, 9), nn.Hardtanh(), nn.RNN(9, 9, batch_first=True)), LONG),
}


@pytest.mark.parametrize("name", HARD)
def test_true_gradient_is_measured_where_differences_are_hard(name: str) -> None:
    build, inputs = HARD[name]
    module = build()
    rows = input_gradient_profile(module, inputs, last_of_layer).set_index("lag")
    norms = naive_norms(module, inputs, last_of_layer)
    assert (norms[:, -3:] > 0).all()
    expected = [float(np.exp(np.median(np.log(norms[:, -1 - lag])))) for lag in range(3)]
    np.testing.assert_allclose(rows["gradient_norm_median"][:3], expected, rtol=1e-9)


NARROW: dict[str, Callable[[], nn.Module]] = {
    "inside": lambda: Made(lambda m, x: m.b(m.a(x).float().tanh().double()), a=nn.Linear(3, 3), b=nn.Linear(3, 3)),
    "outputs": lambda: Made(lambda m, x: m.a(x).float(), a=nn.Linear(3, 3)),
    "half": lambda: Made(lambda m, x: m.a(x).half().double().cumsum(1), a=nn.Linear(3, 3)),
}


@pytest.mark.parametrize("name", NARROW)
def test_module_that_leaves_the_precision_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"the module must compute in torch.float64.*got torch.float(32|16)"):
        input_gradient_profile(NARROW[name](), INPUTS, last)


def test_module_of_float32_is_measured_in_float32() -> None:
    module = Made(lambda m, x: m.a(x.float()).cumsum(1), a=nn.Linear(3, 3))
    rows = input_gradient_profile(module, INPUTS, last, dtype=torch.float32)
    norms = naive_norms(Made(lambda m, x: m.a(x).cumsum(1), a=module.a), INPUTS, last)
    np.testing.assert_allclose(rows["gradient_norm_median"][0], np.exp(np.median(np.log(norms[:, -1]))), rtol=1e-5)


def test_constants_are_made_in_the_precision_of_the_measurement() -> None:
    module = Made(lambda m, x: (m.a(x) @ torch.eye(3) @ m.mix).cumsum(1), a=nn.Linear(3, 3), mix=torch.ones(3, 3))
    twin = Made(lambda m, x: (m.a(x) @ x.new_ones(3, 3)).cumsum(1), a=module.a)
    assert_profile(input_gradient_profile(module, INPUTS, last), naive_norms(twin, INPUTS, last), [12] * 4)
    stubborn = Made(lambda m, x: m.a(x) @ torch.eye(3, dtype=torch.float32), a=nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"Made must run on .*but.*make constants in the format of the inputs"):
        input_gradient_profile(stubborn, INPUTS, last)


def test_constants_follow_into_the_precision_from_wherever_they_are_kept() -> None:
    turn = torch.polar(torch.ones(3, 3), torch.arange(9.0).reshape(3, 3))
    kept: Any = {"mix": [torch.eye(3) + 0.1], "turn": turn}

    def run(m: Any, x: Tensor) -> Tensor:
        return ((m.a(x) @ m.kept["mix"][0] + 0j) @ m.turn @ m.kept["turn"]).cumsum(1).real

    module = Made(run, a=nn.Linear(3, 3), kept=kept, turn=turn)
    exact = Made(run, a=module.a, kept={"mix": [kept["mix"][0].double()], "turn": turn.to(torch.complex128)})
    exact.turn = turn.to(torch.complex128)
    assert_profile(input_gradient_profile(module, INPUTS, last), naive_norms(exact, INPUTS, last), [12] * 4)
    assert (kept["mix"][0].dtype, kept["turn"].dtype, module.turn.dtype) == (torch.float32, *[torch.complex64] * 2)


def test_complex_parameters_stay_complex() -> None:
    angle = torch.linspace(0.2, 2.0, 4)

    def run(module: Any, x: Tensor) -> Tensor:
        state, outputs = x.new_zeros(len(x), 4) + 0j, []
        for x_t in module.up(x).unbind(1):
            state = module.eigenvalue * state + x_t
            outputs.append(state.real)
        return torch.stack(outputs, dim=1)

    module = Made(run, eigenvalue=nn.Parameter(torch.polar(torch.full((4,), 0.9), angle)), up=nn.Linear(3, 4))
    rows = input_gradient_profile(module, INPUTS[:1], lambda outputs: outputs[:, -1].sum(dim=1)).set_index("lag")
    kept = module.eigenvalue.detach().to(torch.complex128)
    for lag in range(12):
        expected = float(((kept**lag).real @ module.up.weight.detach().double()).norm())
        np.testing.assert_allclose(rows["gradient_norm_median"][lag], expected, rtol=1e-12)


CELLS: dict[str, tuple[Callable[..., Any], str]] = {
    "detached": (lambda m, x, h: torch.tanh(m.a(x) + m.b(h.detach())), "the gradient must be that of the loss"),
    "result detached": (lambda m, x, h: torch.tanh(m.a(x) + m.b(h)).detach(), "the gradient must be that of the loss"),
    "gate detached": (lambda m, _, h: 0.5 * h + torch.tanh(m.b(h.detach())), "the gradient must be that of the loss"),
    "float32": (lambda m, x, h: torch.tanh(m.a(x) + m.b(h)).float().double(), "must compute in torch.float64"),
    "in place": (lambda _, x, h: h.mul_(0.5).add_(x), r"write `x \* a`"),
    "input in place": (lambda _, x, h: 0.5 * h + x.mul_(2), r"write `x \* a`"),
    "past autograd": (lambda _, x, h: (h.data.mul_(0.5), h + x)[1], "the gradient must be that of the loss"),
}


@pytest.mark.parametrize("name", CELLS)
def test_cell_that_is_not_what_autograd_sees_is_refused_in_one_line(name: str) -> None:
    function, message = CELLS[name]
    cell = Made(function, a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    with pytest.raises(ValueError, match=message) as caught:
        state_gradient_profile(cell, INPUTS, squares, initial_state=torch.full((4, 3), 0.3))
    assert "\n" not in str(caught.value)
