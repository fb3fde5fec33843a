"""Checks that runs on disk are what was written, byte by byte.

Every file that a run's sheets list is read and held against its digest: what
is missing, cut short, altered, exchanged or in excess is named. What was
recorded before files were listed is unsealed, and can only be read: with
--seal, what is there now is listed as it was found. Nothing else is written.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradhorizon.config import ConfigError
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.reading import read_runs
from gradhorizon.runs.verification import Verdict, seal, verify_run
from gradhorizon.status.sweep import run_folders
from gradhorizon.terminal.program import parser_of, program
from gradhorizon.terminal.words import counted, printable

log = logging.getLogger(__name__)

_EPILOG = """\
examples:
  gradhorizon-verify runs/quickstart          an experiment, run by run
  gradhorizon-verify runs --seal              list what older versions recorded

exit code: 0 if nothing is wrong; 1 if something is, or if there is no run
"""
_STYLES = {"damaged": "bold red", "unsealed": "yellow", "whole": "green"}
_SHOWN = 20  # runs without a problem
_SAID = 100  # problems and notes of one run
_WIDTH = 160  # columns, where there is no terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the runs that the command line names; returns the exit code.

    Args:
        arguments: the command line; the process's own if None.
    """
    options = _parser().parse_args(arguments)
    return program(lambda: _verified(options), {RecordsError: str})


def _verified(options: argparse.Namespace) -> int:
    folders = sorted({folder.resolve() for place in options.runs for folder in run_folders(place)})
    if not folders:
        raise RecordsError(f"no run found at or below {', '.join(map(str, options.runs))}")
    is_sealed = not options.seal or _seal(folders)
    width = None if Console().is_terminal else _WIDTH
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)
    verdicts = [verify_run(folder) for folder in folders]
    console.print(_table(verdicts))
    for verdict in verdicts:
        said = [*verdict.problems, *(f"note: {note}" for note in verdict.notes)]
        for words in said[:_SAID]:
            console.print(printable(f"{verdict.folder.name}: {words}"))
        if len(said) > _SAID:
            console.print(printable(f"{verdict.folder.name}: … and {len(said) - _SAID} more"))
    console.print(_summary(verdicts))
    if not any(verdict.problems for verdict in verdicts):
        _say_digest(console, folders)
    return int(not is_sealed or any(verdict.problems for verdict in verdicts))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("gradhorizon-verify", __doc__, _EPILOG)
    runs = "run folders, experiment folders or runs roots"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=runs)
    parser.add_argument("--seal", action="store_true", help="list what finished members hold that nothing lists yet")
    return parser


def _seal(folders: Sequence[Path]) -> bool:
    """Whether all that was there could be sealed."""
    is_whole = True
    for folder in folders:
        try:
            for words in seal(folder):
                log.info("%s: %s", folder.name, words)
        except (ConfigError, RecordsError) as error:
            log.error("%s is not sealed: %s", folder.name, error)  # noqa: TRY400, it is no failure of this program
            is_whole = False
    return is_whole


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("state", "left"),
        ("members", "right"),
        ("files read", "right"),
        ("unsealed", "right"),
        ("wrong", "right"),
        ("run", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    calm = [verdict for verdict in verdicts if not verdict.problems]
    for verdict in [*(verdict for verdict in verdicts if verdict.problems), *calm[:_SHOWN]]:
        counts = (verdict.num_members, verdict.num_files, len(verdict.unsealed), len(verdict.problems))
        table.add_row(Text(verdict.word, _STYLES[verdict.word]), *map(str, counts), printable(verdict.folder.name))
    if len(calm) > _SHOWN:
        table.add_row(*[""] * 5, f"… and {len(calm) - _SHOWN} more without a problem")
    return table


def _summary(verdicts: Sequence[Verdict]) -> str:
    num_problems = sum(len(verdict.problems) for verdict in verdicts)
    num_unsealed = sum(len(verdict.unsealed) for verdict in verdicts)
    num_files = sum(verdict.num_files for verdict in verdicts)
    words = f"{counted(len(verdicts), 'run')}, {num_files} files read: "
    words += f"{num_problems} wrong" if num_problems else "nothing wrong"
    if num_unsealed:
        words += f", as far as they are listed; {num_unsealed} are not (--seal lists them as they are)"
    num_later = sum(verdict.num_sealed_later for verdict in verdicts)
    if num_later:
        words += f"; {num_later} members were sealed after they had been recorded, as they were found then"
    return words


def _say_digest(console: Console, folders: Sequence[Path]) -> None:
    try:
        console.print(f"digest of their records, as in report and tables: {read_runs(folders).digest}")
    except RecordsError as error:  # such as runs of two versions, which have no figure in common
        console.print(f"they cannot be drawn together: {error}")


if __name__ == "__main__":
    sys.exit(main())
