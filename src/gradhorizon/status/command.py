"""How far is a sweep? Reads run folders, again and again until all is done, and writes nothing.

A run is running while its process lives (on this host it is looked up; elsewhere its last sign of life, written every
10 s, must be younger than 60 s), failed, stale (its process died without a word), unreadable, queued (it waits, or was
interrupted; the same command goes on with it), missing (a sweep has asked for it, or for members of it, that never
began) or finished. Steps are as of each member's last commit. Speeds are those of the last few commits; time left
assumes them, and that nothing is solved before its budget ends. What sweeps have asked for lies in the experiment's
folder, in sweeps/: remove a file there, or a failed run's folder, and it is asked for no longer. A folder that cannot
be looked into counts as an unreadable run.

exit code: 0 if every run is finished; 1 if one is failed, stale or unreadable, or if there is none; 75 if all is well
so far, but runs are running, queued or missing
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from gradhorizon.machine.stopping import EXIT_CODE
from gradhorizon.records.errors import RecordsError
from gradhorizon.status.lines import lines, tracebacks
from gradhorizon.status.sweep import BROKEN, SweepLook, SweepReader, document
from gradhorizon.terminal.program import parser_of, program

_EXAMPLES = """\
examples:
  gradhorizon-status                                   what lies in runs/, until all is done
  gradhorizon-status runs/my_experiment --failed       why runs failed
  gradhorizon-status runs --json | jq .totals          for programs
"""
_QUIET_S = 30.0  # a sweep in which nothing runs for so long is over; between two runs of one process it is not


def main(arguments: Sequence[str] | None = None) -> int:
    """Show what the command line names; returns the exit code.

    Args:
        arguments: the command line; the process's own if None.
    """
    options = _parser().parse_args(arguments)
    return program(lambda: _shown_as_asked(options), {RecordsError: str})


def _shown_as_asked(options: argparse.Namespace) -> int:
    reader = SweepReader(options.runs)
    look = reader.read()
    if not look.runs or look.found.absent:
        raise RecordsError(f"{_missing(look, options.runs)}; name run folders, experiment folders or runs roots")
    look.found.say_notes()
    console = Console(highlight=False, markup=False, emoji=False)
    if options.json:
        sys.stdout.write(json.dumps(document(look), indent=2, allow_nan=False) + "\n")
    elif options.failed:
        console.print(*tracebacks(look), sep="\n", soft_wrap=True)
    elif options.once or not console.is_terminal:
        console.print(_shown(look, console, options.all))
    else:
        look = _watch(reader, look, console, options)
    return _exit_code(look)


def _exit_code(look: SweepLook) -> int:
    if any(look.num_runs[status] for status in BROKEN):
        return 1
    return 0 if look.num_runs["finished"] == len(look.runs) else EXIT_CODE


def _missing(look: SweepLook, places: Sequence[Path]) -> str:
    absent = look.found.absent
    words = [f"{place} (no such folder)" if place in absent else str(place) for place in (absent or places)]
    return f"no run found at or below {', '.join(words)}"


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("gradhorizon-status", __doc__, _EXAMPLES)
    runs = "run folders, experiment folders or runs roots (default: runs)"
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], metavar="RUNS", help=runs)
    parser.add_argument("--all", action="store_true", help="every run on a line of its own, finished ones too")
    parser.add_argument("--once", action="store_true", help="print once and leave; so it is where there is no terminal")
    parser.add_argument(
        "--interval", type=_positive, default=2.0, metavar="S", help="seconds between looks (default: 2)"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--failed", action="store_true", help="print why runs failed, with their tracebacks, instead")
    instead.add_argument("--json", action="store_true", help="print nothing but a JSON document instead")
    return parser


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, got {text}")
    return number


def _watch(reader: SweepReader, look: SweepLook, console: Console, options: argparse.Namespace) -> SweepLook:
    """Show it until all is done; returns the last look."""
    screen = Live(_shown(look, console, options.all), console=console, auto_refresh=False)
    with suppress(KeyboardInterrupt), screen as live:
        while not _is_over(look):
            time.sleep(options.interval)
            look = reader.read()
            live.update(_shown(look, console, options.all), refresh=True)
    return look


def _is_over(look: SweepLook) -> bool:
    changed_at_s = max(run.changed_at_s for run in look.runs)
    return look.is_over and look.at_s - changed_at_s > _QUIET_S


def _shown(look: SweepLook, console: Console, show_all: bool) -> Group:
    return Group(*lines(look, console.width, show_all))


if __name__ == "__main__":
    sys.exit(main())
