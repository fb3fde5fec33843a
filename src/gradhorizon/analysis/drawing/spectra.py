"""Spectra of growth rates of many members: exponents by setting, and their means over seeds with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy import stats

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.reading.cohort import MEMBER, Cohort, records
from gradhorizon.analysis.reading.configurations import configuration
from gradhorizon.analysis.statistics.growth import CONFIDENCE, MIN_SEEDS
from gradhorizon.records.layout import CONFIG
from gradhorizon.records.tables import RecordsError

SIZE_COLORS = ("#9ecae1", "#4292c6", "#08519c", "#041e42")
"""One per network size, the largest darkest."""
SIZE_MARKERS = ("o", "s", "^", "D")
THEORY: dict[str, Any] = {"color": appearance.INK, "linestyle": "--", "linewidth": 0.9}


def settings(cohort: Cohort, paths: Mapping[str, str]) -> pd.DataFrame:
    """Values of each member's configuration that no table holds: experiment, run, seed, and one column per name.

    Args:
        cohort: whose runs' ``config.yaml`` are read.
        paths: column -> dotted path in the configuration.

    Raises:
        RecordsError: a run's configuration has no such value.
    """
    rows = [
        {**{name: member[name] for name in MEMBER}, **_values(Path(member["folder"]).parent, paths)}
        for member in records(cohort.members)
    ]
    return pd.DataFrame(rows)


def _values(run: Path, paths: Mapping[str, str]) -> dict[str, Any]:
    config = configuration(run)
    found = {name: _at(config, path) for name, path in paths.items()}
    absent = [paths[name] for name, value in found.items() if value is None]
    if absent:
        raise RecordsError(f"{run.name}/{CONFIG} has no `{absent[0]}`; pass the runs of this study alone")
    return found


def _at(node: Any, path: str) -> Any:
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def exponents_at_init(cohort: Cohort, table: str, paths: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Exponents of every member at initialisation.

    Args:
        cohort: of networks with one layer and direction.
        table: the spectrum's table.
        paths: what else of each run's configuration makes a column; see `settings`.

    Returns:
        Columns experiment, run, seed, state_size, rank (1 is the largest), value (nats per step, median over the
        member's samples), window_steps, and those of `paths`.

    Raises:
        RecordsError: no member recorded the table, or one has several layers or directions.
    """
    rows = cohort.table(table)
    rows = rows[rows["phase"] == "init"].rename(columns={"exponent": "rank", "exponent_median_nats_per_step": "value"})
    if rows.duplicated([*MEMBER, "rank"]).any():
        raise RecordsError(f"`{table}` must hold one layer and direction per member here; pass this study's runs alone")
    own = rows[[*MEMBER, "state_size", "rank", "value", "window_steps"]]
    return own.merge(settings(cohort, paths), on=MEMBER) if paths else own


def over_seeds(values: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Mean over seeds of each group, its 95 % interval by Student's t, and its standard error.

    An exponent is itself a mean of many logarithms, so that seeds scatter nearly normally. With fewer than five seeds
    the interval is their range and the standard error NaN.

    Args:
        values: one row per member and group.
        by: columns that name a group.
        column: what is averaged.

    Returns:
        The columns `by`, then num_seeds and ``<column>``, ``<column>_low``, ``<column>_high``, ``<column>_error``.

    Raises:
        RecordsError: a value is missing, so that a mean of the others would be biased.
    """
    if values[column].isna().any():
        absent = values[values[column].isna()][by].iloc[0].to_dict()
        raise RecordsError(
            f"`{column}` has no finite value at {absent}: not finite, or below resolution; decompose every step "
            "(qr_every_steps=1), or leave those runs out"
        )
    rows = [
        {**dict(zip(by, key, strict=True)), "num_seeds": len(group), **_summary(group[column].to_numpy(), column)}
        for key, group in values.groupby(by, sort=True)
    ]
    return pd.DataFrame(rows)


def _summary(values: Float[np.ndarray, " M"], column: str) -> dict[str, float]:
    mean, low, high, error = float(values.mean()), float(values.min()), float(values.max()), np.nan
    if len(values) >= MIN_SEEDS:
        error = float(values.std(ddof=1)) / np.sqrt(len(values))
        reach = t_quantile(len(values)) * error
        low, high = mean - reach, mean + reach
    return {column: mean, f"{column}_low": low, f"{column}_high": high, f"{column}_error": error}


def t_quantile(num_seeds: int) -> float:
    """Half-width of the 95 % interval of a mean over seeds, in standard errors.

    Example:
        >>> round(t_quantile(5), 3)
        2.776
    """
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, num_seeds - 1))


def plot_points(curve: pd.DataFrame, ax: Axes, x: str, y: str, **look: Any) -> None:
    """Means over seeds as connected points with their intervals.

    Args:
        curve: rows of `over_seeds`, one per point.
        ax: the panel.
        x: column.
        y: column that has ``_low`` and ``_high``.
        look: keywords of `Axes.plot`.
    """
    drawn = curve.sort_values(x)
    ax.vlines(drawn[x], drawn[f"{y}_low"], drawn[f"{y}_high"], color=look["color"], linewidth=1.0, alpha=0.8)
    ax.plot(drawn[x], drawn[y], **{"linewidth": 1.0, "markersize": 3.6, "markeredgewidth": 0, **look})


def sizes(table: pd.DataFrame) -> list[int]:
    """Network sizes of a table with the column state_size, ascending."""
    return sorted(table["state_size"].unique().tolist())


def size_look(sizes: list[int]) -> dict[int, dict[str, Any]]:
    """Colour and marker of each network size, as keywords of `Axes.plot`."""
    return {
        size: {"color": SIZE_COLORS[number % len(SIZE_COLORS)], "marker": SIZE_MARKERS[number % len(SIZE_MARKERS)]}
        for number, size in enumerate(sorted(sizes))
    }


def size_handles(sizes: list[int], symbol: str) -> list[Line2D]:
    """One legend entry per network size."""
    return [
        Line2D([], [], label=f"{symbol} = {size}", markersize=4.5, **look) for size, look in size_look(sizes).items()
    ]


def seeds_in_words(table: pd.DataFrame) -> str:
    """What point and bar are of a figure drawn from `over_seeds`."""
    counts = sorted(table["num_seeds"].unique())
    number = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    bar = "95 % interval by Student's t" if counts[0] >= MIN_SEEDS else "range of the seeds"
    return f"Point: mean over seeds ({number}). Bar: {bar}."
