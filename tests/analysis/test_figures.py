"""What every figure owes to the report, found by its place: a new one is tested by existing."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from gradhorizon.analysis import command, figures
from gradhorizon.measurements import dictionary
from tests.synthetic_runs import SyntheticRun

NAMES = sorted(figures.found())
KNOWN = {table.name for table in dictionary.tables()}


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_tables_that_are_measured(name: str) -> None:
    tables = figures.found()[name].TABLES
    assert tables
    assert set(tables) <= KNOWN


@pytest.mark.parametrize("name", NAMES)
def test_it_is_written_from_a_cohort_into_a_folder(name: str) -> None:
    module = figures.found()[name]
    assert list(inspect.signature(module.write).parameters) == ["cohort", "out"]
    assert (module.__doc__ or "").strip()


@pytest.mark.parametrize("name", NAMES)
def test_the_report_offers_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    assert name in " ".join(capsys.readouterr().out.split()).replace("- ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_without_its_tables_it_refuses_with_the_way_out_and_draws_nothing(name: str, tmp_path: Path) -> None:
    SyntheticRun(tables=()).write(tmp_path / "runs")
    with pytest.raises(SystemExit, match=r"no run recorded `.*(gradhorizon-measure RUNS|train under another)"):
        command.main([str(tmp_path / "runs"), "--out", str(tmp_path), "--only", name])
    assert not list(tmp_path.glob("*.png"))
