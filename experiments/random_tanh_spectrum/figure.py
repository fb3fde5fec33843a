r"""Lyapunov spectra of random tanh networks without input against mean-field theory.

Usage: ``python -m experiments.random_tanh_spectrum.figure``. One figure: the largest exponent against
the gain and its distance from theory above, the mean of all exponents and whole spectra below.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradhorizon.analysis import command_line
from gradhorizon.analysis.drawing import appearance, spectra
from gradhorizon.analysis.reading.cohort import MEMBER, Cohort, member_names, records
from gradhorizon.records.tables import RecordsError
from gradhorizon.theory import mean_field_tanh_growth_rate, mean_field_tanh_mean_exponent

TABLES = ("autonomous_spectrum",)
PATHS = {"gain": "model.cell.initialization.gain"}
POINT = ["state_size", "gain"]
QUANTITIES = ("leading", "departure", "mean", "dimension_per_unit")
DRAWN_GAINS = (1.5, 3.0)
"""Gains whose whole spectra are drawn: moderately and strongly chaotic."""
LOWEST_DRAWN = -8.0
_NAMED_AT = 0.7  # relative rank at which a bundle of spectra carries its gain


def summarise(cohort: Cohort) -> pd.DataFrame:
    """Largest and mean exponent of every size and gain over seeds, beside mean-field theory.

    Columns: state_size (N), gain (g), num_seeds, window_steps; for each of leading (λ₁), departure (λ₁ − expected),
    mean (of all exponents; these three in nats per step) and dimension_per_unit (Kaplan–Yorke dimension / N,
    dimensionless): the mean over seeds and ``…_low``, ``…_high``, ``…_error``; expected_leading (N → ∞) and
    expected_mean (at N), in nats per step.

    Raises:
        RecordsError: an exponent is missing, or a member has not measured its whole spectrum.
    """
    members = _members(spectra.exponents_at_init(cohort, TABLES[0], PATHS), cohort)
    parts = [spectra.over_seeds(members, POINT, name).set_index([*POINT, "num_seeds"]) for name in QUANTITIES]
    table = pd.concat(parts, axis=1).reset_index()
    table["expected_leading"] = [mean_field_tanh_growth_rate(row["gain"]) for row in records(table)]
    table["expected_mean"] = [mean_field_tanh_mean_exponent(row["gain"], row["state_size"]) for row in records(table)]
    return table.merge(members[[*POINT, "window_steps"]].drop_duplicates(), on=POINT)


def _members(exponents: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    groups = exponents.groupby([*MEMBER, *POINT, "window_steps"])
    members = groups["value"].agg(leading="max", mean=_mean_of_all, count="size").reset_index()
    _refuse_parts(members)
    dimension = cohort.table(TABLES[0]).query("phase == 'init'").drop_duplicates(MEMBER)
    members = members.merge(dimension[[*MEMBER, "kaplan_yorke_dimension_median"]], on=MEMBER)
    return members.assign(
        departure=members["leading"] - members["gain"].map(mean_field_tanh_growth_rate),
        dimension_per_unit=members["kaplan_yorke_dimension_median"] / members["state_size"],
    )


def _refuse_parts(members: pd.DataFrame) -> None:
    parts = members[members["count"] != members["state_size"]]
    if len(parts):
        raise RecordsError(
            f"the mean needs all exponents, and {len(parts)} members measured fewer: {member_names(parts)[0]}; launch "
            "them again with measurement.autonomous_spectrum.num_exponents=null"
        )


def _mean_of_all(values: pd.Series) -> float:
    return float(values.to_numpy().mean())  # NaN if one is: a mean of the others would be biased


def mean_spectra(cohort: Cohort, gains: Sequence[float] = DRAWN_GAINS) -> pd.DataFrame:
    """Exponent of every rank of the networks with one of `gains`, mean over seeds.

    Columns: state_size, gain, rank, num_seeds; value, value_low, value_high, value_error (nats per step); fraction
    (rank / N, dimensionless).
    """
    exponents = spectra.exponents_at_init(cohort, TABLES[0], PATHS)
    chosen = exponents[exponents["gain"].isin(list(gains))]
    table = spectra.over_seeds(chosen, [*POINT, "rank"], "value")
    return table.assign(fraction=table["rank"] / table["state_size"])


def plot_against_gain(table: pd.DataFrame, ax: Axes, quantity: str) -> None:
    """One quantity against the gain, a curve per size.

    Args:
        table: rows of `summarise`.
        ax: the panel.
        quantity: ``leading``, ``departure`` or ``mean``.
    """
    ax.axhline(0, color=appearance.QUIET, linewidth=0.6, zorder=1)
    sizes = spectra.sizes(table)
    for number, (size, look) in enumerate(spectra.size_look(sizes).items()):
        # Only where bars would hide each other: on a steep curve a shift looks like a difference.
        shift = 0.024 * (number - (len(sizes) - 1) / 2) if quantity == "departure" else 0.0
        curve = table[table["state_size"] == size]
        spectra.plot_points(curve.assign(drawn_gain=curve["gain"] + shift), ax, "drawn_gain", quantity, **look)


def plot_theory(table: pd.DataFrame, ax: Axes, quantity: str) -> None:
    """Theory against the gain, dashed.

    Args:
        table: rows of `summarise`.
        ax: the panel.
        quantity: ``leading`` or ``mean``, both in the limit of infinitely many units.
    """
    gains = np.linspace(table["gain"].min(), table["gain"].max(), 200)
    rate = {"leading": mean_field_tanh_growth_rate, "mean": mean_field_tanh_mean_exponent}[quantity]
    ax.plot(gains, [rate(gain) for gain in gains], **spectra.THEORY, zorder=4)


def plot_spectra(table: pd.DataFrame, ax: Axes) -> None:
    """Whole spectra against the relative rank, a line per size, a bundle per gain.

    Args:
        table: rows of `mean_spectra`.
        ax: the panel.
    """
    ax.axhline(0, color=appearance.QUIET, linewidth=0.6, zorder=1)
    for size, look in spectra.size_look(spectra.sizes(table)).items():
        for _, curve in table[table["state_size"] == size].sort_values("rank").groupby("gain"):
            ax.plot(curve["fraction"], curve["value"], color=look["color"], linewidth=1.0)
    for gain, bundle in table.groupby("gain"):
        curve = bundle.sort_values("fraction", kind="stable")  # sizes share fractions; processors sort ties differently
        height = np.interp(_NAMED_AT, *curve[["fraction", "value"]].to_numpy().T)
        ax.annotate(f"g = {gain:g}", (_NAMED_AT, height), (3, 4), textcoords="offset points", fontsize=6.5)


def draw(table: pd.DataFrame, whole: pd.DataFrame) -> Figure:
    """The figure, from rows of `summarise` and of `mean_spectra`."""
    figure, axes = appearance.panels(2, 2, height_in=2.5)
    (leading, departure), (mean, spectrum) = axes
    for ax, quantity in ((leading, "leading"), (departure, "departure"), (mean, "mean")):
        plot_against_gain(table, ax, quantity)
        ax.set_xlabel("gain g [–]")
    plot_theory(table, leading, "leading")
    plot_theory(table, mean, "mean")
    plot_spectra(whole, spectrum)
    leading.set_ylabel(r"largest exponent $\lambda_1$ [nats/step]")
    departure.set_ylabel(r"$\lambda_1$ − mean field [nats/step]", labelpad=1)
    mean.set_ylabel("mean of all exponents [nats/step]")
    spectrum.set(xlabel="relative rank i/N [–]", ylabel=r"exponent $\lambda_i$ [nats/step]", ylim=(LOWEST_DRAWN, 0.8))
    handles = [Line2D([], [], **spectra.THEORY, label="mean-field theory, N → ∞")]
    sizes = spectra.size_handles(spectra.sizes(table), "N")
    window = table["window_steps"].iloc[0]
    footnote = (
        f"h ← tanh(Wh), entries of W from N(0, g²/N), no input, random initial states, window of {window} steps. "
        f"{spectra.seeds_in_words(table)} Upper right: points stand apart sideways. Spectra: means over seeds, "
        f"drawn down to {LOWEST_DRAWN:g} nats/step."
    )
    appearance.finish(figure, "Chaos in random tanh networks", [sizes, handles], footnote)
    return figure


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write the figure; returns its paths."""
    return appearance.save({"random_tanh_spectrum": partial(draw, summarise(cohort), mean_spectra(cohort))}, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the spectra of the runs named on the command line."""
    command_line.run(__doc__, TABLES, write, arguments, study=Path(__file__).parent)


if __name__ == "__main__":
    main()
