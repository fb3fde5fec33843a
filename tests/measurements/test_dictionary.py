"""The data dictionary names every table, and the committed document is the generated one."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradhorizon import measurements
from gradhorizon.measurements import dictionary
from gradhorizon.measurements.measurement import Measurement
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.tables import LEAD_COLUMNS, METRICS, Column, Table
from tests.shipped import shipped

ROOT = Path(__file__).parents[2]


def test_committed_document_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradhorizon.measurements.dictionary"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs" / "records.md").read_text(encoding="utf-8") == done.stdout


def test_every_shipped_measurement_has_its_table() -> None:
    assert set(shipped("measurement")) <= {table.name for table in dictionary.tables()}


def test_metrics_come_first_and_the_rest_by_name() -> None:
    names = [table.name for table in dictionary.tables()]
    assert names == ["metrics", *sorted(names[1:])]


@pytest.mark.parametrize("column", [*LEAD_COLUMNS, *METRICS.columns], ids=lambda column: column.name)
def test_document_states_unit_and_meaning_of_a_column(column: Column) -> None:
    row = f"| `{column.name}` | {column.dtype} | {column.unit} | {column.description} |"
    assert row in dictionary.data_dictionary([METRICS]).splitlines()


def test_two_tables_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twin(Measurement):
        table = Table("metrics", "another table under a taken name", ())

    monkeypatch.setattr(measurements.measurement, "Twin", Twin, raising=False)
    with pytest.raises(RecordsError, match="two named `metrics`"):
        dictionary.tables()


def test_tables_are_found_in_modules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkgutil, "iter_modules", lambda _: iter(()))
    assert dictionary.tables() == [METRICS]
