"""Holes, doubles and exchanges: files of a member that are whole, and not the ones that belong where they lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradhorizon.records.layout import (
    CHECKPOINT,
    CONFIG,
    KEPT,
    MEMBER_SHEET,
    RECORDS,
    RUN_SHEET,
    member_folder,
    part_name,
    steps_in,
    table_path,
)
from tests.torture_specimens import FINISHED, OTHER, SEEDS, UNFINISHED, Specimens, is_part


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
            # Of a member that goes on, nothing is read without its sheet.
            is_sheet = specimen == UNFINISHED and path.name == MEMBER_SHEET
            yield Hole("removed", specimen, f"{path} removed", _at(path, _removed), may_be_ignored=is_sheet)
            yield from _exchanged(specimens, specimen, path)
            if path.suffix == ".parquet":
                yield from _rewritten(specimen, path)
                yield from _doubled(specimens, specimen, path)
        yield from _folders(specimens, specimen)


def specimens_files(run: Path) -> list[Path]:
    """The files whose place matters: tables, parts, checkpoints and sheets."""
    return [
        path
        for path in sorted(run.rglob("*"))
        if path.is_file() and (path.suffix in (".parquet", ".pt") or path.name in (MEMBER_SHEET, RUN_SHEET, CONFIG))
    ]


def _at(path: Path, do: Callable[..., str], *values: Any) -> Callable[[Path], str]:
    """What is done to the file or folder `path` of a copy."""
    return lambda copy: do(copy / path, *values)


def _received(path: Path, source: Path) -> str:
    return _put(source, path)


def _copied(path: Path, name: str) -> str:
    return _put(path, path.with_name(name))


def _replaced_to(source: Path, name: str) -> str:
    return _replaced(source, source.with_name(name))


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
        is_another = source is not None and source.is_file() and source.read_bytes() != (run / path).read_bytes()
        if source is not None and is_another:
            yield Hole("exchanged", specimen, f"{path} is {whose}", _at(path, _received, source))
    for number, content in enumerate(specimens.older_versions(run / path)):
        yield Hole(
            "an older version",
            specimen,
            f"{path} is its version {number}",
            _at(path, _written, content),
            may_be_ignored=True,
        )


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
    odd = f"{path.stem} (copy).parquet"
    yield Hole(
        "an odd name",
        specimen,
        f"a copy of {path}",
        may_be_ignored=True,
        do=lambda copy: _put(copy / path, (copy / path).with_name(odd)),
    )
    if not is_part(path):
        yield Hole(
            "an extra file",
            specimen,
            f"{path} also as a table of another name",
            lambda copy: _put(copy / path, (copy / path).with_name("never_measured.parquet")),
        )
        return
    first, last = steps_in(path.name) or (0, 0)
    ranges = {
        "the same range plus one": (first, last + 1),
        "a range within": (first + 1, last - 1),
        "a range that overlaps": (last, last + 5),
        "a range far beyond": (10**6, 10**6 + 3),
    }
    for words, steps in ranges.items():
        yield Hole("doubled", specimen, f"{path} also under {words}", _at(path, _copied, part_name(*steps)))
    yield Hole(
        "renumbered",
        specimen,
        f"{path} under another range",
        lambda copy: _renamed(copy / path, part_name(first, last + 2)),
    )
    yield Hole(
        "an extra file",
        specimen,
        f"a whole table beside {path}",
        lambda copy: _put(copy / path, table_path((copy / path).parents[2], path.parent.name)),
    )


def _renamed(path: Path, name: str) -> str:
    path.rename(path.with_name(name))
    return f"{name}|{path.name}"


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
        yield Hole("rewritten", specimen, f"{path}: {words}", _at(path, _changed, change))


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
        yield Hole("a folder", specimen, f"{first}/{name} removed", _at(Path(first, name), _gone))
    yield Hole(
        "a folder",
        specimen,
        f"{first} and {second} exchanged",
        lambda copy: _swapped(copy / first, copy / second),
        is_launched=specimen == UNFINISHED,  # neither is the member that had ended, and both are trained
    )
    yield Hole(
        "a folder",
        specimen,
        f"{second} renamed seed-7",
        lambda copy: _renamed(copy / second, "seed-7"),
        is_launched=specimen == UNFINISHED,
    )
    yield Hole(
        "a folder",
        specimen,
        f"{first} of another run",
        lambda copy: _replaced(member_folder(other, 0), copy / first),
        is_launched=specimen == UNFINISHED,  # it is not the member that had ended, and is trained
    )
    for words in (f"{first}.old", f"{first} copy", "archive"):
        yield Hole(
            "a neighbour",
            specimen,
            f"{words} beside {first}",
            may_be_ignored=True,
            do=_at(Path(first), _replaced_to, words),
        )
    yield Hole(
        "a folder",
        specimen,
        f"{first}/{CHECKPOINT} alone",
        lambda copy: [_gone(copy / first / RECORDS), _removed(copy / first / MEMBER_SHEET)][0],
        is_launched=specimen == UNFINISHED,
        may_be_ignored=specimen == UNFINISHED,
    )
    yield Hole(
        "an older version", specimen, f"outcomes of {RUN_SHEET} emptied", lambda copy: _emptied(copy / RUN_SHEET)
    )


def _gone(folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    return folder.parent.name


def _swapped(first: Path, second: Path) -> str:
    spare = first.with_name("spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    return f"{first.name}|{second.name}"


def _replaced(source: Path, target: Path) -> str:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target.name


def _emptied(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "outcomes": {}}), encoding="utf-8")
    return path.name
