"""Holes, doubles and exchanges: files of a member that are whole, and not the ones that belong where they lie."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradhorizon.records.layout import CHECKPOINT, CONFIG, KEPT, MEMBER_SHEET, RECORDS, RUN_SHEET
from gradhorizon.records.layout import member_folder, part_name, steps_in, table_path
from tests.torture_flips import Row, quiet_readers
from tests.torture_programs import relaunched
from tests.torture_readers import READERS, SKIPPED, Outcome, outcomes
from tests.torture_specimens import FINISHED, OTHER, SEEDS, UNFINISHED, Specimens, is_part

_ASKED = ("tables", "status", "cohort", "measure", "push", "resume", "verify")


@dataclass(frozen=True)
class Hole:
    """One thing done to a copy of a run.

    Attributes:
        kind: row of the table.
        specimen: the run that is copied.
        title: what is done, for people.
        do: does it to the copy's folder; returns a word that names what is wrong.
        may_be_ignored: whether readers may leave the thing out with, or without, a word.
        is_launched: whether a launch can end at the bits of the undisturbed run.
    """

    kind: str
    specimen: str
    title: str
    do: Callable[[Path], str]
    may_be_ignored: bool = False
    is_launched: bool = True


def holes(specimens: Specimens) -> Iterator[Hole]:
    """All of them, in every position."""
    for specimen in (FINISHED, UNFINISHED):
        run = specimens.places[specimen]
        files = [path.relative_to(run) for path in specimens_files(run)]
        for path in files:
            yield Hole("removed", specimen, f"{path} removed", lambda copy, path=path: _removed(copy / path))
            yield from _exchanged(specimens, specimen, path)
            if path.suffix == ".parquet":
                yield from _rewritten(specimen, path)
                yield from _doubled(specimens, specimen, path)
        yield from _folders(specimens, specimen)


def specimens_files(run: Path) -> list[Path]:
    """The files whose place matters: tables, parts, checkpoints and sheets."""
    return [
        path for path in sorted(run.rglob("*"))
        if path.is_file() and (path.suffix in (".parquet", ".pt") or path.name in (MEMBER_SHEET, RUN_SHEET, CONFIG))
    ]  # fmt: skip


def _removed(path: Path) -> str:
    path.unlink()
    return path.name


def _put(source: Path, target: Path) -> str:
    shutil.copy(source, target)
    return target.name


def _exchanged(specimens: Specimens, specimen: str, path: Path) -> Iterator[Hole]:
    run = specimens.places[specimen]
    other_run = specimens.places[OTHER if specimen == FINISHED else FINISHED] / path
    other_seed = run / path.as_posix().replace(f"seed-{SEEDS[0]}/", f"seed-{SEEDS[1]}/", 1)
    sources = {"the other seed's": other_seed, "another run's": other_run, "its neighbour's": _neighbour(run / path)}
    for whose, source in sources.items():
        if source is not None and source.is_file() and source != run / path:
            if source.read_bytes() != (run / path).read_bytes():
                yield Hole("exchanged", specimen, f"{path} is {whose}",
                           lambda copy, source=source: _put(source, copy / path))  # fmt: skip
    for number, content in enumerate(specimens.older_versions(run / path)):
        yield Hole("an older version", specimen, f"{path} is its version {number}",
                   lambda copy, content=content: _written(copy / path, content), may_be_ignored=True)  # fmt: skip


def _neighbour(path: Path) -> Path | None:
    """A file of the same kind beside it: another checkpoint, another table, or that table's part of the same steps."""
    if is_part(path):
        same = (folder / path.name for folder in sorted(path.parents[1].iterdir()) if folder.name != path.parent.name)
        return next((one for one in same if one.is_file()), None)
    beside = (one for one in sorted(path.parent.iterdir()) if one.suffix == path.suffix != ".json" and one != path)
    return next(beside, None)


def _written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return path.name


