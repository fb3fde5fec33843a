"""A module that remembers its calls is refused; one that caches what does not change is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradhorizon import input_gradient_profile, state_gradient_profile
from tests.user_modules.naive import INPUTS, Made, assert_profile, last, naive_norms, squares


class Clocked(nn.Module):
    """Updates its state at every so many steps, counted on the module in one of several ways."""

    calls = 0

    def __init__(self, period: int, kind: str) -> None:
        super().__init__()
        self.linear, self.period, self.kind = nn.Linear(3, 3), period, kind
        self.count, self.clock = 0, [0]
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def tick(self) -> int:
        self.count += self.kind == "attribute"
        self.clock[0] += self.kind == "list"
        self.steps += self.kind == "buffer"
        Clocked.calls += self.kind == "class"
        return self.count + self.clock[0] + int(self.steps) + Clocked.calls

    def step(self, x_t: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.linear(h) + x_t) if self.tick() % self.period == 0 else 0.9 * h + 0.1 * x_t

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        if h is not None:
            return self.step(x, h)
        h, outputs = x.new_zeros(len(x), 3), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            outputs.append(h)
        return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("kind", ["attribute", "list", "buffer", "class"])
@pytest.mark.parametrize("period", [2, 3, 6, 12, 23, 1000])
def test_module_that_counts_its_steps_is_refused(kind: str, period: int) -> None:
    with pytest.raises(ValueError, match="Clocked must keep nothing from one call to the next, got `"):
        input_gradient_profile(Clocked(period, kind), INPUTS, last)
    with pytest.raises(ValueError, match="Clocked must keep nothing from one call to the next, got `"):
        state_gradient_profile(Clocked(period, kind), INPUTS, squares, initial_state=torch.ones(4, 3))


@pytest.mark.parametrize("period", [2, 3, 4, 5, 6, 7, 12, 23])
def test_counter_that_no_attribute_shows_is_found_by_its_results(period: int) -> None:
    count = [0]

    def run(_: Any, x: Tensor) -> Tensor:
        outputs = []
        for x_t in x.unbind(1):
            count[0] += 1
            outputs.append(x_t * (2 if count[0] % period == 0 else 1))
        return torch.stack(outputs, dim=1).cumsum(dim=1)

    with pytest.raises(ValueError, match="got a repeated call with another result"):
        input_gradient_profile(Made(run), INPUTS, last)


class Stateful(nn.Module):
    """Goes on where the last call ended."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 5, batch_first=True)
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        outputs, h = self.gru(x, self.h)
        self.h = h.detach()
        assert isinstance(outputs, Tensor)
        return outputs


def test_state_that_is_carried_to_the_next_call_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Stateful must keep nothing .*got `h` changed"):
        input_gradient_profile(Stateful(), INPUTS, last)


class Caching(nn.Module):
    """Keeps a mask per length, and what it last computed, graph included."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.masks: dict[int, Tensor] = {}
        self.seen = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        if size not in self.masks:
            self.masks[size] = torch.ones(size, size, dtype=torch.bool).triu(1)
        self.seen = self.attention(x, x, x, attn_mask=self.masks[size])[0]
        return self.seen


def test_caches_are_no_state_also_with_the_graph_of_an_earlier_call() -> None:
    module = Caching()
    norms = naive_norms(module, INPUTS, last)
    module(INPUTS)
    before = module.seen
    assert_profile(input_gradient_profile(module, INPUTS, last), norms, [12] * 4)
    assert module.seen is before


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "learned positions": lambda: Made(
        lambda m, x: m.l(x + m.p)[0], l=nn.LSTM(3, 5, batch_first=True), p=nn.Parameter(torch.randn(12, 3))
    ),
    "batch norm": lambda: Made(
        lambda m, x: m.b(x.transpose(1, 2)).transpose(1, 2).cumsum(1), b=nn.BatchNorm1d(3)
    ).train(),
    "dropout": lambda: nn.Sequential(nn.LSTM(3, 5, 2, batch_first=True, dropout=0.5), Made(lambda _, o: o[0])).train(),
    "spectral norm": lambda: Made(
        lambda m, x: m.l(x).cumsum(1), l=nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    ).train(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_only_training_changes_is_no_state(name: str) -> None:
    module = RIGHT[name]()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert_profile(input_gradient_profile(module, INPUTS, last), naive_norms(module, INPUTS, last), [12] * 4)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_style_norms_are_measured_called_before_or_not() -> None:
    lstm: Any = torch.nn.utils.weight_norm(nn.LSTM(3, 5, batch_first=True), "weight_hh_l0")
    with torch.no_grad():
        lstm.weight_hh_l0_g.mul_(1.5)
    twin = nn.LSTM(3, 5, batch_first=True).double()
    g, v = lstm.weight_hh_l0_g.detach().double(), lstm.weight_hh_l0_v.detach().double()
    own = {name: getattr(lstm, name) for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0")}
    twin.load_state_dict({**own, "weight_hh_l0": g * v / v.norm(dim=1, keepdim=True)})
    norms = naive_norms(twin, INPUTS, lambda outputs: last(outputs[0]))
    for _ in range(2):
        assert_profile(input_gradient_profile(lstm, INPUTS, lambda outputs: last(outputs[0])), norms, [12] * 4)
        lstm(INPUTS)
    spectral = torch.nn.utils.spectral_norm(nn.Linear(3, 3))
    first = input_gradient_profile(spectral, INPUTS, last)["gradient_norm_median"][0]
    spectral.eval()(INPUTS)
    np.testing.assert_array_equal(input_gradient_profile(spectral, INPUTS, last)["gradient_norm_median"][0], first)
