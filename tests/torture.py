"""Runs killed, flipped, torn, exchanged, handed over by strangers, and owned twice: what of them is read as truth.

``python -m tests.torture --out docs/torture.md`` writes a table for each of these; the exit code is 1 if anything was
read that was not recorded, or ended a program other than in words. ``--only flips`` does one chapter alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from gradhorizon.records import writing
from gradhorizon.records.layout import SWEEPS
from tests.torture_flips import Flip, Flips, Row
from tests.torture_holes import Holes
from tests.torture_hostile import Hostile, Visits
from tests.torture_kills import MOST_KILLS, Kills, report
from tests.torture_owners import Meetings, Owners
from tests.torture_programs import complaint, disturbed_copy, programs, relaunched, relaunching
from tests.torture_specimens import FINISHED, KINDS, SEEDS, UNFINISHED, Specimens, make


@dataclass(frozen=True)
class Chapter:
    """One chapter of the report.

    Attributes:
        title: its heading.
        words: what was done.
        tables: in Markdown.
        complaints: what failed, a line each; empty if all held.
    """

    title: str
    words: str
    tables: str
    complaints: list[str]


def table(rows: Mapping[str, Any], kind: type, first: str) -> str:
    """Counts in Markdown, with their sums.

    Args:
        rows: title -> the counts.
        kind: a dataclass of counts and examples.
        first: heading of the titles.
    """
    names = [field.name for field in fields(kind) if field.name != "examples"]
    sums = {name: sum(getattr(row, name) for row in rows.values()) for name in names}
    lines = [f"| {first} | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for title, row in rows.items():
        lines.append(f"| {title} | {' | '.join(str(getattr(row, name)) for name in names)} |")
    return "\n".join([*lines, f"| **all** | {' | '.join(map(str, sums.values()))} |"]) + "\n"


def _examples(rows: Iterable[Any]) -> list[str]:
    return [words for row in rows for words in row.examples if row.has_failed]


def kills(folder: Path, options: argparse.Namespace) -> Chapter:
    """Launches killed at every moment."""
    found = Kills(folder, options.seed)
    found.run(options.kills)
    complaints = [words for tally in found.tallies.values() for words in (*tally.complaints, *tally.unsaid)]
    complaints += [f"{phase}: rows differ" for phase, tally in found.tallies.items() if tally.differing]
    without = (
        f"\n\nLeft out, since no launch of this version does so: {', '.join(found.left_out)}." if found.left_out else ""
    )
    return Chapter(
        "Kills, and what they cost",
        KILLS.format(members=len(SEEDS), again=MOST_KILLS) + without,
        report(found.tallies),
        complaints,
    )


def flips(specimens: Specimens, options: argparse.Namespace) -> Chapter:
    """Files disturbed one at a time."""
    found = Flips(specimens, options.seed)
    found.run(options.flips)
    again = {kind: Row() for kind in KINDS if KINDS[kind][0] in (FINISHED, UNFINISHED)}
    called = {kind: Row() for kind in KINDS}
    for number, kind in enumerate(_drawn(list(again), options.relaunches, options.seed)):
        _relaunch(found, kind, number, again[kind])
    for number, kind in enumerate(_drawn(list(called), options.samples, options.seed)):
        _call(found, kind, number, called[kind])
    tables = [
        table(found.rows, Row, "file"),
        "Launched again:\n",
        table(_done(again), Row, "file"),
        "Before the programs themselves:\n",
        table(_done(called), Row, "file"),
    ]
    rows = [*found.rows.values(), *again.values(), *called.values()]
    sys.stderr.write(f"{found.flips_per_s:.1f} flips/s\n")
    return Chapter("Flips", FLIPS, "\n".join(tables), _examples(rows))


def _drawn(kinds: list[str], count: int, seed: int) -> list[str]:
    """Kinds in turn, from a place that the seed draws."""
    start = random.Random(seed).randrange(len(kinds))  # noqa: S311
    return [kinds[(start + number) % len(kinds)] for number in range(count)]


def _done(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {kind: row for kind, row in rows.items() if row.flips}


def _disturbing(found: Flips, kind: str, number: int) -> tuple[Flip, Callable[[Path], str]]:
    flip = found.flip(kind, -1 - number)
    place = found.specimens.places[KINDS[kind][0]]

    def disturb(copy: Path) -> str:
        (copy / flip.path.relative_to(place)).write_bytes(flip.content)
        return flip.path.name

    return flip, disturb


def _relaunch(found: Flips, kind: str, number: int, row: Row) -> None:
    flip, disturb = _disturbing(found, kind, number)
    ended = relaunched(found.specimens, KINDS[kind][0], disturb)
    is_unread = ended.kind == "silent" and KINDS[kind][0] == FINISHED and kind.startswith(("config", "run.json"))
    row.add("same" if is_unread else ended.kind, f"{kind}, {flip.way}, launched again: {ended.words.strip()[-200:]}")


def _call(found: Flips, kind: str, number: int, row: Row) -> None:
    flip, disturb = _disturbing(found, kind, number)
    specimen = KINDS[kind][0]
    with disturbed_copy(found.specimens, specimen, disturb) as root:
        commands = programs(root, root.parent / "out")
        if specimen in (FINISHED, UNFINISHED):
            commands["launch"] = relaunching(root, specimen)
        for name, command in commands.items():
            why, shown = complaint(command, root.parent)
            told = "named" if flip.path.name in shown and specimen != SWEEPS else "same"
            row.add("tracebacks" if why else told, f"{kind}, {flip.way}, {name}: {why}")


def holes(specimens: Specimens, folder: Path, options: argparse.Namespace) -> Chapter:
    """Files that are missing, doubled, or of another place."""
    found = Holes(specimens, folder, options.seed)
    found.run(options.share, options.hole_launches)
    tables = [table(found.readers, Row, "read"), table(found.launches, Row, "launched again")]
    return Chapter(
        "Holes, doubles, exchanges",
        HOLES,
        "\n".join(tables),
        _examples([*found.readers.values(), *found.launches.values()]),
    )


def hostile(specimens: Specimens, options: argparse.Namespace) -> Chapter:
    """A stranger's folders before every program."""
    found = Hostile(specimens, options.seed)
    found.run(options.share)
    return Chapter("Hostile folders", HOSTILE, table(found.visits, Visits, "folders"), _examples(found.visits.values()))


