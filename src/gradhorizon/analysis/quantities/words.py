"""What a figure and the page say of a quantity's curves: how many seeds, which band, what the marks are."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from gradhorizon.analysis.quantities.declared import Quantity
from gradhorizon.analysis.statistics.growth import MIN_SEEDS


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
    has_number = table.groupby(["quantity", "facet"], observed=True)["median"].transform("count") > 0
    words = {y.column: y.words for y in quantity.ys}
    empty = table.loc[~has_number, ["quantity", "facet"]].drop_duplicates()
    named = [f"{words[quantity]}{f' of {facet}' if facet else ''}" for quantity, facet in empty.itertuples(index=False)]
    return table[has_number], f"Without a number, so without a panel: {', '.join(named)}." if named else ""
