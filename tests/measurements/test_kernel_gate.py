"""The kernel gate: right kernels pass, wrong ones are named, nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gaussian_product import GaussianProduct
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.initialization import gaussian
from gradhorizon.cells.lstm import LSTM
from gradhorizon.kernels import gate
from gradhorizon.kernels.casting import NoComplexFormatError
from gradhorizon.kernels.conduct import ConductError
from gradhorizon.kernels.gate import (
    TOLERANCES,
    KernelMismatchError,
    SamplesInteractError,
    check_independent_samples,
    check_kernel,
    configuration,
    kernel_errors,
)
from gradhorizon.terminal.once import say_once
from tests.models import MODELS, build_cell
from tests.odd_cells import CountsInAList, Plain
from tests.sound_cells import BatchNormedBias, ComplexDiagonal, Dropout
from tests.synthetic_cells import ClockedReader
from tests.wrong_cells import Mixing, Noisy, WrongWhereItIsMeasured

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_passed", set())


class _WrongForward(Elman):
    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        outputs, last = super().segment(x, state, first_step)
        return outputs * 1.01, last


class _StaleState(Elman):
    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        outputs, _ = super().segment(x, state, first_step)
        return outputs, (outputs[:, -2],)


class _Damp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return 0.99 * gradient


class _WrongInputGradient(GRU):
    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        return super().segment(_Damp.apply(x), state, first_step)


class _WrongStateGradient(LSTM):
    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        h, c = state
        return super().segment(x, (h, _Damp.apply(c)), first_step)


class _WrongParameterGradient(Elman):
    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:  # noqa: ARG002
        weight_ih, weight_hh, bias_ih, bias_hh = self.rnn.all_weights[0]
        weights = [weight_ih, weight_hh, bias_ih.detach(), bias_hh]
        outputs, h = torch._VF.rnn_tanh(x, state[0].unsqueeze(0), weights, True, 1, 0.0, False, False, True)
        return outputs, (h[0],)


class _NotANumber(Elman):
    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        return super().segment(x, state, first_step)[0] * float("nan"), state


class _Clockless(ClockedReader):
    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:  # noqa: ARG002
        return super().segment(x, state, 0)


class _SpeaksOnce(Elman):
    calls = 0

    def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
        type(self).calls += 1
        return super().segment(x, state, first_step)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shipped_cell_passes_far_below_the_tolerance(name: str, dtype: torch.dtype, device: torch.device) -> None:
    errors = kernel_errors(build_cell(name, hidden_size=32), device, dtype)
    check_kernel(build_cell(name, hidden_size=32), device, dtype)
    assert max(errors.values()) < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_chaotic_network_passes(dtype: torch.dtype) -> None:
    check_kernel(Elman(3, 64, initialization=partial(gaussian, gain=4.0)), "cpu", dtype)


def test_cell_with_a_clock_and_two_state_shapes_passes() -> None:
    check_kernel(ClockedReader(3, 4), "cpu", torch.float32)


@pytest.mark.parametrize(
    ("cell", "quantity"),
    [
        (_WrongForward, "outputs"),
        (_StaleState, "final_state/h"),
        (_WrongInputGradient, "input_gradient"),
        (_WrongStateGradient, "initial_state_gradient/c"),
        (_WrongParameterGradient, "parameter_gradient/rnn.bias_ih_l0"),
        (_NotANumber, "outputs"),
        (_Clockless, "outputs"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_wrong_kernel_is_refused_by_the_first_quantity_that_is_wrong(
    cell: type[Recurrent], quantity: str, dtype: torch.dtype
) -> None:
    with pytest.raises(
        KernelMismatchError, match=f"`{cell.__name__}.segment` .* on cpu in {dtype} its {quantity} is off"
    ):
        check_kernel(cell(3, 8), "cpu", dtype)


def test_gradient_wrong_by_one_percent_leaves_the_outputs_right() -> None:
    errors = kernel_errors(_WrongInputGradient(3, 8), "cpu", torch.float64)
    assert errors["outputs"] < 1e-14
    assert errors["input_gradient"] == pytest.approx(0.01)


class Attends(Plain):
    """The scores of all keys shift together with the bias of the keys: its gradient is 0."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.keys = torch.nn.Linear(1, hidden_size)

    def recur(self, projected_t: Any, state: State) -> Any:
        scores = (self.keys(state[0].unsqueeze(2)) * projected_t.unsqueeze(1)).sum(dim=2)
        return (self.new(projected_t, torch.softmax(scores, dim=1) * state[0]),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "cancelled"), [(BatchNormedBias, "inp.bias"), (Attends, "keys.bias")])
def test_gradient_that_is_zero_but_for_rounding_is_right(kind: Any, cancelled: str, dtype: torch.dtype) -> None:
    cell = kind(3, 8)
    errors = kernel_errors(cell, "cpu", dtype)
    assert errors[f"parameter_gradient/{cancelled}"] <= gate.TOLERANCES[dtype]


def test_error_of_every_quantity_is_reported() -> None:
    assert list(kernel_errors(LSTM(3, 8), "cpu", torch.float64)) == [
        "outputs",
        "final_state/h",
        "final_state/c",
        "input_gradient",
        "initial_state_gradient/h",
        "initial_state_gradient/c",
        "parameter_gradient/rnn.weight_ih_l0",
        "parameter_gradient/rnn.weight_hh_l0",
        "parameter_gradient/rnn.bias_ih_l0",
        "parameter_gradient/rnn.bias_hh_l0",
    ]


def test_message_names_error_and_tolerance() -> None:
    with pytest.raises(KernelMismatchError, match=r"off by 0\.01, relative to its norm \(tolerance 1e-10\)"):
        check_kernel(_WrongForward(3, 8), "cpu", torch.float64)


