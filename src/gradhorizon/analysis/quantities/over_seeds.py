"""A recorded quantity over seeds: median and band of every curve at every place, and what neither can say."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from gradhorizon.analysis.drawing.theory_lines import common_line
from gradhorizon.analysis.quantities.declared import Axis, Quantity
from gradhorizon.analysis.reading.cohort import CELL, MEMBER, Cohort
from gradhorizon.analysis.reading.stages import STAGES, staged
from gradhorizon.analysis.statistics.growth import MIN_SEEDS

CURVE = [*CELL, "quantity", "facet", "stage"]
"""Columns that name a curve; all but the series name a panel."""
_POINT = [*CURVE, "x"]
_PLACES = {"layer": "layer {}", "direction": "{}"}


@lru_cache(maxsize=16)
def summarise(quantity: Quantity, cohort: Cohort) -> pd.DataFrame:
    """Curves of a quantity.

    The median is that of the seeds whose value is a number. No infinity, and no zero of a logarithmic axis, is averaged
    with a number: where the two middle seeds are one of each, it is the median. The band is the range of the seeds if a
    curve has fewer than `MIN_SEEDS`, their quartiles otherwise.

    Args:
        quantity: what is drawn.
        cohort: of whose members.

    Returns:
        Columns `CURVE` (quantity: the vertical axis's column; facet: words, in order; stage: empty against optimizer
        steps), x, median, low, high (in the axes' units); num_seeds (that have the point), num_not_numbers (of those),
        num_members (of the curve); median_is_censored, high_is_censored (the truth lies beyond); is_partial (half of
        the members or more have no number there, or some that were still training no point); expected (theory at init,
        NaN elsewhere), assumption; color, marker.

    Raises:
        AbsentTableError: no member recorded the table.
    """
    rows = quantity.read(cohort)
    rows = staged(cohort, rows) if quantity.is_staged else rows.assign(stage="")
    if not len(rows):
        return pd.DataFrame(columns=[*_POINT, "median", "low", "high"])
    rows = rows.assign(x=rows[quantity.x.column] / quantity.x.per_unit, facet=_facets(rows, quantity))
    rows = rows.merge(_numbered(cohort.members), on=MEMBER)
    parts = [_points(_values(rows, y, quantity, cohort), y, quantity) for y in quantity.ys]
    table = pd.concat(parts, ignore_index=True).merge(cohort.look, on="series")
    return table.merge(_expected(table, quantity, cohort), on=_POINT, how="left")


def _numbered(members: pd.DataFrame) -> pd.DataFrame:
    return members[MEMBER].assign(number=members.groupby(CELL).cumcount())


def _facets(rows: pd.DataFrame, quantity: Quantity) -> pd.Categorical[Any]:
    """Words of every row's facets: by layer, the forward direction first, then as they were recorded."""
    places = {name: words.format for name, words in _PLACES.items() if name in rows and len(rows[name].unique()) > 1}
    columns = {**places, **dict(quantity.facets)}
    if not columns:
        return pd.Categorical([""] * len(rows), [""], ordered=True)
    kinds = rows[list(columns)].drop_duplicates()
    ranks = [kinds[name].rank(method="dense", ascending=name != "direction") for name in places]
    kinds = kinds.iloc[np.lexsort(ranks[::-1])] if ranks else kinds
    said = [" · ".join(words(value) for words, value in zip(columns.values(), key, strict=True))
            for key in kinds.itertuples(index=False)]  # fmt: skip
    if len(set(said)) < len(said):  # names that differ in what words leave out
        said = [" · ".join(map(str, key)) for key in kinds.itertuples(index=False)]
    words_of = dict(zip(kinds.itertuples(index=False, name=None), said, strict=True))
    keys = rows[list(columns)].itertuples(index=False, name=None)
    return pd.Categorical([words_of[key] for key in keys], said, ordered=True)


def _values(rows: pd.DataFrame, y: Axis, quantity: Quantity, cohort: Cohort) -> pd.DataFrame:
    """One row per point and member: `_POINT`, number, value, is_beyond."""
    values = rows[[*(name for name in _POINT if name != "quantity"), "number"]].assign(
        quantity=y.column,
        value=rows[y.column].astype(float) / y.per_unit,
        is_beyond=rows[y.censored].astype(bool) if y.censored else False,
    )
    values = values.drop_duplicates([*_POINT, "number"], keep="last")  # solved at the last step: measured as both
    return values if quantity.is_staged or quantity.ends_with_training else _kept_when_solved(values, cohort)


def _kept_when_solved(values: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    solved = cohort.members.assign(number=_numbered(cohort.members)["number"])
    solved = solved.loc[solved["outcome"] == "solved", [*CELL, "number"]]
    ends = values.merge(solved, on=[*CELL, "number"]).sort_values("x").drop_duplicates([*CURVE, "number"], keep="last")
    later = values[_POINT].drop_duplicates().merge(ends, on=CURVE, suffixes=("", "_of_end"))
    return pd.concat([values, later[later["x"] > later["x_of_end"]][values.columns]], ignore_index=True)


def _points(values: pd.DataFrame, y: Axis, quantity: Quantity) -> pd.DataFrame:
    wide = values.pivot(index=_POINT, columns="number", values="value").sort_index()  # noqa: PD010, no aggregation
    points = wide.index.to_frame(index=False)
    counted = values.groupby(_POINT, observed=True).agg(num_seeds=("value", "size"), num_beyond=("is_beyond", "sum"))
    members = values.groupby(CURVE, observed=True)["number"].nunique().rename("num_members").reset_index()
    points = points.merge(members, on=CURVE).merge(counted.reset_index(), on=_POINT)
    points = points.assign(**_spread(wide.to_numpy(float), points, y))
    is_partial = 2 * points["num_not_numbers"] >= points["num_seeds"]
    if not quantity.is_staged:
        is_partial |= points["num_seeds"] < _still_there(points, values)
    return points.drop(columns="num_beyond").assign(is_partial=is_partial)


def _spread(values: Float[np.ndarray, "P M"], points: pd.DataFrame, y: Axis) -> dict[str, np.ndarray]:
    ordered = np.sort(values, axis=1)  # NaN last
    known = (~np.isnan(ordered)).sum(axis=1)
    tail = np.where(points["num_members"] >= MIN_SEEDS, 0.25, 0.0)
    ranks = {"lower": np.floor((known - 1) / 2), "upper": np.ceil((known - 1) / 2), "low": np.round(tail * (known - 1)),
             "high": np.round((1 - tail) * (known - 1))}  # fmt: skip
    places: dict[str, Int[np.ndarray, " P"]] = {name: rank.clip(min=0).astype(int) for name, rank in ranks.items()}
    at = {name: np.take_along_axis(ordered, place[:, None], axis=1)[:, 0] for name, place in places.items()}
    with np.errstate(invalid="ignore", over="ignore"):
        middle = np.where(y.is_beyond(at["lower"]), at["lower"], (at["lower"] + at["upper"]) / 2)
    first_beyond = known - points["num_beyond"].to_numpy()
    beyond = {f"{name}_is_censored": places[place] >= first_beyond for name, place in _ENDS.items()}
    is_known = known > 0
    return {"median": middle, "low": at["low"], "high": at["high"],
            "num_not_numbers": points["num_seeds"].to_numpy() - known,
            **{name: flags & is_known for name, flags in beyond.items()}}  # fmt: skip


_ENDS = {"median": "upper", "high": "high"}


def _still_there(points: pd.DataFrame, values: pd.DataFrame) -> pd.Series:
    """How many members of each point's curve have it or a later one."""
    lasts = values.groupby([*CURVE, "number"], observed=True)["x"].max().rename("last").reset_index()
    both = points[_POINT].reset_index().merge(lasts, on=CURVE)
    return (both["last"] >= both["x"]).groupby(both["index"]).sum().sort_index()


def _expected(table: pd.DataFrame, quantity: Quantity, cohort: Cohort) -> pd.DataFrame:
    """Rows of `_POINT` with expected and assumption, of the curves whose runs all have one and the same theory."""
    parts = [table[_POINT].iloc[:0].assign(expected=pd.Series(dtype=float), assumption=pd.Series(dtype=object))]
    if (theory := quantity.theory) is not None:
        members = dict(iter(cohort.members.groupby(CELL)))
        at_init = table[(table["stage"] == STAGES[0]) & (table["quantity"] == quantity.ys[0].column)]
        for key, curve in at_init.groupby(CURVE, observed=True):
            line = common_line(members[key[: len(CELL)]], partial(theory, str(curve["facet"].iloc[0])))
            if line is not None:
                expected = line.profile(curve["x"].to_numpy(float))
                parts.append(curve[_POINT].assign(expected=expected, assumption=line.assumption))
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
