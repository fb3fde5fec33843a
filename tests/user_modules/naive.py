"""Profiles by a loop of nothing but autograd, and modules made of a function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

INPUTS = torch.randn(4, 12, 3, generator=torch.Generator().manual_seed(5))
LENGTHS = [12, 7, 3, 9]


class Made(nn.Module):
    """A module that is a function of its parts and its input."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, *arguments: Any) -> Any:
        return self.function(self, *arguments)


def last(outputs: Tensor) -> Tensor:
    return outputs[:, -1].square().sum(dim=1)


def last_of_layer(outputs: tuple[Tensor, Any]) -> Tensor:
    return last(outputs[0])


def squares(features: Tensor) -> Tensor:
    return features.square().sum(dim=1)


def naive_norms(module: nn.Module, inputs: Tensor, loss: Callable[[Any], Tensor]) -> np.ndarray:
    """‖∂L_b/∂x_t‖, shape (B, N), one sample at a time where the module takes one."""
    exact = copy.deepcopy(module).double().eval()
    x = inputs.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(exact(x)).sum(), x)
    return np.sqrt((gradient.numpy() ** 2).sum(axis=2))


def log_median(values: Sequence[float] | np.ndarray) -> float:
    return float(np.exp(np.median(np.log(values))))


def assert_profile(rows: pd.DataFrame, norms: np.ndarray, ends: Sequence[int]) -> None:
    """Medians and counts of `rows` are those of `norms`, lag by lag from each sample's own end."""
    rows = rows[rows["lag"] >= 0].set_index("lag")
    assert rows.index.tolist() == list(range(max(ends)))
    for lag in rows.index:
        own = [(norms[b, end - 1 - lag], norms[b, end - 1]) for b, end in enumerate(ends) if end > lag]
        found = rows.loc[lag]
        np.testing.assert_allclose(found["gradient_norm_median"], log_median([norm for norm, _ in own]), rtol=1e-11)
        relative = log_median([norm / reference for norm, reference in own])
        np.testing.assert_allclose(found["relative_gradient_norm_median"], relative, rtol=1e-11)
        assert found["num_samples"] == len(own)
