"""Which model has a theory at init, and what that theory assumes: the one place where figures look it up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.stages import STAGES
from gradhorizon import theory


@dataclass(frozen=True)
class TheoryLine:
    """Expected relative profile of a model at init.

    Attributes:
        assumption: what is left out, as the legend says it.
        profile: (lags, seq_len) -> relative gradient norm, dimensionless.
    """

    assumption: str
    profile: Callable[[np.ndarray, int], np.ndarray]


def _exponential(rate: float) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda lags, _: np.exp(rate * lags)


def _chrono(lags: np.ndarray, seq_len: int) -> np.ndarray:
    return theory.chrono_profile(lags, seq_len) if seq_len >= _SHORTEST_CHRONO else np.full(len(lags), np.nan)


_SHORTEST_CHRONO = 3


THEORY_LINES: dict[str, TheoryLine] = {
    # PyTorch draws recurrent weights from U(±1/√H), whose variance 1/(3H) is that of gain 1/√3.
    "rnn_tanh": TheoryLine(
        "λ = ln(1/√3), mean field without input", _exponential(theory.mean_field_tanh_growth_rate(3**-0.5))
    ),
    "irnn": TheoryLine("λ = 0, every unit active", _exponential(theory.identity_relu_growth_rate())),
    "rnn_orthogonal": TheoryLine("λ = 0, no saturation", _exponential(theory.scaled_orthogonal_growth_rate(1.0))),
    "lstm": TheoryLine("λ = ln σ(0), forget gate alone", _exponential(theory.expected_decay_of_forget_bias(0.0))),
    "lstm_forget_bias": TheoryLine(
        "λ = ln σ(1), forget gate alone", _exponential(theory.expected_decay_of_forget_bias(1.0))
    ),
    "lstm_chrono": TheoryLine("root mean square of σ(b)^τ, forget gates alone", _chrono),
}


def theory_profiles(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of expected profiles at init, for the models of `table` that have a theory.

    Args:
        table: rows with series, model, task, seq_len, stage, lag.

    Returns:
        Columns series, task, seq_len, lag, expected (dimensionless), assumption.
    """
    columns = ["series", "task", "seq_len", "lag"]
    known = table[(table["stage"] == STAGES[0]) & table["model"].isin(list(THEORY_LINES))]
    parts = [
        group[columns].assign(
            expected=_expected(str(model), group["lag"].to_numpy(), int(str(seq_len))),
            assumption=THEORY_LINES[str(model)].assumption,
        )
        for (model, _, _, seq_len), group in known.groupby(["model", "series", "task", "seq_len"])
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*columns, "expected", "assumption"])


def _expected(model: str, lags: Int[np.ndarray, " L"], seq_len: int) -> Float[np.ndarray, " L"]:
    return THEORY_LINES[model].profile(lags.astype(float), seq_len)
