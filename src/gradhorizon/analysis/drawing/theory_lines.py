"""Which initialisation has a theory, and what that theory assumes: the one place where figures look it up.

A line follows from the configuration that a run was launched with, and never from its label: an orthogonal matrix
of gain ½ under the label ``rnn_tanh`` decays as an orthogonal matrix of gain ½. What is not known here has no line: a
cell or an initialisation of one's own, several layers, two directions, a readout other than of the state.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradhorizon import theory
from gradhorizon.analysis.reading.cohort import CELL, Cohort
from gradhorizon.analysis.reading.configurations import configuration
from gradhorizon.analysis.reading.stages import STAGES

_SHORTEST_CHRONO = 3
_PACKAGE = "gradhorizon.cells"
_READOUT = "gradhorizon.readouts.StateReadout"
_OF_HYDRA = frozenset({"_target_", "_partial_"})
_DEFAULT_GAIN = 3**-0.5
"""PyTorch draws recurrent weights from U(±1/√H), whose variance 1/(3H) is that of gain 1/√3."""


@dataclass(frozen=True)
class TheoryLine:
    """Expected relative profile at init.

    Attributes:
        assumption: what is left out, as the legend says it.
        profile: lags -> relative gradient norm, dimensionless.
    """

    assumption: str
    profile: Callable[[np.ndarray], np.ndarray]


def _exponential(rate: float, assumption: str) -> TheoryLine:
    return TheoryLine(assumption, lambda lags: np.exp(rate * lags))


def _uniform_tanh() -> TheoryLine:
    return _exponential(theory.mean_field_tanh_growth_rate(_DEFAULT_GAIN), "λ = ln(1/√3), mean field without input")


def _gaussian_tanh(gain: float) -> TheoryLine:
    rate = theory.mean_field_tanh_growth_rate(gain)
    return _exponential(rate, f"λ = {_spoken(rate)} at gain {gain:g}, mean field without input")


def _orthogonal_tanh(gain: float = 1.0) -> TheoryLine:
    return _exponential(theory.scaled_orthogonal_growth_rate(gain), f"λ = {_logarithm(gain)}, no saturation")


def _identity_tanh(scale: float = 1.0, input_std: float = 0.001) -> TheoryLine:  # noqa: ARG001
    return _orthogonal_tanh(abs(scale))


def _identity_relu(scale: float = 1.0, input_std: float = 0.001) -> TheoryLine:  # noqa: ARG001
    rate = theory.identity_relu_growth_rate() + theory.scaled_orthogonal_growth_rate(scale)
    return _exponential(rate, f"λ = {_logarithm(scale)}, every unit active")


def _uniform_lstm() -> TheoryLine:
    return _forget_bias_lstm(0.0)


def _forget_bias_lstm(value: float = 1.0) -> TheoryLine:
    rate = theory.expected_decay_of_forget_bias(value)
    return _exponential(rate, f"λ = ln σ({_spoken(value)}), forget gate alone")


def _chrono_lstm(seq_len: int) -> TheoryLine:
    words = "root mean square of σ(b)^τ, forget gates alone"
    if seq_len < _SHORTEST_CHRONO:
        return TheoryLine(words, lambda lags: np.full(len(lags), np.nan))
    return TheoryLine(words, lambda lags: theory.chrono_profile(lags, seq_len))


def _logarithm(scale: float) -> str:
    return "0" if scale == 1 else f"ln {scale:g}"


def _spoken(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


_LINES: Mapping[tuple[str, str | None, str], Callable[..., TheoryLine]] = {
    ("elman.Elman", "tanh", "initialization.uniform"): _uniform_tanh,
    ("elman.Elman", "tanh", "initialization.gaussian"): _gaussian_tanh,
    ("elman.Elman", "tanh", "elman.unbiased_gaussian"): _gaussian_tanh,
    ("elman.Elman", "tanh", "initialization.orthogonal"): _orthogonal_tanh,
    ("elman.Elman", "tanh", "elman.identity"): _identity_tanh,
    ("elman.Elman", "relu", "elman.identity"): _identity_relu,
    ("lstm.LSTM", None, "initialization.uniform"): _uniform_lstm,
    ("lstm.LSTM", None, "lstm.forget_bias"): _forget_bias_lstm,
    ("lstm.LSTM", None, "lstm.chrono"): _chrono_lstm,
}
"""(cell, its nonlinearity, initialisation) -> line; called with the initialisation's own arguments."""
_NONLINEARITY = {"elman.Elman": "tanh"}
_CELL_ARGUMENTS = _OF_HYDRA | {"hidden_size", "nonlinearity", "initialization"}


