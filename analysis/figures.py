"""Everything at once: figures, table and report of a sweep, what was found, and which files to open.

Usage: ``python -m analysis.figures RUNS… [--out DIR] [--partial]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from analysis import (
    command_line,
    gradient_profile,
    provenance,
    report,
    sequence_length_scaling,
    training_curves,
    verdicts,
)
from analysis.cohort import Cohort, open_lines
from analysis.findings import findings
from gradhorizon.records.tables import AbsentTableError

TABLES = ("metrics", "input_gradients", "parameter_gradients")


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write everything and say what was found; returns the files to open, the report last.

    Args:
        cohort: what is drawn.
        out: folder to write to.
    """
    drawn: list[Path] = []
    for module in (gradient_profile, sequence_length_scaling, training_curves):
        with suppress(AbsentTableError):  # which `analysis.command_line` says once, for all
            drawn += module.write(cohort, out)
    table = verdicts.summarise(cohort)
    tables, pages = verdicts.save(table, out, cohort.digest), report.write(cohort, out)
    verdicts.show(table)
    console = Console(width=verdicts.TERMINAL_WIDTH, highlight=False, emoji=False)
    console.print("What was found", style="bold")
    for sentence in findings(table, provenance.unseen(cohort)):
        console.print(f"• {sentence}", markup=False)
    if cohort.sweep.open_members:
        console.print("\nWhat is missing", style="bold")
        console.print("\n".join((*cohort.sweep.summary, *open_lines(cohort.sweep))), markup=False, soft_wrap=True)
    console.print("\nWhich files to open", style="bold")
    profiles = [path for path in drawn if path.suffix == ".png" and path.name.startswith("gradient_profile")]
    return [*tables[1:], *profiles, *pages]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write everything about the runs named on the command line."""
    command_line.run(__doc__, TABLES, write, arguments)


if __name__ == "__main__":
    main()
