"""What every analysis program is called with, and how it refuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.cohort import Cohort, absence, read_cohort
from gradhorizon.records.out_folder import refuse_unfit
from gradhorizon.records.tables import RecordsError
from gradhorizon.terminal.words import show_any_text


@dataclass(frozen=True)
class Options:
    """Where to read and where to write.

    Attributes:
        folders: run folders, experiment folders or runs roots; pooled.
        out: folder for what is written.
        is_partial: whether unfinished members are tolerated.
    """

    folders: tuple[Path, ...]
    out: Path
    is_partial: bool


def parse(description: str | None, arguments: Sequence[str] | None = None) -> Options:
    """Options from the command line.

    Args:
        description: the program's docstring; its first paragraph is shown by ``--help``.
        arguments: the command line; the process's own if None.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, experiment folders or runs roots, pooled")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder to write to (default: figures)")
    parser.add_argument("--partial", action="store_true", help="go on without unfinished members")
    found = parser.parse_args(arguments)
    return Options(tuple(found.runs), found.out, found.partial)


def own() -> list[str]:
    """The process's own command line, without the program."""
    return sys.argv[1:]


def run(
    description: str | None,
    tables: Sequence[str],
    write: Callable[[Cohort, Path], Sequence[Path]],
    arguments: Sequence[str] | None = None,
) -> None:
    """Read runs, write what `write` makes of them, and print the paths.

    Args:
        description: the program's docstring.
        tables: tables that are drawn; what members lack of them is said.
        write: writes into a folder and returns the paths.
        arguments: the command line; the process's own if None.
    """
    options = parse(description, arguments)
    show_any_text()
    try:
        refuse_unfit(options.out)
        cohort = read_cohort(options.folders, is_partial=options.is_partial)
        paths = write(cohort, options.out)
        absent = absence(cohort, tables)
    except RecordsError as error:
        sys.exit(f"Error: {error}")
    except UnicodeEncodeError as error:
        sys.exit(f"Error: a label or the name of a folder is no Unicode text, got {error.object[:80]!a}; rename it")
    except MemoryError:
        sys.exit("Error: there is not memory enough to draw all of these runs at once; name fewer of them")
    if absent:
        print(f"note: {absent}", file=sys.stderr)
    for path in paths:
        print(path)
