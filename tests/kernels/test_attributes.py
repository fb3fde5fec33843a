"""What a module keeps: every place where it may, and nothing that stays as it is."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradhorizon.kernels.attributes import changed, is_same_tensor, kept


class Keeper(nn.Module):
    """Something in every container."""

    on_the_class = 0
    list_on_the_class: list[int] = [0]  # noqa: RUF012, the habit under test

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(2, 3)
        self.number, self.nothing = 1.5, float("nan")
        self.nested: Any = {"a": [1, {2: torch.ones(2)}], "b": (np.zeros(2), {3})}
        self.queue, self.counter, self.ordered = deque([1], maxlen=2), Counter("aab"), OrderedDict(a=1)
        self.lists: defaultdict[str, list[int]] = defaultdict(list)
        self.iterator, self.own = count(), SimpleNamespace(steps=0)
        self.random = random.Random(0)  # noqa: S311, the habit under test
        self.numpy, self.torch = np.random.default_rng(0), torch.Generator()
        self.circle: list[Any] = [self]
        self.circle.append(self.circle)
        self.register_buffer("buffer", torch.zeros(2))


CHANGES: dict[str, Callable[[Keeper], Any]] = {
    "number": lambda own: setattr(own, "number", 2.5),
    "nested['a'][1][2]": lambda own: own.nested["a"][1][2].add_(1),
    "nested['b'][0]": lambda own: own.nested["b"][0].__iadd__(1),
    "nested['b'][1]": lambda own: own.nested["b"][1].add(4),
    "queue": lambda own: own.queue.append(2),
    "counter": lambda own: own.counter.update("b"),
    "ordered": lambda own: own.ordered.update(b=1),
    "lists": lambda own: own.lists["new"].append(1),
    "iterator": lambda own: next(own.iterator),
    "own.steps": lambda own: setattr(own.own, "steps", 1),
    "random": lambda own: own.random.random(),
    "numpy": lambda own: own.numpy.random(),
    "torch": lambda own: torch.rand(1, generator=own.torch),
    "buffer": lambda own: own._buffers["buffer"].add_(1),  # type: ignore[union-attr]
    "layer.weight_ih_l0": lambda own: own.layer.weight_ih_l0.data.mul_(2),  # type: ignore[operator]
    "layer.fresh": lambda own: setattr(own.layer, "fresh", torch.ones(1)),
    "Keeper.on_the_class": lambda own: setattr(type(own), "on_the_class", type(own).on_the_class + 1),
    "Keeper.list_on_the_class": lambda own: own.list_on_the_class.append(1),
}


@pytest.mark.parametrize("path", CHANGES)
def test_every_change_is_found_at_its_place(path: str) -> None:
    keeper = Keeper()
    before = kept(keeper)
    CHANGES[path](keeper)
    found = changed(before, kept(keeper))
    assert found
    assert any(name.startswith(path) for name in found)
    assert len({name.partition("[")[0] for name in found}) <= 2  # PyTorch lists its weights twice


def test_a_call_of_a_layer_of_pytorch_changes_nothing() -> None:
    keeper = Keeper()
    before = kept(keeper)
    keeper.layer(torch.ones(1, 1, 2))
    keeper.eval()
    assert changed(before, kept(keeper)) == []


def test_tensors_agree_within_a_tolerance_that_is_relative_to_their_norm() -> None:
    tensor = torch.tensor([1e-300, 1.0, float("nan"), float("inf")], dtype=torch.float64)
    off = torch.tensor([0.0, 1.0 + 1e-12, float("nan"), float("inf")], dtype=torch.float64)
    assert not is_same_tensor(tensor[:3], off[:3])
    assert is_same_tensor(tensor[:3], off[:3], 1e-10)
    assert not is_same_tensor(tensor[:3], off[:3], 1e-13)
    assert is_same_tensor(tensor, tensor.clone())
    assert not is_same_tensor(tensor, tensor.float(), 1.0)
    assert not is_same_tensor(torch.tensor([1, 2]), torch.tensor([1, 3]), 1.0)
