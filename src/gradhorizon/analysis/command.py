"""Figures, table and report of runs, what was found, and which files to open: the program ``gradhorizon-report``.

Usage: ``gradhorizon-report RUNS… [--out DIR] [--partial] [--only NAME…]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain
from pathlib import Path

from rich.console import Console

from gradhorizon.analysis import command_line, figures, verdicts
from gradhorizon.analysis.reading import provenance
from gradhorizon.analysis.reading.cohort import Cohort, open_lines
from gradhorizon.analysis.report import report
from gradhorizon.analysis.report.findings import findings
from gradhorizon.records.tables import AbsentTableError, RecordsError

TABLES = ("metrics", "input_gradients", "parameter_gradients")
"""What every run measures unless it is told otherwise; a member without one of them is named."""
TABLE, PAGE = "verdicts", "report"


def write(cohort: Cohort, out: Path) -> list[Path]:
    """Write everything and say what was found; returns the files to open, the report last.

    Args:
        cohort: what is drawn.
        out: folder to write to.
    """
    drawn = _figures(cohort, out, list(figures.found()), is_asked=False)
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


def write_only(names: Sequence[str], cohort: Cohort, out: Path) -> list[Path]:
    """Write some of it; returns all paths.

    Args:
        names: of figures, ``verdicts`` or ``report``.
        cohort: what is drawn.
        out: folder to write to.

    Raises:
        AbsentTableError: no run recorded what one of the figures draws.
    """
    drawn = _figures(cohort, out, [name for name in names if name not in (TABLE, PAGE)], is_asked=True)
    tables = verdicts.write(cohort, out) if TABLE in names else []
    return [*drawn, *tables, *(report.write(cohort, out) if PAGE in names else [])]


def _figures(cohort: Cohort, out: Path, names: Sequence[str], is_asked: bool) -> list[Path]:
    paths: list[Path] = []
    for name in names:
        with nullcontext() if is_asked else suppress(AbsentTableError):  # which `command_line` says once, for all
            drawn = figures.found()[name].write(cohort, out)
            if is_asked and not drawn:
                raise RecordsError(f"`{name}` has nothing to draw: no number, or nothing that another figure lacks")
            paths += drawn
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Write everything about the runs named on the command line, or what is asked for."""
    parser = command_line.parser(__doc__, name="gradhorizon-report")
    modules = figures.found()
    names = [*modules, TABLE, PAGE]
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    options = parser.parse_args(arguments)
    if not options.only:
        command_line.draw(options, TABLES, write)
        return
    options.partial |= options.only == [PAGE]  # which lists what is missing
    drawn = [getattr(modules.get(name), "TABLES", TABLES) for name in options.only if name != PAGE]
    command_line.draw(options, list(dict.fromkeys(chain(*drawn))), partial(write_only, options.only))


if __name__ == "__main__":
    main()
