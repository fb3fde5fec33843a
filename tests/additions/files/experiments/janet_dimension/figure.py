"""Dimension of JANET's states beside the GRU's along the latch.

Usage: ``python -m experiments.janet_dimension.figure``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradhorizon.analysis import command_line
from gradhorizon.analysis.figures.state_dimension import TABLES, write


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure of the runs named on the command line, by default of the study's records."""
    command_line.run(__doc__, TABLES, write, arguments, study=Path(__file__).parent)


if __name__ == "__main__":
    main()
