"""What every analysis program is called with, and how it refuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gradhorizon.analysis.reading.cohort import Cohort, absence, read_cohort
from gradhorizon.records.out_folder import refuse_unfit
from gradhorizon.records.tables import RecordsError
from gradhorizon.terminal.program import Refusals, refusing
from gradhorizon.terminal.words import show_any_text

_REFUSALS: Refusals = {
    RecordsError: str,
    UnicodeEncodeError: lambda error: (
        f"a label or the name of a folder is no Unicode text, got {error.object[:80]!a}; rename it"
    ),
    MemoryError: lambda _: "there is not memory enough to draw all of these runs at once; name fewer of them",
}


def parser(description: str | None, study: Path | None = None, name: str | None = None) -> argparse.ArgumentParser:
    """A parser for ``RUNS… [--out DIR] [--partial]``.

    Args:
        description: the program's docstring; its first paragraph is shown by ``--help``.
        study: the folder of a study, which is redrawn from its own records into itself where nothing else is named.
        name: of the program; as it was called if None.
    """
    found = argparse.ArgumentParser(prog=name, description=(description or "").split("\n\n", maxsplit=1)[0])
    runs, default, out = "run folders, experiment folders or runs roots, pooled", [], Path("figures")
    if study is not None:
        runs, default, out = f"{runs} (default: the study's records)", [study / "records"], study
    found.add_argument("runs", nargs="*" if default else "+", default=default, type=Path, help=runs)
    found.add_argument("--out", type=Path, default=out, help=f"folder to write to (default: {out.name})")
    found.add_argument("--partial", action="store_true", help="go on without unfinished members")
    return found


def draw(options: argparse.Namespace, tables: Sequence[str], write: Callable[[Cohort, Path], Sequence[Path]]) -> None:
    """Read runs, write what `write` makes of them, and print the paths.

    Args:
        options: of `parser`.
        tables: tables that are drawn; what members lack of them is said.
        write: writes into a folder and returns the paths.
    """
    show_any_text()
    with refusing(_REFUSALS):
        refuse_unfit(options.out)
        cohort = read_cohort(options.runs, is_partial=options.partial)
        paths = write(cohort, options.out)
        absent = absence(cohort, tables)
    if absent:
        print(f"note: {absent}", file=sys.stderr)
    for path in paths:
        print(path)


def run(
    description: str | None,
    tables: Sequence[str],
    write: Callable[[Cohort, Path], Sequence[Path]],
    arguments: Sequence[str] | None = None,
    study: Path | None = None,
) -> None:
    """A whole program: `parser`, then `draw`.

    Args:
        description: the program's docstring.
        tables: tables that are drawn.
        write: writes into a folder and returns the paths.
        arguments: the command line; the process's own if None.
        study: the folder of a study, for its own figure.
    """
    draw(parser(description, study).parse_args(arguments), tables, write)
