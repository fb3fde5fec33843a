"""What a figure and the page say of a quantity's curves: how many seeds, which band, what the marks are."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from gradhorizon.analysis.quantities.declared import Quantity
from gradhorizon.analysis.statistics.growth import MIN_SEEDS

_MOST_LISTED = 3


def footnote(quantity: Quantity, table: pd.DataFrame) -> str:
    """What the marks mean, as far as a figure has them.

    Args:
        quantity: what is drawn.
        table: rows of `gradhorizon.analysis.quantities.over_seeds.summarise` that are drawn.
    """
    counts = table["num_members"]
    seeds = f"n = {counts.min()}" if counts.min() == counts.max() else f"n = {counts.min()} to {counts.max()}"
    band = "range" if counts.max() < MIN_SEEDS else f"quartiles (range below {MIN_SEEDS} seeds)"
    return " ".join([f"{quantity.note} Line: median over seeds ({seeds}); band: {band} of the seeds.",
                     *marks(quantity, table)])  # fmt: skip


def marks(quantity: Quantity, table: pd.DataFrame) -> Iterator[str]:
    """A sentence for each kind of value that no line can show.

    Args:
        quantity: what is drawn.
        table: rows of `gradhorizon.analysis.quantities.over_seeds.summarise` that are drawn.
    """
    below = {y.lowest for y in quantity.ys if y.is_beyond(table.loc[table["quantity"] == y.column, "median"]).any()}
    if below:
        yield f"Marks on the lower edge: {' or '.join(sorted(below))}."
    if (table["median"] == float("inf")).any():
        yield "Marks on the upper edge: infinite."
    if table["median_is_censored"].any():
        yield "Hollow, with an arrow: beyond the longest lag."
    if table["is_partial"].any():
        yield "Dots beside a line: only some of the members were measured there, or most have no number."
    if table["expected"].notna().any():
        yield "Theory (dashed) holds at init under the assumption named."
    lost = int(table["num_not_numbers"].sum())
    if lost:
        yield f"NaN, so left out: {lost} of {int(table['num_seeds'].sum())} values."


def without_numbers(quantity: Quantity, table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows of the panels that have a number in them, and a sentence on those that have none.

    Args:
        quantity: what is drawn.
        table: rows of `gradhorizon.analysis.quantities.over_seeds.summarise`.
    """
    panels = table.groupby(["quantity", "facet"], observed=True)["median"]
    has_number = panels.transform("count") > 0
    named = []
    for y in quantity.ys:
        own = table["quantity"] == y.column
        empty = table.loc[own & ~has_number, "facet"].drop_duplicates().tolist()
        if len(empty) > _MOST_LISTED:
            named.append(f"{y.words} in {len(empty)} of {table.loc[own, 'facet'].nunique()} panels")
        elif empty:
            named.append(f"{y.words}{' of ' if any(empty) else ''}{', '.join(empty)}")
    return table[has_number], f"Without a number, so without a panel: {'; '.join(named)}." if named else ""
