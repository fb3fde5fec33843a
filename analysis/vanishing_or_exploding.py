"""Who vanishes and who explodes before and after training: growth rates with intervals over seeds, one line a model.

Usage: ``python analysis/vanishing_or_exploding.py RUNS… [--out DIR]``. Of each task's longest sequences.
"""

from __future__ import annotations

from pathlib import Path

from gradhorizon.analysis import command_line, verdicts
from gradhorizon.analysis.drawing.saving import save_table
from gradhorizon.analysis.reading.cohort import Cohort

STAGES = ("init", "trained")


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Show the table and write it as CSV; returns its path."""
    table = verdicts.summarise(cohort)
    longest = table[table["seq_len"] == table.groupby("task")["seq_len"].transform("max")]
    numbers = [f"{name}_{stage}" for stage in STAGES for name in ("rate", "rate_low", "rate_high", "verdict")]
    chosen = longest.sort_values("rate_init")[["series", "task", "seq_len", *numbers]]
    print(chosen.to_string(index=False, float_format="{:+.4f}".format))
    return [save_table(chosen, out / "vanishing_or_exploding.csv", cohort.digest)]


if __name__ == "__main__":
    command_line.run(__doc__, ("input_gradients",), write)
