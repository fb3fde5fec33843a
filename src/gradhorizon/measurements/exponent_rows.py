r"""Exponents of every layer and direction as rows: the columns, the summaries and the residuals that all spectra share.

All S exponents start from the identity frame and obey :math:`\sum_i \lambda_i = \overline{\ln |\det J_t|}` wherever no
step is singular. Fewer start from a random frame, on which they depend as C/N; a second frame says how much.

Notation: B samples, N steps, S rows of a one-step matrix, K exponents, P quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.cells.called import name_of
from gradhorizon.cells.cell import Recurrent
from gradhorizon.jacobians.dimension import entropy_rate, kaplan_yorke_dimension
from gradhorizon.jacobians.exponents import finite_time_exponents, mean_log_determinants, random_frames
from gradhorizon.jacobians.one_step import StepMaps
from gradhorizon.measurements.options import refuse_below
from gradhorizon.measurements.summaries import LAYER_COLUMNS, PROBABILITIES
from gradhorizon.network import Network
from gradhorizon.records.tables import Column

MAX_SUM_RULE_SIZE = 1024
"""Largest state whose exact Jacobians are taken for the sum rule."""


def exponent_columns(what: str, samples: str = "samples") -> tuple[Column, ...]:
    """Columns that `exponent_summaries` fills, one row per layer, direction and exponent.

    Args:
        what: whose entries S counts, in words.
        samples: what the summaries run over, in words.
    """
    return (
        *LAYER_COLUMNS,
        Column("exponent", "int64", "dimensionless", "rank of the exponent in its sample, 1 is the largest"),
        *(
            Column(
                f"exponent_{name}_nats_per_step",
                "float64",
                "nats per step",
                f"{name} over the {samples} that are finite and resolved; NaN if there is none",
            )
            for name in PROBABILITIES
        ),
        Column("num_samples", "int64", samples, f"{samples} measured, those that the summaries leave out included"),
        Column("num_non_finite", "int64", samples, f"{samples} left out: they met an infinite or NaN number"),
        Column(
            "num_below_resolution",
            "int64",
            samples,
            f"{samples} left out: in some step |R_ii| ≤ S · eps · ‖J‖, so that no finite estimate exists",
        ),
        Column("window_steps", "int64", "steps", "steps over which the logarithms are averaged"),
        Column("transient_steps", "int64", "steps", "steps before the window"),
        Column("state_size", "int64", "dimensionless", f"S, entries of {what} and length of its spectrum"),
        Column(
            "sum_rule_residual_nats_per_step",
            "float64",
            "nats per step",
            f"largest |sum of all exponents − mean ln |det J|| over {samples}; "
            f"NaN for a part of the spectrum, S > {MAX_SUM_RULE_SIZE} or a singular step",
        ),
        Column(
            "frame_residual_nats_per_step",
            "float64",
            "nats per step",
            f"largest difference, over exponents and {samples}, between two random initial frames; "
            "NaN where the sum rule is taken instead",
        ),
    )


def attractor_columns(samples: str = "samples") -> tuple[Column, ...]:
    """Columns that `attractor_summaries` fills, the same on every row of a layer and direction.

    Args:
        samples: what the summaries run over, in words.
    """
    caveat = f"over the {samples} where it is defined, of the window's exponents; NaN if there is none"
    return (
        *(
            Column(
                f"kaplan_yorke_dimension_{name}",
                "float64",
                "dimensionless",
                f"{name} of the Kaplan–Yorke dimension {caveat}; an exponent below resolution counts as −inf",
            )
            for name in PROBABILITIES
        ),
        Column(
            "num_undefined_dimensions",
            "int64",
            samples,
            f"{samples} that are not finite or whose K < S measured exponents have a sum that is not yet negative",
        ),
        *(
            Column(
                f"entropy_rate_{name}_nats_per_step",
                "float64",
                "nats per step",
                f"{name} of the sum of the positive exponents, which bounds the entropy from above, {caveat}",
            )
            for name in PROBABILITIES
        ),
        Column(
            "num_undefined_entropy_rates",
            "int64",
            samples,
            f"{samples} that are not finite or whose K < S measured exponents are all positive",
        ),
    )


@dataclass(frozen=True)
class Spectrum:
    """Exponents of each sample, and how far to trust them.

    Attributes:
        exponents: in nats per step, shape (B, K), float64; −inf below resolution, NaN if not finite.
        sum_rule_residual: largest over samples, in nats per step; NaN where the rule is not taken.
        frame_residual: largest difference between two random frames, in nats per step; NaN where they are not.
    """

    exponents: Float[np.ndarray, "B K"]
    sum_rule_residual: float
    frame_residual: float


@dataclass(frozen=True)
class Window:
    """How exponents are measured along a trajectory.

    Args:
        num_exponents: K, the leading ones; all S if None.
        transient_steps: steps before the window.
        qr_every_steps: steps between two QR decompositions.

    Raises:
        ValueError: fewer than 1 exponent or step between decompositions, or a negative transient.
    """

    num_exponents: int | None
    transient_steps: int
    qr_every_steps: int

    def __post_init__(self) -> None:
        for name, lowest in {"num_exponents": 1, "transient_steps": 0, "qr_every_steps": 1}.items():
            refuse_below(name, getattr(self, name), lowest)

    def count(self, cell: Recurrent, size: int, what: str = "state") -> int:
        """K of a cell.

        Args:
            cell: whose exponents.
            size: S.
            what: whose entries S counts, in words.

        Raises:
            ValueError: more exponents than S.
        """
        count = size if self.num_exponents is None else self.num_exponents
        if count > size:
            raise ValueError(
                f"`num_exponents` must be at most the {what} size, got {count} for the {size} entries of "
                f"{name_of(cell)}'s {what} {dict(cell.state_shapes)}; use null for all of them"
            )
        return count

    def spectrum(self, maps: StepMaps, count: int) -> Spectrum:
        """The `count` leading exponents of each sample, with one of the two residuals."""
        if count < maps.size:
            first, second = self._exponents(maps, random_frames(maps.size, count))
            return Spectrum(first, np.nan, _frame_residual(first, second))
        exponents = self._exponents(maps, torch.eye(maps.size).unsqueeze(0))[0]
        if maps.size <= MAX_SUM_RULE_SIZE and not np.isneginf(exponents).any():
            expected = mean_log_determinants(maps, self.transient_steps).numpy(force=True)
            return Spectrum(exponents, _largest(exponents.sum(axis=1) - expected), np.nan)
        first, second = self._exponents(maps, random_frames(maps.size, count))
        return Spectrum(exponents, np.nan, _frame_residual(first, second))

    def _exponents(self, maps: StepMaps, frames: Tensor) -> Float[np.ndarray, "F B K"]:
        return finite_time_exponents(maps, frames, self.transient_steps, self.qr_every_steps).numpy(force=True)


def recurrent_cells(network: Network) -> list[Recurrent]:
    """Every recurrent layer and direction, lowest first."""
    return [cell for cell in network.cells() if isinstance(cell, Recurrent)]


def exponent_summaries(spectrum: Spectrum, window: Window, maps: StepMaps) -> dict[str, Any]:
    """Column name -> values of `exponent_columns`, layer and direction apart, one row per exponent.

    Args:
        spectrum: of one layer and direction.
        window: how it was measured.
        maps: what it was measured on.
    """
    values = spectrum.exponents
    return {
        "exponent": np.arange(1, values.shape[1] + 1),
        **_quantile_columns("exponent_{}_nats_per_step", values),
        "num_samples": len(values),
        "num_non_finite": np.isnan(values).any(axis=1).sum(),
        "num_below_resolution": np.isneginf(values).sum(axis=0),
        "window_steps": maps.num_steps - window.transient_steps,
        "transient_steps": window.transient_steps,
        "state_size": maps.size,
        "sum_rule_residual_nats_per_step": spectrum.sum_rule_residual,
        "frame_residual_nats_per_step": spectrum.frame_residual,
    }


def attractor_summaries(spectrum: Spectrum, size: int) -> dict[str, Any]:
    """Column name -> value of `attractor_columns`, the same for every row.

    Args:
        spectrum: of one layer and direction.
        size: S.
    """
    dimensions = kaplan_yorke_dimension(spectrum.exponents, size)
    rates = entropy_rate(spectrum.exponents, size)
    quantiles = {
        **_quantile_columns("kaplan_yorke_dimension_{}", dimensions[:, None]),
        **_quantile_columns("entropy_rate_{}_nats_per_step", rates[:, None]),
    }
    return {
        **{name: value.item() for name, value in quantiles.items()},
        "num_undefined_dimensions": np.isnan(dimensions).sum(),
        "num_undefined_entropy_rates": np.isnan(rates).sum(),
    }


def _quantile_columns(name: str, values: Float[np.ndarray, "B K"]) -> dict[str, Float[np.ndarray, " K"]]:
    rows = np.transpose([_quantiles(column[np.isfinite(column)]) for column in values.T])
    return {name.format(key): row for key, row in zip(PROBABILITIES, rows, strict=True)}


def _quantiles(values: Float[np.ndarray, " B"]) -> Float[np.ndarray, " P"]:
    probabilities = list(PROBABILITIES.values())
    return np.quantile(values, probabilities) if len(values) else np.full(len(probabilities), np.nan)


def _frame_residual(first: np.ndarray, second: np.ndarray) -> float:
    is_kept = np.isfinite(first) & np.isfinite(second)
    return _largest(first[is_kept] - second[is_kept])


def _largest(differences: Float[np.ndarray, ...]) -> float:
    finite = np.abs(differences[np.isfinite(differences)])
    return float(finite.max()) if len(finite) else np.nan
