"""Two experiments in one figure: each model's gradient horizon at the end of training in one against the other.

Usage: ``python analysis/two_experiments.py runs/<one> runs/<other> [--out DIR]``. A point is the median over seeds, of
models that both experiments have, on one task at one length.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gradhorizon.analysis import command_line
from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.reading.cohort import Cohort
from gradhorizon.analysis.reading.tables import Tables
from gradhorizon.records.tables import RecordsError


def draw(paired: pd.DataFrame) -> Figure:
    """A point for each model, task and length; on the diagonal nothing has changed."""
    figure, axes = appearance.panels(1, 1)
    (one, other), ax = paired.columns, axes[0, 0]
    for row in paired.reset_index().to_dict("records"):
        label = appearance.short(f"{row['model']}, {row['task']}, T = {row['seq_len']}")
        ax.plot(row[one], row[other], "o", label=label)
    ax.axline((1, 1), slope=1, color=appearance.QUIET, linewidth=0.8)
    ax.set(xlabel=f"gradient horizon in {one} [steps]", ylabel=f"in {other} [steps]")
    appearance.finish(
        figure, "Two experiments", [ax.get_legend_handles_labels()[0]], "Median over seeds, after training."
    )
    return figure


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write the figure; returns its paths."""
    horizons = Tables(cohort).horizons()
    last = horizons[horizons["step"] == horizons.groupby(["experiment", "run", "seed"])["step"].transform("max")]
    paired = last.pivot_table("horizon_steps", ["model", "task", "seq_len"], "experiment", "median").dropna()
    if paired.shape[1] != 2 or paired.empty:  # noqa: PLR2004
        raise RecordsError(f"name two experiments with models in common, got {sorted(last['experiment'].unique())}")
    return appearance.save({"two_experiments": partial(draw, paired)}, out)


if __name__ == "__main__":
    command_line.run(__doc__, ("input_gradients",), write)
