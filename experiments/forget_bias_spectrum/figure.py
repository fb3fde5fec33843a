r"""The LSTM's leading exponent against its forget bias: over the full state, and over the hidden state alone.

Usage: ``python -m experiments.forget_bias_spectrum.figure``. One figure: both on the left, the full
state enlarged on the right.
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

from gradhorizon.analysis import command_line
from gradhorizon.analysis.drawing import appearance, spectra
from gradhorizon.analysis.reading.cohort import Cohort
from gradhorizon.theory import expected_decay_of_forget_bias

TABLES = ("lyapunov_spectrum", "hidden_block_spectrum")
PATHS = {"bias": "model.cell.initialization.value"}
FIRST_ENLARGED_BIAS = 1.0
LABELS = {"lyapunov_spectrum": "full state (h, c)", "hidden_block_spectrum": "h alone, as in public code"}
LOOKS: dict[str, dict[str, Any]] = {
    "lyapunov_spectrum": {"color": "#08519c", "marker": "o"},
    "hidden_block_spectrum": {"color": "#D55E00", "marker": "s"},
}


def summarise(cohort: Cohort) -> pd.DataFrame:
    """Leading exponent of every forget bias over seeds, over the full state and over the hidden state alone.

    Columns: table (which of `TABLES`), bias (b), num_seeds; leading, leading_low, leading_high, leading_error,
    expected (ln σ(b); all in nats per step); window_steps.
    """
    parts = []
    for name in TABLES:
        first = spectra.exponents_at_init(cohort, name, PATHS).query("rank == 1").rename(columns={"value": "leading"})
        means = spectra.over_seeds(first, ["bias"], "leading")
        parts.append(means.assign(table=name, window_steps=first["window_steps"].iloc[0]))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(expected=[expected_decay_of_forget_bias(bias) for bias in table["bias"]])


def plot(table: pd.DataFrame, ax: Axes) -> None:
    """Leading exponents against the forget bias, over the full state and over the hidden state alone, with theory.

    Args:
        table: rows of `summarise`.
        ax: the panel.
    """
    ax.axhline(0, color=appearance.QUIET, linewidth=0.6, zorder=1)
    biases = np.linspace(table["bias"].min(), table["bias"].max(), 200)
    ax.plot(biases, [expected_decay_of_forget_bias(bias) for bias in biases], **spectra.THEORY, zorder=1.5)
    for name, rows in table.groupby("table"):
        spectra.plot_points(rows, ax, "bias", "leading", **LOOKS[str(name)])


def draw(table: pd.DataFrame) -> Figure:
    """The figure, from rows of `summarise`."""
    figure, axes = appearance.panels(1, 2, height_in=2.6)
    left, right = axes[0]
    plot(table, left)
    plot(table[(table["table"] == TABLES[0]) & (table["bias"] >= FIRST_ENLARGED_BIAS)], right)
    left.set(xlabel="forget bias b [–]", ylabel=r"largest exponent $\lambda_1$ [nats/step]")
    right.set(xlabel="forget bias b [–]", title="the full state, enlarged")
    handles = [Line2D([], [], label=LABELS[name], markersize=4.5, **look) for name, look in LOOKS.items()]
    handles.append(Line2D([], [], **spectra.THEORY, label="theory: ln σ(b), forget gate alone"))
    footnote = (
        f"LSTM at initialisation along the task's input, {table['window_steps'].iloc[0]} steps from the zero state. "
        f"{spectra.seeds_in_words(table)}"
    )
    appearance.finish(figure, "Does the exponent see the forget bias?", [handles], footnote)
    return figure


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write the figure; returns its paths."""
    return appearance.save({"forget_bias_spectrum": partial(draw, summarise(cohort))}, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the exponents of the runs named on the command line."""
    command_line.run(__doc__, TABLES, write, arguments, study=Path(__file__).parent)


if __name__ == "__main__":
    main()
