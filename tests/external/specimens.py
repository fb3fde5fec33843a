"""Cells and layers that other people have published, found by looking through their packages."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mambapy.mamba
import pytest
import torchrecurrent
from torch import nn


@dataclass(frozen=True)
class Specimen:
    """One class, and what a user would write to train it.

    Attributes:
        package: as it is installed.
        target: import path of the class.
        options: further overrides.
    """

    package: str
    target: str
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its class with the options of its own, as a table shows it."""
        own = [one.removeprefix("+model.cell.") for one in self.options if one.startswith("+")]
        shown = [one for one in own if not one.endswith("${hidden_size}") and not one.startswith("config.")]
        return self.target.rpartition(".")[2] + (f"({', '.join(shown)})" if shown else "")


def _torchrecurrent() -> Iterator[Specimen]:
    for name, kind in inspect.getmembers(torchrecurrent, inspect.isclass):
        if issubclass(kind, nn.Module):
            yield Specimen("torchrecurrent", f"torchrecurrent.{name}", _width_of(kind))


def _width_of(kind: type[nn.Module]) -> tuple[str, ...]:
    try:
        kind(2, 4)
    except ValueError:  # whose inputs are as wide as its outputs
        return ("model/encoder=linear",)
    return ()


def _of_torch(name: str, *options: str) -> Specimen:
    return Specimen("torch", f"torch.nn.{name}", tuple(f"+model.cell.{option}" for option in options))


TORCH_RECURRENCES = (
    _of_torch("RNNCell"),
    _of_torch("RNNCell", "nonlinearity=relu"),
    _of_torch("LSTMCell"),
    _of_torch("GRUCell"),
    _of_torch("RNN"),
    _of_torch("LSTM"),
    _of_torch("GRU"),
    _of_torch("GRU", "bias=false"),
    _of_torch("LSTM", "proj_size=2"),
    _of_torch("LSTM", "num_layers=2"),
    _of_torch("GRU", "num_layers=2", "batch_first=true"),
    _of_torch("RNN", "bidirectional=true"),
    _of_torch("LSTM", "bidirectional=true"),
    _of_torch("GRU", "bidirectional=true"),
)

_TRANSFORMER = Specimen(
    "torch",
    "torch.nn.TransformerEncoderLayer",
    (
        "model/encoder=linear",
        "+model.cell.d_model=${hidden_size}",
        "+model.cell.nhead=2",
        "+model.cell.dim_feedforward=8",
        "+model.cell.batch_first=true",
    ),
)
_MAMBA_CONFIG = (
    "model/encoder=linear",
    "+model.cell.config._target_=mambapy.mamba.MambaConfig",
    "+model.cell.config.d_model=${hidden_size}",
    "+model.cell.config.n_layers=1",
)


def _mambapy() -> Iterator[Specimen]:
    for name, kind in inspect.getmembers(mambapy.mamba, inspect.isclass):
        if issubclass(kind, nn.Module) and "config" in inspect.signature(kind).parameters:
            yield Specimen("mambapy", f"mambapy.mamba.{name}", _MAMBA_CONFIG)


_OF_DIM = ("model/encoder=linear", "+model.cell.dim=${hidden_size}")
_MIN_GRU = tuple(
    Specimen("minGRU-pytorch", target, _OF_DIM)
    for target in ("minGRU_pytorch.minGRU", "minGRU_pytorch.minLSTM.minLSTM")
)

ALL = (*_torchrecurrent(), *TORCH_RECURRENCES, _TRANSFORMER, *_mambapy(), *_MIN_GRU)
KILLED = ("torchrecurrent.JANETCell", "torch.nn.GRU")
"""Those, without options, whose training is killed as a process; the training of all others breaks off within one."""
_FAST = (
    "torchrecurrent.MCLSTMCell",
    "torchrecurrent.IntersectionRNNCell",
    "torchrecurrent.LEM",
    "torchrecurrent.LEMCell",
    "torch.nn.GRUCell",
)


def is_fast(specimen: Specimen) -> bool:
    """Whether it is trained in every run of the tests: six that differ in how they are called."""
    return specimen.target in _FAST or specimen.name == "LSTM(num_layers=2)"


def is_killed(specimen: Specimen) -> bool:
    """Whether a process of its own is killed."""
    return specimen.target in KILLED and not specimen.options


def is_cell(specimen: Specimen) -> bool:
    """Whether its author calls it with one step's input."""
    return specimen.target.endswith("Cell")


def as_parameters(specimens: Iterable[Specimen]) -> list[Any]:
    """Of a test, those that are trained in every run of the tests apart."""
    return [
        pytest.param(one, id=f"{one.package}-{one.name}", marks=() if is_fast(one) else pytest.mark.slow)
        for one in specimens
    ]