def _doubled(specimens: Specimens, specimen: str, path: Path) -> Iterator[Hole]:
    del specimens
    if not is_part(path):
        yield Hole("an extra file", specimen, f"{path} also as a table of another name",
                   lambda copy: _put(copy / path, (copy / path).with_name("never_measured.parquet")))  # fmt: skip
        yield Hole("an odd name", specimen, f"a copy of {path}", may_be_ignored=True,
                   do=lambda copy: _put(copy / path, (copy / path).with_name(f"{path.stem} (copy).parquet")))  # fmt: skip
        return
    first, last = steps_in(path.name) or (0, 0)
    ranges = {"the same range plus one": (first, last + 1), "a range within": (first + 1, last - 1),
              "a range that overlaps": (last, last + 5), "a range far beyond": (10**6, 10**6 + 3)}  # fmt: skip
    for words, steps in ranges.items():
        yield Hole("doubled", specimen, f"{path} also under {words}",
                   lambda copy, steps=steps: _put(copy / path, (copy / path).with_name(part_name(*steps))))  # fmt: skip
    yield Hole("renumbered", specimen, f"{path} under another range",
               lambda copy: _renamed(copy / path, part_name(first, last + 2)))  # fmt: skip
    yield Hole("an odd name", specimen, f"a copy of {path}", may_be_ignored=True,
               do=lambda copy: _put(copy / path, (copy / path).with_name(f"{path.stem} (copy).parquet")))  # fmt: skip
    yield Hole("an extra file", specimen, f"a whole table beside {path}",
               lambda copy: _put(copy / path, table_path((copy / path).parents[2], path.parent.name)))  # fmt: skip


def _renamed(path: Path, name: str) -> str:
    path.rename(path.with_name(name))
    return name


def _rewritten(specimen: str, path: Path) -> Iterator[Hole]:
    changes: dict[str, Callable[[pa.Table], pa.Table]] = {
        "a row dropped": lambda table: table.slice(1),
        "its last row dropped": lambda table: table.slice(0, table.num_rows - 1),
        "all rows dropped": lambda table: table.slice(0, 0),
        "a row twice": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        "rows in another order": lambda table: table.take(list(reversed(range(table.num_rows)))),
        "a number changed by one ulp": _one_ulp,
        "a column of another type": lambda table: table.set_column(0, table.schema.names[0], pa.nulls(table.num_rows)),
    }
    for words, change in changes.items():
        yield Hole("rewritten", specimen, f"{path}: {words}", lambda copy, change=change: _changed(copy / path, change))


def _one_ulp(table: pa.Table) -> pa.Table:
    index = next(i for i, field in enumerate(table.schema) if pa.types.is_floating(field.type))
    values = np.array(table.column(index).to_numpy())
    values[0] = np.nextafter(values[0], np.inf)
    return table.set_column(index, table.schema.field(index), pa.array(values))


def _changed(path: Path, change: Callable[[pa.Table], pa.Table]) -> str:
    pq.write_table(change(pq.read_table(path, partitioning=None)), path, compression="zstd")
    return path.name


def _folders(specimens: Specimens, specimen: str) -> Iterator[Hole]:
    first, second = (f"seed-{seed}" for seed in SEEDS)
    other = specimens.places[OTHER]
    for name in (RECORDS, KEPT):
        yield Hole("a folder", specimen, f"{first}/{name} removed",
                   lambda copy, name=name: _gone(copy / first / name))  # fmt: skip
    yield Hole("a folder", specimen, f"{first} and {second} exchanged", lambda copy: _swapped(copy / first, copy / second))
    yield Hole("a folder", specimen, f"{second} renamed seed-7", lambda copy: _renamed(copy / second, "seed-7"),
               is_launched=specimen == UNFINISHED)
    yield Hole("a folder", specimen, f"{first} of another run", lambda copy: _replaced(member_folder(other, 0), copy / first))
    for words in (f"{first}.old", f"{first} copy", "archive"):
        yield Hole("a neighbour", specimen, f"{words} beside {first}", may_be_ignored=True,
                   do=lambda copy, words=words: _replaced(copy / first, copy / words))  # fmt: skip
    yield Hole("a folder", specimen, f"{first}/{CHECKPOINT} alone",
               lambda copy: [_gone(copy / first / RECORDS), _removed(copy / first / MEMBER_SHEET)][0],
               is_launched=specimen == UNFINISHED)  # fmt: skip
    yield Hole("an older version", specimen, f"outcomes of {RUN_SHEET} emptied", lambda copy: _emptied(copy / RUN_SHEET))


def _gone(folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    return folder.parent.name


def _swapped(first: Path, second: Path) -> str:
    spare = first.with_name("spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    return first.name


def _replaced(source: Path, target: Path) -> str:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target.name


def _emptied(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "outcomes": {}}), encoding="utf-8")
    return path.name


