"""What the report does with more than a panel shows: it splits series into panels, thins curves, and says both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gradhorizon.analysis.drawing.appearance import MOST_NAMED
from gradhorizon.analysis.report.panels import MAX_POINTS, thinned
from gradhorizon.analysis.statistics.growth import HORIZON_LEVEL, gradient_horizon

MOST_ROWS = 5000
"""Of one chart's data. Source: Altair, which refuses more."""
MOST_MARKS = 16
"""Points that a thinned curve keeps beside the evenly spaced ones."""
_MOST_CHARACTERS = 32


def groups(rows: pd.DataFrame, points: int = 1) -> Iterator[tuple[str, list[str]]]:
    """Series that share a panel, as even as they go, in order of name: words for its title, and which.

    Args:
        rows: whose series (column series) share an axis.
        points: most rows of one series in a chart's data.
    """
    names = sorted(rows["series"].unique().tolist())
    most = max(1, min(MOST_NAMED, MOST_ROWS // points))
    if len(names) <= most:
        yield "", names
        return
    first = 1
    for part in np.array_split(np.arange(len(names)), -(-len(names) // most)):
        own = [names[index] for index in part]
        yield f" · series {first} to {first + len(own) - 1} of {len(names)}: {_ends(own)}", own
        first += len(own)


def _ends(names: Sequence[str]) -> str:
    cut = [name if len(name) <= _MOST_CHARACTERS else f"{name[: _MOST_CHARACTERS - 1]}…" for name in names]
    return cut[0] if len(names) == 1 else f"{cut[0]} … {cut[-1]}"


def thinned_profiles(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows that are drawn of profiles, and words for what is left out; all of them and none where few.

    Args:
        rows: of `gradhorizon.analysis.figures.gradient_profile.summarise`, of one panel.
    """
    return _thinned(rows, "lag", "lags", "horizon and zeros", _marks_of_profile)


def thinned_curves(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows that are drawn of training curves, and words for what is left out; all of them and none where few.

    Args:
        rows: of `gradhorizon.analysis.figures.training_curves.summarise`, of one panel.
    """
    return _thinned(rows, "step", "steps", "first step at the solved level", _marks_of_curve)


def thinned_points(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows that are drawn of a declared quantity, and words for what is left out; all of them and none where few.

    Args:
        rows: of `gradhorizon.analysis.quantities.over_seeds.summarise`, of one panel.
    """
    return _thinned(rows, "x", "places", "zeros and infinities", _marks_of_points)


def _thinned(
    rows: pd.DataFrame, x: str, noun: str, marks: str, own: Callable[[pd.DataFrame], np.ndarray]
) -> tuple[pd.DataFrame, str]:
    parts = [_kept(curve, x, own) for _, curve in rows.groupby("series", sort=True)]
    most = int(rows.groupby("series")[x].nunique().max())
    words = f"{MAX_POINTS} of {most} {noun} are drawn, and each curve's largest and smallest value, {marks}"
    return pd.concat(parts), words if most > MAX_POINTS else ""


def _kept(curve: pd.DataFrame, x: str, own: Callable[[pd.DataFrame], np.ndarray]) -> pd.DataFrame:
    if len(curve) <= MAX_POINTS:
        return curve
    curve = curve.sort_values(x)
    at = curve[x].to_numpy()
    places = np.concatenate([np.flatnonzero(np.isin(at, thinned(curve[x]))), _extremes(curve), own(curve)])
    return curve.iloc[np.unique(places)]


def _extremes(curve: pd.DataFrame) -> np.ndarray:
    found = []
    for name, pick in (("median", np.argmax), ("median", np.argmin), ("low", np.argmin), ("high", np.argmax)):
        values = curve[name].to_numpy(float)
        finite = np.flatnonzero(np.isfinite(values))
        found += [finite[pick(values[finite])]] if len(finite) else []
    return np.array(found, dtype=int)


def _marks_of_profile(curve: pd.DataFrame) -> np.ndarray:
    norms = curve["median"].to_numpy(float)
    horizon = gradient_horizon(curve["lag"].to_numpy(), norms)
    cross = np.flatnonzero(curve["lag"].to_numpy() == horizon.lag)
    return np.concatenate([_edges(norms == 0), _edges(norms < HORIZON_LEVEL), cross, np.maximum(cross - 1, 0)])


def _marks_of_curve(curve: pd.DataFrame) -> np.ndarray:
    level = curve["solved_level"].to_numpy(float)
    return np.concatenate([_edges(curve["median"].to_numpy(float) == 0), _edges(curve["median"].to_numpy() >= level)])


def _marks_of_points(curve: pd.DataFrame) -> np.ndarray:
    values = curve["median"].to_numpy(float)
    return np.concatenate(
        [_edges(values == 0), _edges(np.isinf(values)), _edges(curve["median_is_censored"].to_numpy())]
    )


def _edges(holds: np.ndarray) -> np.ndarray:
    """First and last place where something holds, and those just outside."""
    at = np.flatnonzero(holds)
    return np.clip([at[0] - 1, at[0], at[-1], at[-1] + 1], 0, len(holds) - 1) if len(at) else at


def packed(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification whose data stand column by column, each word once: a fraction of the size.

    Args:
        spec: Vega-Lite, with named datasets; `page/many.js` unpacks it.
    """
    datasets = {name: _packed_rows(rows) for name, rows in spec.get("datasets", {}).items()}
    return spec | {"datasets": datasets}


def _packed_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: _packed_column([row[name] for row in rows]) for name in (rows[0] if rows else {})}


def _packed_column(values: list[Any]) -> Any:
    if not all(isinstance(value, str) for value in values):
        return values
    words = list(dict.fromkeys(values))
    number = {word: index for index, word in enumerate(words)}
    return {"words": words, "at": [number[value] for value in values]}