def test_pass_is_remembered_per_configuration_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_SpeaksOnce, "calls", 0)
    check_kernel(_SpeaksOnce(3, 4), "cpu", torch.float64)
    check_kernel(_SpeaksOnce(3, 4), "cpu", torch.float64)
    assert _SpeaksOnce.calls == 1
    for cell, dtype in [
        (_SpeaksOnce(3, 5), torch.float64),
        (_SpeaksOnce(2, 4), torch.float64),
        (_SpeaksOnce(3, 4, "relu"), torch.float64),
        (_SpeaksOnce(3, 4), torch.float32),
    ]:
        check_kernel(cell, "cpu", dtype)
    assert _SpeaksOnce.calls == 5


def test_mismatch_is_not_remembered_as_a_pass() -> None:
    cell = _WrongForward(3, 4)
    for _ in range(2):
        with pytest.raises(KernelMismatchError):
            check_kernel(cell, "cpu", torch.float64)


def test_gate_leaves_parameters_gradients_mode_and_random_state_as_they_were() -> None:
    cell = LSTM(3, 4).eval()
    cell(torch.randn(2, 5, 3)).sum().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in cell.parameters() if p.grad is not None]
    random_state = torch.get_rng_state()
    check_kernel(cell, "cpu", torch.float32)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not cell.training
    assert len(before) == 4
    for parameter, (value, gradient) in zip(cell.parameters(), before, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter, value)
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)]
)
def test_gate_works_where_gradients_are_off_or_precision_is_lowered(context: Any) -> None:
    cell = GRU(3, 4)
    expected = kernel_errors(cell, "cpu", torch.float32)
    with context():
        assert kernel_errors(cell, "cpu", torch.float32) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_test_no_kernel_and_are_not_remembered(value: float) -> None:
    cell = Elman(3, 4, "relu")
    with torch.no_grad():
        next(cell.parameters()).fill_(value)
    check_kernel(cell, "cpu", torch.float64)
    assert kernel_errors(cell, "cpu", torch.float64) == {}
    assert gate._passed == set()


def test_segment_wrong_in_evaluation_mode_alone_is_refused_there() -> None:
    cell = WrongWhereItIsMeasured(3, 4)
    check_kernel(cell, "cpu", torch.float64)
    with pytest.raises(KernelMismatchError, match=r"outputs is off by 1, relative"):
        check_kernel(cell, "cpu", torch.float64, training=False)


def test_cell_whose_samples_interact_is_refused() -> None:
    for cell in (Elman(3, 4), ClockedReader(3, 4), GaussianProduct(3, 4)):
        check_independent_samples(cell)
    with pytest.raises(SamplesInteractError, match="samples must not interact, got a Mixing"):
        check_independent_samples(Mixing(3, 4))


def test_cell_that_draws_noise_is_told_so_and_not_that_its_kernel_is_wrong() -> None:
    with pytest.raises(KernelMismatchError, match=r"`Noisy.step` must give the same numbers .* draws random ones"):
        check_kernel(Noisy(3, 4), "cpu", torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_noise_of_training_alone_passes_in_both_modes_and_is_said(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    say_once.cache_clear()
    check_kernel(Dropout(3, 16), "cpu", dtype)
    check_kernel(Dropout(3, 16), "cpu", dtype, training=False)
    assert "Dropout draws random numbers while it trains and none in evaluation mode" in caplog.text


def test_noise_of_training_in_a_kernel_of_its_own_is_refused() -> None:
    class Fused(Dropout):
        def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
            return super().segment(x, state, first_step)

    with pytest.raises(KernelMismatchError, match="draws random ones"):
        check_kernel(Fused(3, 16), "cpu", torch.float64)


def test_a_complex_parameter_is_compared_with_both_parts() -> None:
    class Conjugate(ComplexDiagonal):
        def segment(self, x: Tensor, state: State, first_step: int = 0) -> tuple[Tensor, State]:
            right = self._parameters["eigenvalues"]
            assert right is not None
            self._parameters["eigenvalues"] = right.conj()  # type: ignore[assignment]
            try:
                return super().segment(x, state, first_step)
            finally:
                self._parameters["eigenvalues"] = right

    errors = kernel_errors(ComplexDiagonal(3, 8), "cpu", torch.float32)
    assert errors["parameter_gradient/eigenvalues"] < 1e-5
    assert kernel_errors(Conjugate(3, 8), "cpu", torch.float64)["parameter_gradient/eigenvalues"] > 0.1
    with pytest.raises(NoComplexFormatError):
        kernel_errors(ComplexDiagonal(3, 8), "cpu", torch.float16)


def test_other_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`dtype` must be one of torch.float64, .*, got torch.int32"):
        check_kernel(Elman(3, 4), "cpu", torch.int32)


def test_tolerances_cover_the_dtypes_that_are_measured() -> None:
    assert set(TOLERANCES) == set(DTYPES)


class Activated(Elman):
    """A cell whose one setting is a function."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__(2, 3)
        self.activation = activation


def test_cells_that_differ_in_a_function_alone_are_not_taken_for_one() -> None:
    first, second, third = (configuration(Activated(own)) for own in (torch.tanh, torch.relu, torch.tanh))
    assert first == third
    assert first != second


@pytest.mark.parametrize("period", [2, 3, 5, 7])
def test_cell_that_counts_its_calls_is_refused_in_the_mode_in_which_it_is_measured(period: int) -> None:
    with pytest.raises(ConductError, match="must keep nothing between calls"):
        check_kernel(CountsInAList(2, 4, period), "cpu", torch.float64, training=False)
