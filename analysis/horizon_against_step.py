"""Does the gradient arrive while the network learns? The gradient horizon against the optimizer step.

Usage: ``python analysis/horizon_against_step.py RUNS… [--out DIR]``. One panel per task and length; a line per model,
the median over seeds.
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


def draw(horizons: pd.DataFrame, look: pd.DataFrame) -> Figure:
    """A panel for each task and length."""
    panels = list(horizons.groupby(["task", "seq_len"]))
    figure, axes = appearance.panels(1, len(panels))
    for ax, ((task, seq_len), rows) in zip(axes[0], panels, strict=True):
        for series, curve in rows.groupby("series"):
            median = curve.groupby("step")["horizon_steps"].median()
            ax.plot(median.index, median, **appearance.mark(look[look["series"] == series]))
        ax.set(title=f"{task},  T = {seq_len}", xlabel="optimizer step", ylabel="gradient horizon [steps]")
    note = "Median over seeds; a horizon beyond the longest lag counts as the longest lag."
    appearance.finish(figure, "The horizon while learning", [appearance.series_handles(look)], note)
    return figure


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write the figure; returns its paths."""
    return appearance.save({"horizon_while_learning": partial(draw, Tables(cohort).horizons(), cohort.look)}, out)


if __name__ == "__main__":
    command_line.run(__doc__, ("input_gradients",), write)
