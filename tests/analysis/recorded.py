"""Records of any table with values that a test knows, written as a run writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gradhorizon.measurements.dictionary import tables
from gradhorizon.records.layout import RECORDS
from gradhorizon.records.parquet import write_parquet
from gradhorizon.records.tables import Column, Table
from tests.records_on_disk import list_as_found
from tests.synthetic_runs import SyntheticRun

TABLES = {table.name: table for table in tables()}
_EMPTY: Mapping[str, Any] = {"string": "", "bool": True, "int64": 0, "float64": 0.0}


def record(run: SyntheticRun, root: Path, table: str, members: Iterable[pd.DataFrame]) -> None:
    """Write a table of a run's members below `root`, beside what is there.

    Args:
        run: whose members they are; written if it is not yet there.
        root: folder of runs.
        table: its name.
        members: rows of each, with step and phase; a column that is not given is empty, 0 or true.
    """
    folder = root / run.experiment / run.name
    if not folder.exists():
        run.write(root)
    lead = {name: getattr(run, name) for name in ("experiment", "model", "task", "seq_len", "input_len")}
    for seed, rows in enumerate(members, start=run.first_seed):
        own = _completed(TABLES[table], rows.assign(**lead, run=run.name, seed=seed))
        write_parquet(TABLES[table].to_arrow(own), folder / f"seed-{seed}" / RECORDS / f"{table}.parquet")
        list_as_found(folder / f"seed-{seed}", seed)


def _completed(table: Table, rows: pd.DataFrame) -> pd.DataFrame:
    absent: list[Column] = [column for column in table.columns if column.name not in rows]
    return rows.assign(**{column.name: _EMPTY[column.dtype] for column in absent})
