"""Whatever the caller has set, the numbers are the same bits, and all is as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradhorizon import input_gradient_profile, state_gradient_profile
from tests.user_modules.naive import INPUTS, Made, assert_profile, last, last_of_layer, naive_norms, squares


@contextmanager
def switched(switch: Callable[[Any], Any], value: Any, back: Any) -> Iterator[None]:
    switch(value)
    try:
        yield
    finally:
        switch(back)


AMBIENT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "default float16": lambda: switched(torch.set_default_dtype, torch.float16, torch.float32),
    "default device": lambda: switched(torch.set_default_device, "meta", None),
    "device": lambda: torch.device("meta"),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "low precision": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
    "numpy raises": lambda: np.errstate(all="raise"),
}


def settings() -> list[Any]:
    # Without Python's own random numbers: the hook that checks types in tests draws some.
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        torch.get_float32_matmul_precision(),
        np.geterr(),
    ]


@pytest.mark.parametrize("name", AMBIENT)
def test_what_the_caller_has_set_changes_no_bit_and_stays_set(name: str) -> None:
    lstm, cell = nn.LSTM(3, 5, batch_first=True), nn.LSTMCell(3, 5)
    constants = Made(lambda m, x: m.lstm(x, (torch.zeros(1, len(x), 5), torch.zeros(1, len(x), 5)))[0], lstm=lstm)

    def measured() -> list[pd.DataFrame]:
        return [
            input_gradient_profile(lstm, INPUTS, last_of_layer),
            input_gradient_profile(constants, INPUTS, last),
            input_gradient_profile(lstm, INPUTS, last_of_layer, dtype=torch.float32),
            state_gradient_profile(cell, INPUTS, squares),
        ]

    expected = measured()
    with AMBIENT[name]():
        before = settings()
        found = measured()
        assert settings() == before
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other, rtol=0, atol=0)


def test_module_and_inputs_made_in_inference_mode_are_measured() -> None:
    with torch.inference_mode():
        lstm, inputs = nn.LSTM(3, 5, batch_first=True), INPUTS.clone()
    twin = nn.LSTM(3, 5, batch_first=True)
    twin.load_state_dict({name: value.clone() for name, value in lstm.state_dict().items()})
    norms = naive_norms(twin, INPUTS, last_of_layer)
    assert_profile(input_gradient_profile(lstm, inputs, last_of_layer), norms, [12] * 4)


def test_call_inside_of_a_functional_transform_is_refused() -> None:
    module = nn.Linear(3, 3)

    def measured(x: Tensor) -> Tensor:
        return torch.tensor(input_gradient_profile(module, x, last)["gradient_norm_median"][0])

    with pytest.raises(ValueError, match=r"inside of a torch\.func transform"):
        torch.func.vmap(measured)(INPUTS[None])


@pytest.mark.parametrize(
    "draw",
    [lambda: torch.rand(()).item(), lambda: float(np.random.rand())],  # noqa: NPY002
)
def test_module_that_draws_is_measured_with_one_draw_and_none_of_the_callers(
    draw: Callable[[], float],
) -> None:
    before = settings()
    rows = input_gradient_profile(Made(lambda _, x: x.cumsum(1) * (1 + draw())), INPUTS, last)
    np.testing.assert_allclose(rows["relative_gradient_norm_median"], 1.0, rtol=1e-12)
    assert settings() == before


def test_backward_hooks_alter_no_profile() -> None:
    lstm = nn.LSTM(3, 5, batch_first=True)
    norms = naive_norms(lstm, INPUTS, last_of_layer)
    seen = []

    def doubled(_: nn.Module, gradients: Any, __: Any) -> Any:
        seen.append(1)
        return tuple(2 * own for own in gradients)

    lstm.register_full_backward_hook(doubled)
    assert_profile(input_gradient_profile(lstm, INPUTS, last_of_layer), norms, [12] * 4)
    assert not seen
    assert len(lstm._backward_hooks) == 1


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": torch.compile,  # type: ignore[dict-item]
    "compiled inside": lambda module: nn.Sequential(torch.compile(module)),  # type: ignore[call-overload]
    "parallel": nn.DataParallel,
    "scripted": torch.jit.script,
    "half": lambda module: nn.Sequential(module).half(),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_module_is_measured_as_what_it_wraps(name: str) -> None:
    module = nn.Linear(3, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 0.5, 0.0], [0.25, -1.0, 2.0], [0.0, 0.5, 0.125]]))
        module.bias.zero_()
    norms = naive_norms(module, INPUTS, last)
    wrapped = WRAPPED[name](module)
    rows = input_gradient_profile(wrapped, INPUTS, last)
    np.testing.assert_allclose(rows["gradient_norm_median"][0], np.exp(np.median(np.log(norms[:, -1]))), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.LazyLinear(3), "`weight` must have its shape before it is measured"),
        (lambda: nn.Linear(3, 3, device="meta"), r"must lie on one device, got cpu and meta \(`weight`\)"),
        (lambda: nn.LSTM(7, 5, batch_first=True), "LSTM must run on `inputs` in torch.float64, got RuntimeError"),
        (lambda: Made(lambda _, x: x / x.scale), "got AttributeError: 'Tensor' object has no attribute 'scale'"),
        (lambda: Made(lambda _, x: torch.from_numpy(x.numpy())), "compute in torch, without"),
        (lambda: Made(lambda _, x: (y := torch.tanh(x), y.mul_(2))[0]), r"write `x \* a` for `x.mul_\(a\)`"),
        (nn.Module, "NotImplementedError"),
    ],
)
def test_module_that_cannot_run_is_refused_in_one_line(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        input_gradient_profile(build(), INPUTS, last)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex128])
def test_format_that_is_no_floating_one_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="`dtype` must be a floating format"):
        input_gradient_profile(nn.Linear(3, 3), INPUTS, last, dtype=dtype)


def test_module_without_parameters_decays_at_its_own_rate() -> None:
    def leaky(_: Any, x: Tensor) -> Tensor:
        state, outputs = torch.zeros_like(x[:, 0]), []
        for x_t in x.unbind(1):
            state = 0.9 * state + x_t
            outputs.append(state)
        return torch.stack(outputs, dim=1)

    rows = input_gradient_profile(Made(leaky), INPUTS, last)
    np.testing.assert_allclose(rows["relative_gradient_norm_median"], 0.9 ** rows["lag"], rtol=1e-12)
