"""The conduct of any module: what it keeps, writes, rounds and reads, whoever calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradhorizon.kernels.conduct import (
    ConductError,
    check_conduct,
    check_precision,
    check_repeats,
    check_untouched,
    evaluation_copy,
)

INPUTS = torch.randn(3, 9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Calls(nn.Module):
    """A linear layer, and whatever a test does at each call."""

    def __init__(self, act: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2).double()
        self.act = act
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.act(self, x))


def _counts(own: Calls, x: Tensor) -> Tensor:
    own.calls += 1
    return x


def _caches(own: Any, x: Tensor) -> Tensor:
    own.last = x.detach()
    return x


def _remembers(own: Any, x: Tensor) -> Tensor:
    before = vars(own).get("hidden", [torch.zeros(())])
    before[0] = x.sum() + 0.1 * before[0]
    vars(own)["hidden"] = before
    return x + before[0]


def _writes(_: Any, x: Tensor) -> Tensor:
    return x.mul_(2)


def _rounds(_: Any, x: Tensor) -> Tensor:
    return x.float().double()


def _reads(_: Any, x: Tensor) -> Tensor:
    return x if x[0, 0, 0] > 0 else -x


def _asks_whether_finite(_: Any, x: Tensor) -> Tensor:
    if not x.isfinite().all() or x.isnan().any() or (x != x).any() or (x.abs() == float("inf")).any():  # noqa: PLR0124
        raise ValueError("not finite")
    return x


def _draws(_: Any, x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (_counts, "Calls must keep nothing between calls, got one that changes `calls`"),
        (_remembers, "Calls must keep nothing between calls, got one that changes `hidden"),
        (_writes, "`Calls` must leave what it is given as it is, got one that changes its `input` in place"),
        (_rounds, r"`Calls` must compute in the format of its inputs, got one that makes torch.float32 .*_to_copy"),
        (_reads, "`Calls` must not read a value of its input"),
        (_draws, r"`Calls` must give the same numbers whenever it is run, but it draws random ones"),
    ],
)
def test_odd_conduct_is_refused(act: Callable[[Any, Tensor], Tensor], words: str) -> None:
    module = Calls(act)
    with pytest.raises(ConductError, match=words):
        check_conduct(module, module, INPUTS.clone())


@pytest.mark.parametrize("act", [lambda _, x: x, _caches, _asks_whether_finite])
def test_sound_conduct_passes(act: Callable[[Any, Tensor], Tensor]) -> None:
    module = Calls(act)
    check_conduct(module, module, INPUTS.clone())


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(2, 3, batch_first=True),
        nn.GRU(2, 3, 2, batch_first=True, bidirectional=True),
        nn.Linear(2, 3),
        nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.GELU()),
        nn.TransformerEncoderLayer(2, 1, 4, batch_first=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_pytorch_pass(layer: nn.Module) -> None:
    copied = evaluation_copy(layer, torch.float64)
    check_conduct(copied, copied, INPUTS.clone())


def test_rounding_of_a_device_is_no_memory() -> None:
    module = nn.Linear(2, 2).double()
    results = iter(1.0 + 1e-13 * torch.arange(9, dtype=torch.float64))
    check_repeats(module, lambda _: next(results), tolerance=1e-10)
    results = iter(1.0 + 1e-13 * torch.arange(9, dtype=torch.float64))
    with pytest.raises(ConductError, match="got others at the second call: it keeps something between calls"):
        check_repeats(module, lambda _: next(results))


def test_what_is_written_is_named_and_the_result_handed_on() -> None:
    first, second = INPUTS.clone(), INPUTS.clone()
    assert check_untouched("f", lambda x, pair: (x, pair), {"x": first, "pair": (second, 3)})[1][1] == 3
    with pytest.raises(ConductError, match=r"`f` must leave .* changes its `pair` in place"):
        check_untouched("f", lambda x, pair: pair[0].add_(x), {"x": first, "pair": (second, 3)})
    with pytest.raises(ConductError, match="changes its `x` in place"):
        check_untouched("f", lambda x: x.data.add_(1), {"x": first})


def test_weights_may_be_read_but_not_rounded() -> None:
    module = nn.Linear(2, 2).double()
    assert not check_precision("f", module, lambda: INPUTS * module.weight.max().item(), INPUTS).reads
    with pytest.raises(ConductError, match=r"got one that makes torch.bfloat16 of float64 numbers"):
        check_precision("f", module, lambda: INPUTS @ module.weight.bfloat16().double().T, INPUTS)


def test_rounding_functions_are_told_from_masks_of_booleans() -> None:
    module = nn.Identity()

    def rounds(function: Callable[[Tensor], Tensor]) -> bool:
        return check_precision("f", module, lambda: function(INPUTS), INPUTS).rounds

    assert rounds(torch.round)
    assert rounds(torch.sign)
    assert rounds(lambda x: (x > 0).double())
    assert not rounds(lambda x: torch.where(x > 0, x, 0.1 * x))
    assert not rounds(torch.tanh)


def test_a_copy_is_made_in_evaluation_mode_and_leaves_the_module() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    copied = evaluation_copy(module, torch.float64)
    assert not copied.training
    assert module.training
    assert next(copied.parameters()).dtype == torch.float64
    assert next(module.parameters()).dtype == torch.float32
    module.kept = module(INPUTS.float())
    with pytest.raises(ConductError, match=r"Sequential cannot be copied \(Only Tensors created explicitly"):
        evaluation_copy(module, torch.float64)
