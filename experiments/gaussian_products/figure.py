r"""Measured Lyapunov exponents of products of Gaussian matrices against the closed form.

Usage: ``python -m experiments.gaussian_products.figure``. One figure: the spectra on the left, what is
left of them when theory is subtracted, in standard errors, on the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gradhorizon.analysis import command_line
from gradhorizon.analysis.drawing import appearance, spectra
from gradhorizon.analysis.reading.cohort import Cohort, records
from gradhorizon.analysis.statistics.growth import CONFIDENCE
from gradhorizon.theory import newman_exponents

TABLES = ("lyapunov_spectrum",)
BAND_COLOR = "#eef2ff"


def summarise(cohort: Cohort) -> pd.DataFrame:
    """Mean exponent of every size and rank over seeds, beside the closed form for entries from N(0, 1/S).

    Columns: state_size, rank, num_seeds; value, value_low, value_high, value_error, expected (nats per step);
    normalised (value − expected, in standard errors), band (half-width of its 95 % interval, in standard errors).

    Raises:
        RecordsError: an exponent is missing.
    """
    table = spectra.over_seeds(spectra.exponents_at_init(cohort, TABLES[0]), ["state_size", "rank"], "value")
    expected = {size: newman_exponents(size, size**-0.5) for size in spectra.sizes(table)}
    table["expected"] = [expected[row["state_size"]][row["rank"] - 1] for row in records(table)]
    return table.assign(
        normalised=(table["value"] - table["expected"]) / table["value_error"],
        band=[spectra.t_quantile(count) for count in table["num_seeds"]],
    )


def plot_spectra(table: pd.DataFrame, ax: Axes) -> None:
    """Exponents against their relative rank, with theory.

    Args:
        table: rows of `summarise`.
        ax: the panel.
    """
    for size, look in spectra.size_look(spectra.sizes(table)).items():
        curve = table[table["state_size"] == size].assign(fraction=lambda rows: rows["rank"] / rows["state_size"])
        spectra.plot_points(curve, ax, "fraction", "value", linestyle="none", **look)
        ax.plot(curve["fraction"], curve["expected"], **spectra.THEORY)


def plot_differences(table: pd.DataFrame, ax: Axes) -> None:
    """Measured minus expected exponents in standard errors, against their relative rank.

    Args:
        table: rows of `summarise`.
        ax: the panel.
    """
    half = float(table["band"].max())
    ax.axhspan(-half, half, color=BAND_COLOR, linewidth=0, zorder=0)
    ax.axhline(0, **spectra.THEORY)
    for size, look in spectra.size_look(spectra.sizes(table)).items():
        curve = table[table["state_size"] == size]
        ax.plot(curve["rank"] / size, curve["normalised"], **look, linestyle="none", markersize=3.6, markeredgewidth=0)


def draw(table: pd.DataFrame) -> Figure:
    """The figure, from rows of `summarise`."""
    figure, axes = appearance.panels(1, 2, height_in=2.6)
    left, right = axes[0]
    plot_spectra(table, left)
    plot_differences(table, right)
    left.set(xlabel="relative rank i/S [–]", ylabel=r"exponent $\lambda_i$ [nats/step]", xlim=(0, 1.04))
    right.set(xlabel="relative rank i/S [–]", ylabel="difference [standard errors]", xlim=(0, 1.04))
    handles = [
        Line2D([], [], **spectra.THEORY, label="theory: Newman (1986)"),
        Patch(color=BAND_COLOR, label="95 % of the points, if theory holds"),
    ]
    sizes = spectra.size_handles(spectra.sizes(table), "S")
    num_out = int((table["normalised"].abs() > table["band"]).sum())
    footnote = (
        f"Products of independent S × S matrices with entries from N(0, 1/S). {spectra.seeds_in_words(table)} "
        "Difference: mean over seeds − theory, divided by the standard error of that mean. Outside the band: "
        f"{num_out} of {len(table)} exponents; expected by chance: {(1 - CONFIDENCE) * len(table):.0f}."
    )
    appearance.finish(figure, "A spectrum that is known, measured", [sizes, handles], footnote)
    return figure


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write the figure; returns its paths."""
    return appearance.save({"gaussian_products": partial(draw, summarise(cohort))}, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the spectra of the runs named on the command line."""
    command_line.run(__doc__, TABLES, write, arguments, study=Path(__file__).parent)


if __name__ == "__main__":
    main()
