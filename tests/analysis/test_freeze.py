"""Frozen records: complete, without paths, never overwritten, and redrawn to the same figures."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pandas as pd
import pytest

from gradhorizon.analysis.freeze import freeze, main
from gradhorizon.records.reading import read_runs
from gradhorizon.records.seals import opened_text
from gradhorizon.records.tables import RecordsError
from gradhorizon.runs.verification import verify_run
from gradhorizon.status.sweep import run_folders
from tests.synthetic_runs import SyntheticRun

STUDIES = Path(__file__).parents[2] / "experiments"
FROZEN = sorted(path.parent for path in STUDIES.glob("*/records"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = SyntheticRun(outcomes=(None, 300)).write(tmp_path / "runs")
    (folder / "config.yaml").write_text("seed: 0\nruns_dir: /somewhere/private\nnum_seeds: 2\n", encoding="utf-8")
    (folder / "seed-0" / "checkpoint.pt").write_bytes(b"weights")
    return folder


def test_frozen_tables_read_as_the_run_does(run: Path, tmp_path: Path) -> None:
    freeze([run], ["input_gradients", "metrics"], tmp_path / "frozen")
    expected, found = read_runs([run]), read_runs([tmp_path / "frozen"])
    for name in ("input_gradients", "metrics"):
        pd.testing.assert_frame_equal(found.table(name), expected.table(name))
    pd.testing.assert_frame_equal(found.members.drop(columns="folder"), expected.members.drop(columns="folder"))


def test_frozen_table_leaves_the_described_schema_behind(run: Path, tmp_path: Path) -> None:
    freeze([run], ["metrics"], tmp_path / "frozen")
    (frozen,) = (tmp_path / "frozen").rglob("seed-0/records/metrics.parquet")
    assert frozen.stat().st_size < (run / "seed-0" / "records" / "metrics.parquet").stat().st_size - 2**12


def test_what_was_not_asked_for_stays_behind(run: Path, tmp_path: Path) -> None:
    freeze([run], ["metrics"], tmp_path / "frozen")
    names = {path.name for path in (tmp_path / "frozen").rglob("*") if path.is_file()}
    assert names == {"run.json", "config.yaml", "member.json", "metrics.parquet"}


def test_no_path_of_the_machine_is_frozen(run: Path, tmp_path: Path) -> None:
    freeze([run], ["metrics"], tmp_path / "frozen")
    (config,) = (tmp_path / "frozen").rglob("config.yaml")
    text, is_sealed = opened_text(config.read_bytes())
    assert text.decode() == "seed: 0\nnum_seeds: 2\n"
    assert is_sealed


def test_frozen_records_prove_themselves(run: Path, tmp_path: Path) -> None:
    (frozen,) = freeze([run], ["metrics"], tmp_path / "frozen")
    found = verify_run(frozen)
    assert (found.problems, found.unsealed, found.notes, found.num_files) == ([], [], [], 6)
    table = frozen / "seed-1" / "records" / "metrics.parquet"
    table.write_bytes(bytes([table.read_bytes()[0] ^ 1]) + table.read_bytes()[1:])
    assert verify_run(frozen).problems == [
        "seed-1/records/metrics.parquet is not what was committed: its digest is another"
    ]


def test_the_studies_are_found() -> None:
    assert sum(len(list(run_folders(study / "records"))) for study in FROZEN) > 50


@pytest.mark.parametrize("study", FROZEN, ids=lambda study: study.name)
def test_the_studies_prove_themselves(study: Path) -> None:
    folders = list(run_folders(study / "records"))
    assert folders
    found = {str(folder): (verdict.problems, verdict.unsealed, verdict.notes) for folder in folders
             if (verdict := verify_run(folder)).word != "whole" or verdict.notes}  # fmt: skip
    assert found == {}


def test_frozen_records_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    freeze([run], ["metrics"], tmp_path / "frozen")
    with pytest.raises(RecordsError, match="frozen records are not overwritten"):
        freeze([run], ["metrics"], tmp_path / "frozen")


def test_a_member_without_the_table_is_named_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    missing = run / "seed-1" / "records" / "metrics.parquet"
    missing.unlink()
    with pytest.raises(SystemExit, match=r"Error: only finished members .*seed-1"):
        main([str(run), "--out", str(tmp_path / "frozen"), "--tables", "metrics"])
    assert not (tmp_path / "frozen").exists()


def redraw_commands(study: Path) -> list[str]:
    """What the study's README says to run."""
    page = (study / "README.md").read_text(encoding="utf-8").partition("## Redraw")[2]
    return re.findall(r"^python -m (experiments\.\S+)$", page, flags=re.MULTILINE)


COMMANDS = [(study.name, command) for study in FROZEN for command in redraw_commands(study)]


@pytest.mark.slow
@pytest.mark.parametrize(("study", "command"), COMMANDS)
def test_the_committed_figures_of_a_study_are_redrawn_byte_by_byte(study: str, command: str, tmp_path: Path) -> None:
    assert command == f"experiments.{study}.figure"
    importlib.import_module(command).main(["--out", str(tmp_path)])
    drawn = sorted(tmp_path.glob("*.png"))
    assert drawn
    for path in drawn:
        assert path.read_bytes() == (STUDIES / study / path.name).read_bytes(), f"{path.name} is not the committed one"


@pytest.mark.parametrize("study", FROZEN, ids=lambda study: study.name)
def test_every_figure_of_a_study_is_shown_on_its_page(study: Path) -> None:
    page = (study / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", page))
    assert shown == {path.name for path in study.glob("*.png")}
    assert redraw_commands(study)