def theory_line(config: Mapping[str, Any]) -> TheoryLine | None:
    """The line of the network that a configuration builds; None where there is no theory.

    Args:
        config: of a run, resolved.

    Example:
        >>> cell = {"_target_": "gradhorizon.cells.lstm.LSTM", "hidden_size": 8}
        >>> readout = {"_target_": "gradhorizon.readouts.StateReadout"}
        >>> theory_line({"num_layers": 1, "model": {"cell": cell, "readout": readout}}).assumption
        'λ = ln σ(0), forget gate alone'
    """
    model = config.get("model")
    cell = model.get("cell") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(cell, Mapping) or not _is_plain(config, model):
        return None
    kind, initialization = _own(cell), cell.get("initialization", {"_target_": f"{_PACKAGE}.initialization.uniform"})
    nonlinearity = cell.get("nonlinearity", _NONLINEARITY.get(kind))
    is_known = isinstance(initialization, Mapping) and isinstance(nonlinearity, str | None)
    if not is_known or set(cell) - _CELL_ARGUMENTS:
        return None
    line = _LINES.get((kind, nonlinearity, _own(initialization)))
    return _called(line, {key: value for key, value in initialization.items() if key not in _OF_HYDRA})


def _is_plain(config: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    readout = model.get("readout", {"_target_": _READOUT})
    is_of_state = isinstance(readout, Mapping) and readout.get("_target_") == _READOUT
    return config.get("num_layers", 1) == 1 and not model.get("bidirectional") and is_of_state


def _own(node: Mapping[str, Any]) -> str:
    target = str(node.get("_target_"))
    return target.removeprefix(f"{_PACKAGE}.") if target.startswith(f"{_PACKAGE}.") else ""


def _called(line: Callable[..., TheoryLine] | None, arguments: Mapping[str, Any]) -> TheoryLine | None:
    if line is None or not all(isinstance(value, int | float) and math.isfinite(value) for value in arguments.values()):
        return None
    try:
        inspect.signature(line).bind(**arguments)
        return line(**arguments)
    except (TypeError, ValueError, ArithmeticError):  # arguments that this theory does not know, or values outside it
        return None


def theory_profiles(table: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Rows of expected profiles at init, for the curves of `table` whose runs all have one and the same theory.

    Args:
        table: rows with series, task, seq_len, input_len, stage, lag.
        cohort: whose runs they are.

    Returns:
        Columns series, task, seq_len, lag, expected (dimensionless), assumption.
    """
    columns = ["series", "task", "seq_len", "lag"]
    at_init = table[table["stage"] == STAGES[0]].groupby(CELL)
    lines = {key: common_line(members) for key, members in cohort.members.groupby(CELL)}
    parts = [
        group[columns].assign(expected=line.profile(group["lag"].to_numpy(float)), assumption=line.assumption)
        for key, group in at_init
        if (line := lines.get(key)) is not None
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*columns, "expected", "assumption"])


def common_line(
    members: pd.DataFrame, line: Callable[[Mapping[str, Any]], TheoryLine | None] | None = None
) -> TheoryLine | None:
    """The line of members whose runs all have one and the same model and depth.

    Args:
        members: rows of `Cohort.members`.
        line: configuration -> theory; `theory_line` if None.
    """
    folders = dict.fromkeys(Path(folder).parent for folder in members["folder"])
    configs = [configuration(folder) for folder in folders]
    nodes = [(config.get("num_layers", 1), config.get("model")) for config in configs]
    return (line or theory_line)(configs[0]) if all(node == nodes[0] for node in nodes) else None
