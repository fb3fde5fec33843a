"""How far back the gradient reaches: the profile of every model at the longest sequences alone.

Usage: ``python analysis/gradient_profile.py RUNS… [--out DIR]``. One figure per task; ``gradhorizon-report`` draws all
lengths side by side.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gradhorizon.analysis import command_line
from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.figures import gradient_profile
from gradhorizon.analysis.reading.cohort import Cohort


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write the figures; returns their paths."""
    table = gradient_profile.summarise(cohort)
    longest = table[table["seq_len"] == table.groupby("task")["seq_len"].transform("max")]
    paths = []
    for task, rows in longest.groupby("task"):
        footnote = gradient_profile.left_out(cohort, str(task))
        paths += appearance.save(
            {appearance.stem("longest", task): partial(gradient_profile.draw, rows, footnote)}, out
        )
    return paths


if __name__ == "__main__":
    command_line.run(__doc__, gradient_profile.TABLES, write)
