"""How far back each variant reaches before it has learned anything, and how that depends on the length.

Usage: ``python -m experiments.reach_at_initialization.figure``, which redraws the committed records.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradhorizon.analysis import command_line
from gradhorizon.analysis.figures import gradient_profile, sequence_length_scaling
from gradhorizon.analysis.reading.cohort import Cohort


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write both figures; returns their paths."""
    return [*gradient_profile.write(cohort, out), *sequence_length_scaling.write(cohort, out)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the study, or the runs named on the command line."""
    command_line.run(__doc__, gradient_profile.TABLES, write, arguments, study=Path(__file__).parent)


if __name__ == "__main__":
    main()
