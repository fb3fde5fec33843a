"""Cost of records that prove themselves: reading and writing them with digests, against the same files without.

Reading pools a table of all members, each file held against its digest, beside the same members as they were before
files were listed. Writing is one commit of a member (parts of its tables, checkpoint, sheet), beside the same commit
that hashes and lists nothing; both bring every file to the disk.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.table import Result, as_table, run_alone
from benchmarks.timing import interleaved, ratio, threads
from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.records import seals
from gradhorizon.records.files import write_json
from gradhorizon.records.launches import Launch
from gradhorizon.records.layout import MEMBER_SHEET, RUN_SHEET, member_folder
from gradhorizon.records.listing import Listing
from gradhorizon.records.reading import read_runs
from gradhorizon.records.tables import METRICS, Table
from gradhorizon.records.writing import MemberRecords
from gradhorizon.training.ensemble import Member
from gradhorizon.training.recorder import MemberFiles

MOST_OF_READING = 1.10
MOST_OF_WRITING = 1.02
_OF_SEALS = {"files", "superseded", "digest"}
_SEEDS = 5
_ROWS = 400  # of a profile: two probes at 200 lags
_LEAD = {"experiment": "e", "run": "r", "model": "m", "task": "t", "seq_len": 200, "input_len": 200}


def measure(rounds: int = 10, num_threads: int = 1, num_members: int = 1000, hidden_size: int = 64) -> pd.DataFrame:
    """Ratios of reading and of writing with digests to the same without.

    Args:
        rounds: interleaved repetitions.
        num_threads: CPU threads.
        num_members: members that are read.
        hidden_size: of the network whose checkpoint is written.
    """
    with threads(num_threads), tempfile.TemporaryDirectory() as folder:
        return as_table([*_reading(Path(folder), rounds, num_members), *_writing(Path(folder), rounds, hidden_size)])


def _reading(folder: Path, rounds: int, num_members: int) -> Iterator[Result]:
    table = InputGradients.table
    for number in range(max(num_members // _SEEDS, 1)):
        _write_run(folder / "sealed" / f"run-{number:010x}", table, number)
    shutil.copytree(folder / "sealed", folder / "bare")
    for path in (folder / "bare").rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({key: content[key] for key in content.keys() - _OF_SEALS}), encoding="utf-8")
    passes = {name: partial(_pooled, folder / name, table) for name in ("sealed", "bare")}
    seconds = interleaved(passes, rounds)
    yield Result("read with digests / without", f"{num_members} members", ratio(seconds, "sealed", "bare"),
                 MOST_OF_READING)  # fmt: skip


def _pooled(folder: Path, table: Table) -> pd.DataFrame:
    return read_runs([folder]).table(table.name)


def _write_run(folder: Path, table: Table, number: int) -> None:
    facts = {"color": "#000000", "marker": "o", "num_parameters": 1, "hidden_size": 1, "num_steps": 1,
             "clip_norm": None, "results_version": 1, "identity": f"{number:010x}", "chance": {}}  # fmt: skip
    write_json({**_LEAD, **facts, "run": folder.name, "status": "finished", "outcomes": {}}, folder / RUN_SHEET)
    for seed in range(_SEEDS):
        member = member_folder(folder, seed)
        records = MemberRecords(member, {**_LEAD, "run": folder.name, "seed": seed})
        records.append(table, _rows(table), 0, "init")
        records.merge()
        sheet = {"seed": seed, "status": "finished", "outcome": "solved", "outcome_step": 1, "step": 1, "launch": {}}
        write_json({**sheet, **records.listing.plain}, member / MEMBER_SHEET)


def _rows(table: Table, num_rows: int = _ROWS) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    own = table.columns
    return pd.DataFrame({
        column.name: generator.standard_normal(num_rows) if column.dtype == "float64"
        else ["word"] * num_rows if column.dtype == "string" else np.arange(num_rows) % 2 == 0
        if column.dtype == "bool" else np.arange(num_rows)
        for column in own
    })  # fmt: skip


def _writing(folder: Path, rounds: int, hidden_size: int) -> Iterator[Result]:
    with _member(hidden_size) as (member, optimizer):
        numbers = count()
        passes = {
            "sealed": lambda: _sealed_commit(folder / f"sealed-{next(numbers)}", member, optimizer),
            "bare": lambda: _bare_commit(folder / f"bare-{next(numbers)}", member, optimizer),
        }
        seconds = interleaved(passes, rounds)
    yield Result("write with digests / without", f"a commit, LSTM H{hidden_size}", ratio(seconds, "sealed", "bare"),
                 MOST_OF_WRITING)  # fmt: skip


@contextmanager
def _member(hidden_size: int) -> Iterator[tuple[Member, dict[str, Any]]]:
    with torch.random.fork_rng(devices=[]):
        member = Member(0, lambda: torch.nn.LSTM(2, hidden_size))  # type: ignore[arg-type, return-value]
        optimizer = torch.optim.Adam(member.network.parameters())
        sum(parameter.sum() for parameter in member.network.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()
        yield member, optimizer.state_dict()


def _sealed_commit(folder: Path, member: Member, optimizer: dict[str, Any]) -> None:
    records = MemberRecords(folder, {**_LEAD, "seed": 0})
    records.append(METRICS, _rows(METRICS, 20), 5, "train")
    records.append(InputGradients.table, _rows(InputGradients.table), 5, "train")
    MemberFiles(folder, records, Launch([0], {}), "0" * 10).commit(member, optimizer, 5)
    shutil.rmtree(folder)


@contextmanager
def _without_digests() -> Iterator[None]:
    """Nothing is hashed, and no file is listed."""
    original, plain = seals.digest, Listing.plain
    seals.digest = lambda content: ""  # noqa: ARG005
    Listing.plain = {}  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        seals.digest, Listing.plain = original, plain  # type: ignore[method-assign]


def _bare_commit(folder: Path, member: Member, optimizer: dict[str, Any]) -> None:
    with _without_digests():
        _sealed_commit(folder, member, optimizer)


if __name__ == "__main__":
    run_alone(measure, __doc__)
