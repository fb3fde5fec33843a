"""From which lag on each number format has lost the gradient, and how wrong it is on the way.

Usage: ``python -m experiments.precision_horizon.figure``, which redraws the committed records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.precision_horizon import precision_error, precision_horizon
from gradhorizon.analysis import command_line
from gradhorizon.analysis.reading.cohort import Cohort


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write both figures; returns their paths."""
    return [*precision_horizon.write(cohort, out), *precision_error.write(cohort, out)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the study, or the runs named on the command line."""
    command_line.run(__doc__, precision_horizon.TABLES, write, arguments, study=Path(__file__).parent)


if __name__ == "__main__":
    main()
