r"""State gradients of diagonal linear recurrences whose eigenvalues fill a ring, and the law by which they decay.

Usage: ``python -m experiments.ring_initialization.figure``. One figure: the profile on semi-logarithmic
axes, where an exponential is straight, on doubly logarithmic ones, where a power law is, and the evidence for either.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from gradhorizon.analysis import command_line
from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.drawing.saving import save_table
from gradhorizon.analysis.drawing.spectra import settings
from gradhorizon.analysis.reading.cohort import MEMBER, Cohort, records
from gradhorizon.analysis.statistics.decay_law import EXPONENTIAL, MIN_EVIDENCE, POWER_LAW, columns, decay_law
from gradhorizon.analysis.statistics.growth import MIN_SEEDS, growth_rate, rate_interval, spoken_coverage
from gradhorizon.records.tables import RecordsError
from gradhorizon.theory import ring_second_moment

TABLES = ("state_gradients",)
ARM = ["r_min", "r_max", "hidden_size"]
"""What names a setting."""
COLORS = ("#D55E00", "#0072B2", "#222255")
"""One per outer radius, the smallest first."""
MARKERS = ("s", "o")
"""One per hidden size, the smallest first."""
NEUTRAL_COLOR = "#eef2ff"
LOWEST_DRAWN = 1e-7
_PATHS = {
    "r_min": "model.cell.initialization.r_min",
    "r_max": "model.cell.initialization.r_max",
    "hidden_size": "hidden_size",
}


def profiles_at_init(cohort: Cohort) -> pd.DataFrame:
    """Relative state gradient of every member at initialisation.

    Columns: experiment, run, seed, r_min, r_max, hidden_size, lag (steps), relative_norm (of the whole state's total
    gradient; dimensionless).

    Raises:
        RecordsError: no member recorded state gradients, or a run is of another cell.
    """
    rows = cohort.table(TABLES[0])
    whole = (rows["phase"] == "init") & (rows["component"] == "all") & (rows["part"] == "total") & (rows["lag"] >= 0)
    kept = rows[whole].rename(columns={"relative_gradient_norm_median": "relative_norm"})
    if kept.duplicated([*MEMBER, "lag"]).any():
        raise RecordsError("`state_gradients` must hold one layer and direction; pass the runs of this study alone")
    return kept[[*MEMBER, "lag", "relative_norm"]].merge(settings(cohort, _PATHS), on=MEMBER)


def summarise(cohort: Cohort) -> pd.DataFrame:
    """Profile of every setting over seeds, beside the closed form.

    Columns: r_min, r_max, hidden_size, lag (steps); num_seeds; median, low, high (relative norm, dimensionless; the
    quartiles of the seeds, their range below `MIN_SEEDS`), expected (of infinitely many units).

    Raises:
        RecordsError: as `profiles_at_init`.
    """
    groups = profiles_at_init(cohort).groupby([*ARM, "lag"], sort=True)["relative_norm"]
    rows = [dict(zip([*ARM, "lag"], key, strict=True)) | _over_seeds(norms.to_numpy()) for key, norms in groups]
    table = pd.DataFrame(rows)
    expected = [ring_second_moment(row["lag"], row["r_min"], row["r_max"]) for row in records(table)]
    return table.assign(expected=np.sqrt(np.array(expected, dtype=float)))


def _over_seeds(norms: np.ndarray) -> dict[str, Any]:
    tails = (0.25, 0.75) if len(norms) >= MIN_SEEDS else (0.0, 1.0)
    low, high = np.quantile(norms, tails)
    return {"num_seeds": len(norms), "median": float(np.median(norms)), "low": float(low), "high": float(high)}


def laws(cohort: Cohort) -> pd.DataFrame:
    """Decay law of every setting.

    Columns: r_min, r_max, hidden_size, num_seeds, rate, rate_low, rate_high (growth rate, nats per step), and those of
    `gradhorizon.analysis.statistics.decay_law.columns`.

    Raises:
        RecordsError: as `profiles_at_init`.
    """
    groups = profiles_at_init(cohort).groupby(ARM, sort=True)
    return pd.DataFrame([dict(zip(ARM, key, strict=True)) | _law(group) for key, group in groups])


def _law(group: pd.DataFrame) -> dict[str, Any]:
    wide = group.pivot(index="lag", columns=MEMBER, values="relative_norm").sort_index()  # noqa: PD010, pivot_table multiplies experiments by seeds
    lags, profiles = wide.index.to_numpy(), wide.to_numpy().T
    rates = np.array([growth_rate(lags, profile) for profile in profiles])
    interval = rate_interval(rates)
    return {
        "num_seeds": len(profiles),
        "rate": float(np.median(rates)),
        "rate_low": interval.low if interval else np.nan,
        "rate_high": interval.high if interval else np.nan,
        **columns(decay_law(lags, profiles)),
    }


def _look(table: pd.DataFrame, name: str, choices: tuple[str, ...]) -> dict[Any, str]:
    values = sorted(table[name].unique())
    return {value: choices[index % len(choices)] for index, value in enumerate(values)}


def plot_profiles(table: pd.DataFrame, ax: Axes, is_log_log: bool) -> None:
    """Profiles of one inner radius against lag, with theory.

    Args:
        table: rows of `summarise`.
        ax: the panel.
        is_log_log: both axes logarithmic; otherwise the vertical one alone.
    """
    colors, markers = _look(table, "r_max", COLORS), _look(table, "hidden_size", MARKERS)
    shown = table[table["lag"] >= 1] if is_log_log else table
    for number, ((r_max, size), curve) in enumerate(shown.groupby(["r_max", "hidden_size"], sort=True)):
        color = colors[r_max]
        ax.fill_between(curve["lag"], curve["low"], curve["high"], color=color, alpha=0.16, linewidth=0)
        ax.plot(curve["lag"], curve["median"], color=color, marker=markers[size], markersize=3.2, markeredgewidth=0,
                markevery=appearance.sparse(len(curve), number, 9), linewidth=0.9)  # fmt: skip
        ax.plot(curve["lag"], curve["expected"], color=color, linestyle="--", linewidth=0.9, zorder=3)
    ax.set(yscale="log", xscale="log" if is_log_log else "linear", ylim=(LOWEST_DRAWN, 2.0))
    ax.yaxis.set_minor_formatter(NullFormatter())


def plot_evidence(table: pd.DataFrame, ax: Axes) -> None:
    """Evidence for an exponential (above) or a power law (below) of one inner radius, by outer radius.

    Args:
        table: rows of `laws`.
        ax: the panel.
    """
    colors, markers = _look(table, "r_max", COLORS), _look(table, "hidden_size", MARKERS)
    ax.axhspan(-MIN_EVIDENCE, MIN_EVIDENCE, color=NEUTRAL_COLOR, linewidth=0, zorder=0)
    ax.axhline(0, color=appearance.QUIET, linewidth=0.6, zorder=1)
    places = {r_max: place for place, r_max in enumerate(colors)}
    sides = {size: 0.3 * side - 0.15 for side, size in enumerate(markers)}
    for row in records(table):
        x, color = places[row["r_max"]] + sides[row["hidden_size"]], colors[row["r_max"]]
        ax.vlines(x, row["decay_evidence_low"], row["decay_evidence_high"], color=color, linewidth=1.2)
        ax.plot(x, row["decay_evidence"], color=color, marker=markers[row["hidden_size"]], markersize=5,
                markerfacecolor=color if row["decay_law"] in (EXPONENTIAL, POWER_LAW) else "white")  # fmt: skip
    ax.set_xticks(list(places.values()), [f"{r_max:g}" for r_max in places])
    ax.set_xlim(-0.5, len(places) - 0.5)
    ax.set_yscale("symlog", linthresh=1.0, linscale=0.7)


def draw(profiles: pd.DataFrame, found: pd.DataFrame) -> Figure:
    """The figure, from `summarise` and `laws`."""
    radii = sorted(profiles["r_min"].unique())
    figure, axes = appearance.panels(3, len(radii))
    for column, r_min in enumerate(radii):
        own = profiles[profiles["r_min"] == r_min]
        for row, is_log_log in enumerate((False, True)):
            plot_profiles(own, axes[row, column], is_log_log)
            axes[row, column].set_xlabel("lag τ [steps]")
        plot_evidence(found[found["r_min"] == r_min], axes[2, column])
        axes[0, column].set_title(rf"inner radius $r_\mathrm{{min}}$ = {r_min:g}")
        axes[2, column].set_xlabel(r"outer radius $r_\mathrm{max}$ [–]")
    for ax in axes[:2, 0]:
        ax.set_ylabel("relative state gradient g(τ) [–]")
    axes[2, 0].set_ylabel("evidence [nats/lag]")
    _share_evidence_axis(list(axes[2]))
    appearance.finish(figure, "What decides how a ring forgets", _legends(profiles), _footnote(profiles))
    return figure


def _share_evidence_axis(axes: list[Axes]) -> None:
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(2 * low, 3 * high)
        words: dict[str, Any] = {"transform": ax.transAxes, "fontsize": 6.5, "color": appearance.QUIET}
        ax.text(0.98, 0.97, "exponential", ha="right", va="top", **words)
        ax.text(0.02, 0.03, "power law", ha="left", va="bottom", **words)


def _legends(profiles: pd.DataFrame) -> list[list[Any]]:
    colors, markers = _look(profiles, "r_max", COLORS), _look(profiles, "hidden_size", MARKERS)
    radii = [Line2D([], [], color=color, label=rf"$r_\mathrm{{max}}$ = {r_max:g}") for r_max, color in colors.items()]
    sizes = [
        Line2D([], [], color=appearance.INK, marker=marker, markersize=4, linewidth=0.9, label=f"H = {size:g}")
        for size, marker in markers.items()
    ]
    marks = [
        Line2D([], [], color=appearance.INK, linestyle="--", linewidth=0.9, label="theory, H → ∞"),
        Line2D([], [], color=appearance.INK, linestyle="none", marker="o", markersize=5, markerfacecolor="white",
               label="hollow: neither law, or undecided"),
        Patch(color=NEUTRAL_COLOR, label="as good as each other"),
    ]  # fmt: skip
    return [[*radii, *sizes], marks]


def _footnote(profiles: pd.DataFrame) -> str:
    counts = sorted(profiles["num_seeds"].unique())
    seeds = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    band = "quartiles" if counts[0] >= MIN_SEEDS else "range"
    return (
        "g(τ) = ‖∂L(t*)/∂s(t*−τ)‖ / ‖∂L(t*)/∂s(t*)‖ of the whole state at initialisation. Line: median over seeds "
        f"({seeds}); band: {band} of the seeds. Dashed: square root of E|λ|^(2τ). Evidence: ln(residual scatter about "
        "the power law / about the exponential), fitted to the same log-spaced lags; point: median over seeds, bar: "
        f"{spoken_coverage(counts)} interval. Curves below {LOWEST_DRAWN:.0e} leave the panel."
    )


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write the figure and the table of laws; returns their paths."""
    found = laws(cohort)
    paths = appearance.save({"ring_initialization": partial(draw, summarise(cohort), found)}, out)
    save_table(found, out / "ring_initialization.csv", cohort.digest, float_format="%.3g")
    return [*paths, out / "ring_initialization.csv"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the profiles and decay laws of the runs named on the command line."""
    command_line.run(__doc__, TABLES, write, arguments, study=Path(__file__).parent)


if __name__ == "__main__":
    main()