class Holes:
    """Makes holes in copies of runs, and asks the readers and a launch what they make of them.

    Args:
        specimens: what is copied.
        folder: where to, always the same, so that paths in what is read are the same.
        seed: of what is left out when not all are made.
    """

    def __init__(self, specimens: Specimens, folder: Path, seed: int = 0) -> None:
        self.specimens = specimens
        self.folder = folder
        self.before = {specimen: self._undisturbed(specimen) for specimen in (FINISHED, UNFINISHED)}
        self.dice = random.Random(seed)  # noqa: S311
        self.readers: dict[str, Row] = {}
        self.launches: dict[str, Row] = {}

    def run(self, share: float = 1.0, launches: int | None = None) -> None:
        """Make a share of all holes; those that are launched again are drawn from them.

        Args:
            share: of all, at least one of each kind.
            launches: how many launches; one for each hole if None.
        """
        every = list(holes(self.specimens))
        self.dice.shuffle(every)
        firsts = list({(hole.kind, hole.specimen): hole for hole in every}.values())
        others = [hole for hole in every if hole not in firsts]
        chosen = firsts + others[: max(round(share * len(every)) - len(firsts), 0)]
        for hole in chosen:
            _count(self.readers, hole, *self._read(hole))
        for hole in [one for one in chosen if one.is_launched][:launches]:
            found = relaunched(self.specimens, hole.specimen, hole.do)
            kind = "same" if found.kind == "silent" and _is_left_alone(hole, found.words) else found.kind
            _count(self.launches, hole, kind, found.words.strip().splitlines()[-1:])

    def _read(self, hole: Hole) -> tuple[str, list[str]]:
        answer, question = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                quiet_readers()
                os.write(question, json.dumps(self._worst(hole)).encode())
            finally:
                os._exit(0)
        os.close(question)
        with os.fdopen(answer, encoding="utf-8") as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        return tuple(json.loads(text)) if text else ("tracebacks", ["the reader died"])  # type: ignore[return-value]

    def _worst(self, hole: Hole) -> tuple[str, list[str]]:
        copy = self.specimens.copied(hole.specimen, self.folder)
        try:
            name = hole.do(copy)
            return worst(hole, name, self.before[hole.specimen], self._outcomes(hole.specimen, copy))
        finally:
            shutil.rmtree(copy)

    def _outcomes(self, specimen: str, copy: Path) -> dict[str, Outcome]:
        names = [name for name in _ASKED if (specimen, name) not in ((FINISHED, "resume"), (UNFINISHED, "measure"))]
        places = {"run": copy, "experiment": copy.parent}
        return outcomes(places, {name: READERS[name] for name in names}, SEEDS)

    def _undisturbed(self, specimen: str) -> dict[str, Outcome]:
        copy = self.specimens.copied(specimen, self.folder)
        try:
            return self._outcomes(specimen, copy)
        finally:
            shutil.rmtree(copy)


def worst(hole: Hole, name: str, before: dict[str, Outcome], now: dict[str, Outcome]) -> tuple[str, list[str]]:
    """The worst that readers make of a hole, and where that is.

    Args:
        hole: what was done.
        name: a word that names what is wrong.
        before: what readers made of the whole run.
        now: what they make of it now.
    """
    each = {label: _one(hole, name, before.get(label), now.get(label)) for label in {**before, **now}}
    refusing = {label.partition(":")[0] for label, one in each.items() if one in ("named", "unnamed")}
    each = {label: one for label, one in each.items() if label in now or label.partition(":")[0] not in refusing}
    for kind in ("tracebacks", "silent", "unnamed", "named"):
        labels = [label for label, one in each.items() if one == kind]
        if labels:
            said = now.get(labels[0])
            return kind, [labels[0], (said.words if said else "gone")[:160]]
    return "same", []


def _one(hole: Hole, name: str, before: Outcome | None, now: Outcome | None) -> str:
    if now is not None and now.kind == "traceback":
        return "tracebacks"
    if now is not None and before is not None and now.kind == before.kind and (now.digest == before.digest):
        return "same"
    earlier = before.words if before is not None else ""
    if now is not None and any(now.words.count(word) > earlier.count(word) for word in (name, SKIPPED)):
        return "named"
    if now is None:  # a thing that is no longer read is a hole
        return "same" if before is not None and before.kind != "value" else "silent"
    if hole.may_be_ignored and now.kind == "value":
        return "same"
    return "unnamed" if now.kind == "refused" else "silent"


def _is_left_alone(hole: Hole, words: str) -> bool:
    return hole.specimen == FINISHED and hole.may_be_ignored and "changed" not in words


def _count(rows: dict[str, Row], hole: Hole, kind: str, example: list[str]) -> None:
    row = rows.setdefault(f"{hole.kind}, {hole.specimen}", Row())
    row.flips += 1
    setattr(row, kind, getattr(row, kind) + 1)
    if kind in ("silent", "unnamed", "tracebacks"):
        row.examples.append(f"{hole.specimen}: {hole.title}: {kind}: {' '.join(example)}")

