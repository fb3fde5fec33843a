"""Records of a study, without checkpoints and logs, in a folder that is committed and redrawn from.

Usage: ``gradhorizon-freeze RUNS --out experiments/<study>/records --tables input_gradients metrics``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.layout import CONFIG, MEMBER_SHEET, RECORDS, RUN_SHEET, table_path
from gradhorizon.records.listing import FILES, Listing
from gradhorizon.records.out_folder import refuse_unfit
from gradhorizon.records.parquet import entry_of_table
from gradhorizon.records.reading import read_member_rows, read_runs
from gradhorizon.records.seals import Entry, opened_text, sealed_text
from gradhorizon.records.tables import RecordsError
from gradhorizon.terminal.program import parser_of, refusing


def freeze(folders: Sequence[Path], tables: Sequence[str], out: Path) -> list[Path]:
    """Copy run and member files and the named tables of finished members; returns the run folders written.

    Args:
        folders: run folders, experiment folders or runs roots.
        tables: names of the tables to keep.
        out: folder to write to, which must not exist: nothing frozen is overwritten.

    Raises:
        RecordsError: `out` exists, a member is unfinished, or one has no such table.
    """
    if out.exists():
        raise RecordsError(f"{out} exists, and frozen records are not overwritten; name another folder or move it away")
    members = [Path(folder) for folder in read_runs(folders).members["folder"]]
    absent = [str(path) for member in members for path in _wanted(member, tables) if not path.is_file()]
    if absent:
        raise RecordsError(f"only finished members with all tables can be frozen, missing: {', '.join(absent[:4])}")
    for member in members:
        target = out / member.parent.name / member.name
        (target / RECORDS).mkdir(parents=True)
        _copy_member(member, target, tables)
    runs = {member.parent for member in members}
    for run in runs:
        _copy_run(run, out / run.name)
    return sorted(out / run.name for run in runs)


def _wanted(member: Path, tables: Sequence[str]) -> list[Path]:
    return [member / MEMBER_SHEET, *(table_path(member, name) for name in tables)]


def _copy_member(member: Path, target: Path, tables: Sequence[str]) -> None:
    files = {}
    for name in tables:
        _copy_table(member, name, table_path(target, name))
        path = table_path(target, name)
        files[path.relative_to(target).as_posix()] = entry_of_table(path)
    write_json({**read_json(member / MEMBER_SHEET), **Listing(files).plain}, target / MEMBER_SHEET)


def _copy_table(member: Path, name: str, target: Path) -> None:
    # Schema, statistics and dictionaries weigh 19 KiB in every file, more than the rows of most members.
    bare = {"store_schema": False, "write_statistics": False, "use_dictionary": False}
    pq.write_table(read_member_rows(member, name), target, compression="zstd", **bare)


def _copy_run(run: Path, target: Path) -> None:
    # Where the runs lay on the machine that trained them is nobody's business, and no part of a result.
    text, _ = opened_text((run / CONFIG).read_bytes())
    lines = [line for line in text.decode().splitlines() if not line.startswith("runs_dir:")]
    config = sealed_text("\n".join(lines) + "\n")
    (target / CONFIG).write_bytes(config)
    write_json({**read_json(run / RUN_SHEET), FILES: {CONFIG: Entry.of(config).plain}}, target / RUN_SHEET)


def main(arguments: Sequence[str] | None = None) -> None:
    """Freeze the runs named on the command line."""
    parser = parser_of("gradhorizon-freeze", __doc__, "")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, experiment folders or runs roots")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; must not exist")
    parser.add_argument("--tables", nargs="+", default=["input_gradients", "metrics"], help="tables to keep")
    options = parser.parse_args(arguments)
    torn = f"nothing whole is in {options.out}, remove it"
    with refusing({RecordsError: str, OSError: lambda error: f"{torn}: {error.filename}: {error.strerror}"}):
        refuse_unfit(options.out)
        written = freeze(options.runs, options.tables, options.out)
    print(f"{len(written)} runs frozen in {options.out}")


if __name__ == "__main__":
    main()
