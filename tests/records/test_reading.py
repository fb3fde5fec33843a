"""The records' writer and reader: parts, crashes, schemas, pooling."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.reading import read_member_table, read_runs
from gradhorizon.records.tables import METRICS
from gradhorizon.records.writing import MemberRecords
from tests.records_on_disk import LEAD, commit, end, list_files, resumed, rows, without_listing, written


def values(folder: Path) -> list[float]:
    table = read_member_table(folder, "metrics")
    assert table is not None
    return table["value"].tolist()


def test_rows_are_invisible_until_they_are_committed(tmp_path: Path) -> None:
    records = MemberRecords(tmp_path, LEAD)
    records.append(METRICS, rows(1.0), 5, "train")
    assert read_member_table(tmp_path, "metrics") is None
    commit(records, 10)
    assert values(tmp_path) == [1.0]


def test_parts_are_named_by_their_step_range_and_read_in_order(tmp_path: Path) -> None:
    written(tmp_path, 5, 10, 100)
    names = sorted(path.name for path in (tmp_path / "records" / "metrics").iterdir())
    assert names == ["00000000-00000005.parquet", "00000005-00000010.parquet", "00000010-00000100.parquet"]
    assert values(tmp_path) == [5.0, 10.0, 100.0]


def test_compacting_keeps_every_row_once(tmp_path: Path) -> None:
    end(written(tmp_path, 5, 10))
    assert values(tmp_path) == [5.0, 10.0]
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["metrics.parquet"]


def test_a_crash_while_parts_were_removed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    records = written(tmp_path, 5, 10)
    records.merge()
    list_files(records)
    next((tmp_path / "records" / "metrics").iterdir()).unlink()
    assert values(tmp_path) == [5.0, 10.0]
    resumed(tmp_path, checkpoint_step=10).remove_superseded()
    assert values(tmp_path) == [5.0, 10.0]
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["metrics.parquet"]


def test_a_crash_while_parts_were_removed_is_mended_where_files_were_not_listed(tmp_path: Path) -> None:
    records = written(tmp_path, 5, 10)
    parts = {path: path.read_bytes() for path in (tmp_path / "records" / "metrics").iterdir()}
    end(records)
    without_listing(tmp_path)
    survivor = max(parts)
    survivor.parent.mkdir()
    survivor.write_bytes(parts[survivor])
    assert values(tmp_path) == [5.0, 10.0]
    end(MemberRecords(tmp_path, LEAD, checkpoint_step=10))
    assert values(tmp_path) == [5.0, 10.0]
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["metrics.parquet"]


def test_a_temporary_file_of_a_killed_writer_is_no_part(tmp_path: Path) -> None:
    written(tmp_path, 5)
    (tmp_path / "records" / "metrics" / ".00000005-00000010.parquet.77.tmp").write_bytes(b"half a fi")
    assert values(tmp_path) == [5.0]


@pytest.mark.parametrize(("checkpoint_step", "kept"), [(None, []), (0, []), (5, [5.0]), (10, [5.0, 10.0])])
def test_parts_after_the_checkpoint_are_set_aside_and_kept_on_disk(
    tmp_path: Path, checkpoint_step: int | None, kept: list[float]
) -> None:
    written(tmp_path, 5, 10)
    records = MemberRecords(tmp_path, LEAD, checkpoint_step)
    list_files(records)
    table = read_member_table(tmp_path, "metrics")
    assert ([] if table is None else table["value"].tolist()) == kept
    assert len(records.set_aside) == 2 - len(kept)
    assert all(path.is_file() for path in records.set_aside)


def test_parts_set_aside_twice_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        records = MemberRecords(tmp_path, LEAD)
        records.append(METRICS, rows(value), 3, "train")
        commit(records, 5)
    MemberRecords(tmp_path, LEAD)
    aside = sorted((tmp_path / "records" / "metrics").glob("*.aside*"))
    assert [pq.read_table(path)["value"].to_pylist() for path in aside] == [[1.0], [2.0]]


def test_rows_with_a_column_too_few_or_too_many_are_refused(tmp_path: Path) -> None:
    records = MemberRecords(tmp_path, LEAD)
    records.append(METRICS, rows(1.0).drop(columns="value").assign(colour="red"), 1, "train")
    with pytest.raises(RecordsError, match=r"missing columns \['value'\], unknown columns \['colour'\]"):
        records.commit(1)


def test_every_row_keeps_its_own_step_and_phase_whatever_its_index(tmp_path: Path) -> None:
    records = MemberRecords(tmp_path, LEAD)
    three = pd.concat([rows(value) for value in (1.0, 2.0, 3.0)])
    assert three.index.tolist() == [0, 0, 0]
    for step, phase in ((0, "init"), (5, "train"), (7, "train")):
        records.append(METRICS, three, step, phase)
    commit(records, 7)
    table = read_member_table(tmp_path, "metrics")
    assert table is not None
    assert table["step"].tolist() == [0] * 3 + [5] * 3 + [7] * 3
    assert table["phase"].tolist() == ["init"] * 3 + ["train"] * 6
    assert table["value"].tolist() == [1.0, 2.0, 3.0] * 3
    assert {name: table[name].unique().tolist() for name in LEAD} == {name: [value] for name, value in LEAD.items()}


def test_non_finite_values_survive_the_round_trip(tmp_path: Path) -> None:
    records = MemberRecords(tmp_path, LEAD)
    for value in (np.inf, -np.inf, np.nan, 0.0, 5e-324):
        records.append(METRICS, rows(value), 1, "train")
    commit(records, 1)
    assert np.array_equal(values(tmp_path), [np.inf, -np.inf, np.nan, 0.0, 5e-324], equal_nan=True)


def test_every_column_carries_its_unit_and_description(tmp_path: Path) -> None:
    end(written(tmp_path, 5))
    schema = pq.read_schema(tmp_path / "records" / "metrics.parquet")
    for field in schema:
        assert field.metadata[b"unit"]
        assert field.metadata[b"description"]


def test_json_cut_short_is_named(tmp_path: Path) -> None:
    write_json({"status": "running"}, tmp_path / "run.json")
    (tmp_path / "run.json").write_text((tmp_path / "run.json").read_text()[:7])
    with pytest.raises(RecordsError, match=r"run\.json cannot be read"):
        read_json(tmp_path / "run.json")


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no run found"):
        read_runs([tmp_path])


def test_reading_records_imports_neither_torch_nor_hydra() -> None:
    code = "import sys, gradhorizon.records; print(sorted({'torch', 'hydra', 'pytorch_lightning'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_parts_of_a_checkpoint_at_step_0_are_kept(tmp_path: Path) -> None:
    records = MemberRecords(tmp_path, LEAD)
    records.append(METRICS, rows(1.0), 0, "init")
    commit(records, 0)
    assert MemberRecords(tmp_path, LEAD, checkpoint_step=0).set_aside == []
    assert values(tmp_path) == [1.0]


def test_a_whole_table_without_a_checkpoint_is_set_aside_for_the_new_start(tmp_path: Path) -> None:
    end(written(tmp_path, 5))
    records = MemberRecords(tmp_path, LEAD)
    assert [path.name for path in records.set_aside] == ["metrics.parquet.aside"]
    records.append(METRICS, rows(7.0), 1, "train")
    commit(records, 5)
    end(records)
    assert values(tmp_path) == [7.0]


def test_a_damaged_part_is_refused_before_training_goes_on(tmp_path: Path) -> None:
    written(tmp_path, 5, 10)
    path = tmp_path / "records" / "metrics" / "00000000-00000005.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RecordsError, match="cut short or spoiled"):
        MemberRecords(tmp_path, LEAD, checkpoint_step=10)
