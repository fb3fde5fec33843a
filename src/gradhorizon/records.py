r"""The schema of everything a run writes: tables in long format, one writer, one reader.

A member (one seed of a run) owns a folder::

    runs/<experiment>/<run>/
        config.yaml  run.json  log.txt
        seed-0/
            member.json  checkpoint.pt  checkpoints/<phase>.pt
            records/<table>.parquet                       once finished, or
            records/<table>/<first step>-<last step>.parquet   parts, while it trains

Parts are written by atomic rename just before the checkpoint that they belong to. On resume, parts that are later
than the checkpoint are set aside (renamed ``*.aside``), never counted twice and never deleted.
Imports neither torch nor Hydra, so that reading records is cheap.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gradhorizon.tables import LEAD_COLUMNS, METRICS, Column, RecordsError, Table

__all__ = [
    "LEAD_COLUMNS", "METRICS", "Column", "MemberRecords", "RecordsError", "Runs", "Table", "read_json",
    "read_member_table", "read_runs", "write_json", "write_parquet",
]  # fmt: skip

_PART = re.compile(r"(\d{8,})-(\d{8,})\.parquet$")


class MemberRecords:
    """Writes one member's rows: buffered, then committed in parts, then compacted.

    Args:
        folder: the member's folder.
        lead: values of the lead columns that are constant for the member.
        checkpoint_step: optimizer step of the checkpoint from which the member goes on, None if it starts. What is on
            disk and belongs to no checkpoint is set aside.

    Raises:
        RecordsError: a part that belongs to the checkpoint is damaged.
    """

    def __init__(self, folder: Path, lead: dict[str, Any], checkpoint_step: int | None = None) -> None:
        self.folder = folder / "records"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lead = lead
        self._next_step = checkpoint_step or 0
        self._rows: dict[str, tuple[Table, list[pd.DataFrame]]] = {}
        self.set_aside = [_put_aside(path) for path in self._of_no_checkpoint(checkpoint_step)]
        for path in self._parts():
            _read_parquet(path)

    def append(self, table: Table, rows: pd.DataFrame, step: int, phase: str) -> pd.DataFrame:
        """The rows with their lead columns, buffered until `commit`."""
        complete = rows.assign(**self._lead, step=step, phase=phase)
        self._rows.setdefault(table.name, (table, []))[1].append(complete)
        return complete

    def commit(self, last_step: int) -> None:
        """Write what is buffered as one part per table, named by the range of optimizer steps it covers."""
        for name, (table, frames) in self._rows.items():
            part = self.folder / name / f"{self._next_step:08d}-{last_step:08d}.parquet"
            write_parquet(table.to_arrow(pd.concat(frames, ignore_index=True)), part)
        self._rows.clear()
        self._next_step = last_step

    def compact(self) -> None:
        """Merge the parts of every table into one file; safe to repeat after a crash at any point."""
        for parts_folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            parts = _parts(parts_folder)
            whole = self.folder / f"{parts_folder.name}.parquet"
            # The whole appears at once: if it is there, a crash came while its parts were being removed.
            if parts and not whole.exists():
                write_parquet(pa.concat_tables([_read_parquet(path) for path in parts]), whole)
            for path in parts:
                path.unlink()
            if not any(parts_folder.iterdir()):
                parts_folder.rmdir()

    def _parts(self) -> list[Path]:
        return [path for folder in sorted(self.folder.iterdir()) if folder.is_dir() for path in _parts(folder)]

    def _of_no_checkpoint(self, checkpoint_step: int | None) -> list[Path]:
        if checkpoint_step is None:
            return [*self._parts(), *sorted(self.folder.glob("*.parquet"))]
        return [path for path in self._parts() if _part_range(path)[1] > checkpoint_step]


def _put_aside(path: Path) -> Path:
    return path.rename(_unused(path.with_suffix(".parquet.aside")))


def _unused(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}{number}")
    return candidate


def _part_range(path: Path) -> tuple[int, int]:
    match = _PART.search(path.name)
    if match is None:
        raise RecordsError(f"{path} is no part of a table: expected a name like 00000000-00000500.parquet")
    return int(match[1]), int(match[2])


def _parts(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if _PART.search(path.name)), key=_part_range)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write `table` to `path` by atomic rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write `content` to `path` by atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file.

    Raises:
        RecordsError: the file is cut short or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordsError(f"{path} cannot be read ({error}); move it out of the run and launch again") from error
    if not isinstance(content, dict):
        raise RecordsError(f"{path} holds {type(content).__name__}, expected a JSON object")
    return content


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise RecordsError(
            f"{path} is not a complete Parquet file ({error}). It was cut short, by a crash or a full disk; "
            "move the whole folder of its member (seed-…) out of the run and launch again: it is trained from its start"
        ) from error


def read_member_table(member: Path, name: str) -> pd.DataFrame | None:
    """All committed rows of one table of one member, or None if nothing was recorded.

    Args:
        member: the member's folder.
        name: the table's name.
    """
    finished = member / "records" / f"{name}.parquet"
    if finished.is_file():
        return _read_parquet(finished).to_pandas()
    folder = member / "records" / name
    parts = _parts(folder) if folder.is_dir() else []
    if not parts:
        return None
    return pa.concat_tables([_read_parquet(path) for path in parts]).to_pandas()


@dataclass(frozen=True)
class Runs:
    """Runs read from disk.

    Attributes:
        members: one row per member: the lead columns without step and phase, then ``color``, ``marker``,
            ``num_parameters``, ``hidden_size``, ``num_steps``, ``clip_norm``, ``status`` (running, finished, failed),
            ``outcome`` (solved, budget exhausted, diverged; missing while running), ``outcome_step``,
            ``results_version``, ``folder``.
        chance: one row per run and metric: run, metric, chance.
    """

    members: pd.DataFrame
    chance: pd.DataFrame

    def table(self, name: str) -> pd.DataFrame:
        """Rows of one table over all members.

        Raises:
            RecordsError: no member recorded it.
        """
        tables = [read_member_table(Path(folder), name) for folder in self.members["folder"]]
        present = [table for table in tables if table is not None]
        if not present:
            raise RecordsError(f"no run recorded `{name}`; add measurement={name} to the sweep and launch it again")
        return pd.concat(present, ignore_index=True)

    def members_without(self, name: str) -> pd.DataFrame:
        """Members that did not record the table `name`."""
        has = [read_member_table(Path(folder), name) is not None for folder in self.members["folder"]]
        return self.members[[not present for present in has]]


_RUN_FIELDS = ("experiment", "run", "model", "task", "seq_len", "input_len")
_RUN_EXTRA = ("color", "marker", "num_parameters", "hidden_size", "num_steps", "clip_norm", "results_version")


def read_runs(folders: Sequence[Path | str]) -> Runs:
    """All runs at or below `folders`, pooled.

    Args:
        folders: run folders, experiment folders or runs roots.

    Returns:
        Their members and chance values.

    Raises:
        RecordsError: no run there, one member twice, or results of different `results_version`.
    """
    files = sorted({path.resolve() for folder in folders for path in Path(folder).rglob("run.json")})
    if not files:
        raise RecordsError(f"no run found at or below {', '.join(map(str, folders))}: expected folders with a run.json")
    members: list[dict[str, Any]] = []
    chance: list[dict[str, Any]] = []
    for path in files:
        run = read_json(path)
        chance += [{"run": run["run"], "metric": metric, "chance": value} for metric, value in run["chance"].items()]
        members += [_member_row(run, path.parent / f"seed-{seed}") for seed in _seeds(run, path.parent)]
    if not members:
        raise RecordsError(f"no member has started yet at or below {', '.join(map(str, folders))}")
    table = pd.DataFrame(members)
    _refuse_mixtures(table)
    return Runs(table, pd.DataFrame(chance))


def _seeds(run: dict[str, Any], folder: Path) -> list[int]:
    # Seeds that a launch was asked for count as members even before they have a folder.
    launched = {seed for launch in run.get("launches", []) for seed in launch.get("seeds", [])}
    return sorted(launched | {_seed_of(member) for member in folder.glob("seed-*")})


def _seed_of(folder: Path) -> int:
    return int(folder.name.removeprefix("seed-"))


def _member_row(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    member = read_json(folder / "member.json") if (folder / "member.json").is_file() else {}
    return {
        **{name: run[name] for name in (*_RUN_FIELDS, *_RUN_EXTRA)},
        "identity": run["identity"],
        "seed": _seed_of(folder),
        "status": member.get("status", "running"),
        "outcome": member.get("outcome"),
        "outcome_step": member.get("outcome_step"),
        "folder": str(folder),
    }


def _refuse_mixtures(members: pd.DataFrame) -> None:
    versions = sorted(members["results_version"].unique())
    if len(versions) > 1:
        raise RecordsError(
            f"runs of different `results_version` cannot be pooled, got {versions}: their numbers differ by a change "
            "listed in CHANGELOG.md under **Affects results**; pass one version's folders, or launch the others again"
        )
    twice = members[members.duplicated(["identity", "seed"], keep=False)]
    if len(twice):
        folders = ", ".join(twice["folder"].iloc[:4])
        raise RecordsError(f"one member must not count twice, got the same run and seed in {folders}; pass one of them")