def owners(folder: Path, options: argparse.Namespace) -> Chapter:
    """Two processes at one run."""
    found = Owners(folder, options.seed)
    found.run(options.rounds)
    return Chapter("Owners", OWNERS, table(found.meetings, Meetings, "meeting"), _examples(found.meetings.values()))


KILLS = """\
A small run of {members} members, which commits at every validation or at its end alone, is killed with `SIGKILL`,
launched again, killed again up to {again} times, and left to finish. Its records are then compared with those of an
undisturbed run, row by row and bit by bit. Meanwhile another process reads the records all the time; each view of a
table must be a beginning of the undisturbed one: no half row, no row twice, no gap. Moments are drawn at random: of the
clock, or among the calls of one kind that an undisturbed launch makes."""
FLIPS = """\
One file at a time of small runs is disturbed: one bit, a burst of bytes, a sector of zeros, cut short, bytes appended,
or an older version of itself. Everything that reads such files then reads: *named* is what was refused, or said, with
the file's name; *same* what is the same to the bit; *silent* another value of which nobody said a word; *unnamed* a
refusal without the file's name. Of some, the run is launched again and its records compared with undisturbed ones, and
the programs themselves are called."""
HOLES = """\
Each file of a finished run and of an unfinished one, in turn, is removed, doubled, renumbered, exchanged, or rewritten
as a valid file with other rows; folders are renamed and exchanged. Columns as under *Flips*."""
HOSTILE = """\
Folders as a stranger could hand them over, before every program and a launch. *Executed* counts sentinels that
appeared, *changed* files outside the run that are no longer as they were, *too long* more than 60 s of processor or an
endless wait, *shown* control characters, scripts or secrets that came through."""
OWNERS = """\
A launch is stopped with `SIGSTOP` for longer than its claim lives, another one takes over and finishes, and the first
is woken: not a byte below the run may change. Launches of different seeds of one run at once keep each other's entries,
and their records are those of one launch of all seeds, to the bit."""
HEADING = "# Torture, and what it costs\n\n<!-- Written by `make torture`; do not edit. -->\n"
CHAPTERS = ("kills", "flips", "holes", "hostile", "owners")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CHAPTERS, action="append", help="a chapter alone; may be given again")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--flips", type=int, default=20)
    parser.add_argument("--relaunches", type=int, default=2, help="of runs with a flipped file")
    parser.add_argument("--samples", type=int, default=1, help="flips after which the programs themselves are called")
    parser.add_argument("--share", type=float, default=0.002, help="of holes and hostile folders; one of each kind")
    parser.add_argument("--hole-launches", type=int, default=2, help="of runs with a hole")
    parser.add_argument("--rounds", type=int, default=1, help="of each kind of meeting of owners")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Torture as much as asked for; returns the exit code."""
    options = _parser().parse_args(arguments)
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        chapters = _chapters(Path(folder), options)
    text = "\n".join([HEADING, *(f"## {one.title}\n\n{one.words}\n\n{one.tables}" for one in chapters)])
    sys.stdout.write(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    complaints = [words for chapter in chapters for words in chapter.complaints]
    sys.stderr.write("".join(f"{' '.join(words.split())}\n" for words in complaints))
    return int(bool(complaints))


def prepare() -> None:
    """Let this process train small runs quickly, and say nothing of it."""
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    torch.set_num_threads(1)
    writing._MERGED = 2
    os.fsync = lambda fd: None  # noqa: ARG005, nobody cuts the power, and a disk is slower than all else here


def _chapters(folder: Path, options: argparse.Namespace) -> list[Chapter]:
    chosen = options.only or CHAPTERS
    has_specimens = set(chosen) & {"flips", "holes", "hostile"}
    specimens: Any = make(folder / "specimens") if has_specimens else None
    write: dict[str, Callable[[], Chapter]] = {
        "kills": lambda: kills(folder / "kills", options),
        "flips": lambda: flips(specimens, options),
        "holes": lambda: holes(specimens, folder / "copies", options),
        "hostile": lambda: hostile(specimens, options),
        "owners": lambda: owners(folder / "owners", options),
    }
    found = []
    for name in (name for name in CHAPTERS if name in chosen):
        start = time.monotonic()
        found.append(write[name]())
        sys.stderr.write(f"{name}: {time.monotonic() - start:.0f} s, {len(found[-1].complaints)} complaints\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
