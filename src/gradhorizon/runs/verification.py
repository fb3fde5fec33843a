"""Whether a run on disk is what was written: every file of it read, and held against what lists it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from gradhorizon.records.checkpoints import load_checkpoint
from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.files import read_json, read_listed, write_atomically, write_json
from gradhorizon.records.layout import (
    CHECKPOINT,
    CONFIG,
    FAILURE,
    MEMBER_SHEET,
    RUN_SHEET,
    is_of_a_process,
    member_folder,
    member_name,
    seeds_in,
)
from gradhorizon.records.listing import FILES, Listing, table_of
from gradhorizon.records.parquet import entry_of_table, read_parquet
from gradhorizon.records.seals import KEY, Entry, SealError, opened_text, sealed_text
from gradhorizon.records.sheets import check, look_at_run_sheet, read_member_sheet
from gradhorizon.runs.locks import members_locked

SEALED_LATER = "sealed_at_s"
"""In ``member.json``: when files were listed that had been recorded before; seconds since 1970."""

_CHECKPOINT_REMEDY = "launch its run again, which trains the member from its start"


@dataclass
class Verdict:
    """What was found of one run.

    Attributes:
        folder: its folder.
        num_members: members that have a folder.
        num_files: files that were read.
        num_sealed_later: members whose files were listed after they had been recorded, as they were found then.
        unsealed: files that carry no digest and are listed nowhere: nobody can tell whether they were altered.
        problems: what is missing, or is not what was written; one line each.
        notes: what is there and is no record.
    """

    folder: Path
    num_members: int = 0
    num_files: int = 0
    num_sealed_later: int = 0
    unsealed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def word(self) -> str:
        """Damaged, unsealed or whole."""
        return "damaged" if self.problems else "unsealed" if self.unsealed else "whole"


def verify_run(folder: Path) -> Verdict:
    """What was found of the run in `folder`; never raises for what lies there.

    Args:
        folder: the run's folder.
    """
    found = Verdict(folder)
    run = _sheet(found, folder / RUN_SHEET, lambda: look_at_run_sheet(folder)[0]) or {}
    _check(found, folder / CONFIG, lambda: _config(found, folder, run))
    if (folder / FAILURE).exists():
        _sheet(found, folder / FAILURE, lambda: _failure(folder / FAILURE))
    seeds = seeds_in(folder)
    found.num_members = len(seeds)
    for seed in seeds:
        _member(found, member_folder(folder, seed), seed, run)
    outcomes = run.get("outcomes")
    for seed in outcomes if isinstance(outcomes, dict) else ():
        if seed.isdecimal() and int(seed) not in seeds:
            found.problems.append(f"{member_name(int(seed))} is missing: {RUN_SHEET} tells how it ended")
    return found


def _check(found: Verdict, path: Path, read: Callable[[], object]) -> None:
    try:
        read()
    except FileNotFoundError:
        found.problems.append(f"{path.relative_to(found.folder)} is missing")
    except RecordsError as error:
        fact = error.fact if isinstance(error, DamagedFileError) else str(error)
        found.problems.append(fact.replace(f"{found.folder}/", ""))
    else:
        found.num_files += 1


def _failure(path: Path) -> dict[str, Any]:
    content = read_json(path)
    check(content, path, "FailureSheet")
    return content


def _sheet(found: Verdict, path: Path, look: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    content: dict[str, Any] = {}

    def read() -> None:
        content.update(look())
        if KEY not in content:
            found.unsealed.append(str(path.relative_to(found.folder)))

    if not path.exists():
        found.problems.append(f"{path.relative_to(found.folder)} is missing")
        return None
    _check(found, path, read)
    return content or None


def _config(found: Verdict, folder: Path, run: dict[str, Any]) -> None:
    path = folder / CONFIG
    content = read_listed(path, folder, _entry(run, CONFIG, folder / RUN_SHEET))
    try:
        _, is_sealed = opened_text(content)
    except SealError as error:
        raise DamagedFileError(f"{path} {error}") from error
    if not is_sealed:
        found.unsealed.append(CONFIG)


def _entry(sheet: dict[str, Any], name: str, path: Path) -> Entry | None:
    listing = Listing.read(sheet, path)
    return None if listing is None else listing.files.get(name)


def _member(found: Verdict, member: Path, seed: int, run: dict[str, Any]) -> None:
    sheet = _sheet(found, member / MEMBER_SHEET, lambda: read_member_sheet(member))
    if sheet is None:
        return
    for name, value in (("seed", seed), ("identity", run.get("identity"))):
        if sheet.get(name, value) != value:
            found.problems.append(f"{member.name}/{MEMBER_SHEET} is another member's: its {name} is {sheet[name]}")
    found.num_sealed_later += SEALED_LATER in sheet
    try:
        listing = Listing.read(sheet, member / MEMBER_SHEET)
    except DamagedFileError as error:
        found.problems.append(error.fact.replace(f"{found.folder}/", ""))
        return
    if listing is None:
        found.unsealed += [f"{member.name}/{path}" for path in _files(member) if not path.endswith(MEMBER_SHEET)]
        return
    for path, entry in listing.files.items():
        _check(found, member / path, lambda path=path, entry=entry: _listed(member / path, path, entry, seed))  # type: ignore[misc]
    if (member / CHECKPOINT).exists() and CHECKPOINT not in listing.files:
        _check(found, member / CHECKPOINT, lambda: _checkpoint(member, seed, run.get("identity")))
    known = {*listing.files, *listing.superseded, MEMBER_SHEET, CHECKPOINT}
    found.notes += [f"{member.name}/{path} is no record: nothing lists it" for path in _files(member) - known]


def _listed(path: Path, name: str, entry: Entry, seed: int) -> None:
    if table_of(name) is None:
        read_listed(path, path.parents[2], entry)
        return
    table = read_parquet(path, entry)
    if table.num_rows != entry.rows:
        raise DamagedFileError(f"{path} has {table.num_rows} rows, and {entry.rows} were committed")
    if "seed" in table.column_names and not pc.all(pc.equal(table["seed"], seed)).as_py():
        raise DamagedFileError(f"{path} holds rows of another seed")


def _checkpoint(member: Path, seed: int, identity: object) -> None:
    path = member / CHECKPOINT
    content = load_checkpoint(path, _CHECKPOINT_REMEDY)
    for name, value in (("seed", seed), ("identity", identity)):
        if content.get(name, value) != value:
            raise DamagedFileError(f"{path} is another member's: its {name} is {content[name]}")


def _files(member: Path) -> set[str]:
    """What lies in a member's folder and is no process's own, nor set aside."""
    paths = (path for path in member.rglob("*") if path.is_file() and not is_of_a_process(path.name))
    return {path.relative_to(member).as_posix() for path in paths}


def seal(folder: Path) -> Iterator[str]:
    """List what is there of the finished members of a run that was recorded before files were listed.

    What is listed so is what was found, which need not be what was written: ``member.json`` says when it was sealed.

    Args:
        folder: the run's folder.

    Returns:
        What was done, a line each.

    Raises:
        MemberHeldError: a process is at one of the members.
        RecordsError: a file cannot be read; the members before it are sealed.
    """
    run = read_json(folder / RUN_SHEET)
    for seed in seeds_in(folder):
        member = member_folder(folder, seed)
        with members_locked(folder, [seed], "sealed"):
            content = read_json(member / MEMBER_SHEET)
            if FILES in content:
                continue
            if content.get("status") != "finished":
                yield f"{member.name} is not finished: it is sealed as its training goes on"
                continue
            listing = Listing({path: _entry_of(member, path) for path in sorted(_files(member) - {MEMBER_SHEET})})
            sheet = {**content, "identity": run["identity"], SEALED_LATER: time.time(), **listing.plain}
            write_json(sheet, member / MEMBER_SHEET)
            yield f"{member.name}: {len(listing.files)} files are sealed as they were found"
    yield from _seal_run(folder, run)


def _entry_of(member: Path, path: str) -> Entry:
    return (
        Entry.of(read_listed(member / path, member, None)) if table_of(path) is None else entry_of_table(member / path)
    )


def _seal_run(folder: Path, run: dict[str, Any]) -> Iterator[str]:
    path = folder / CONFIG
    if KEY in run or not path.is_file():
        return
    text, is_sealed = opened_text(path.read_bytes())
    if not is_sealed:
        write_atomically(sealed_text(text.decode()), path)
    write_json({**run, FILES: {CONFIG: Entry.of(path.read_bytes()).plain}}, folder / RUN_SHEET)
    if (folder / FAILURE).is_file():
        write_json(read_json(folder / FAILURE), folder / FAILURE)
    yield f"{RUN_SHEET} and {CONFIG} are sealed as they were found"
