"""Every program × every table that runs lack: what can be drawn is drawn, and one line says what is absent."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from gradhorizon.analysis import command as figures
from gradhorizon.analysis.figures import gradient_profile, sequence_length_scaling, training_curves
from gradhorizon.analysis.wandb_report import report as wandb_report
from tests.programs import draw_report
from tests.synthetic_runs import SyntheticRun

TABLES = ("metrics", "input_gradients", "parameter_gradients")
SUBSETS = [subset for count in range(4) for subset in combinations(TABLES, count)]
NEEDS = {
    gradient_profile: {"input_gradients": "gradient_profile-copy_arjovsky2016.png"},
    sequence_length_scaling: {"input_gradients": "sequence_length_scaling-copy_arjovsky2016.png"},
    training_curves: {
        "metrics": "training_curves-copy_arjovsky2016-T50.png",
        "parameter_gradients": "training_curves-copy_arjovsky2016-T50.png",
    },
}
"""Program -> table -> the figure that can be drawn once it is there."""


@pytest.mark.parametrize("tables", SUBSETS, ids=lambda value: "-".join(value) or "none")
def test_figures_draw_what_can_be_drawn(
    tables: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SyntheticRun(tables=tables).write(tmp_path / "runs")
    figures.main([str(tmp_path / "runs"), "--out", str(tmp_path)])
    expected = {name for needs in NEEDS.values() for table, name in needs.items() if table in tables}
    assert {path.name for path in tmp_path.glob("*.png")} == expected
    assert (tmp_path / "report.html").is_file()
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == (tables != TABLES)
    for table in TABLES:
        assert all((f"{table} of 3 of 3 members" in line) is (table not in tables) for line in said)


@pytest.mark.parametrize("program", NEEDS, ids=lambda module: str(module.__name__))
@pytest.mark.parametrize("tables", SUBSETS, ids=lambda value: "-".join(value) or "none")
def test_one_figure_is_drawn_or_refused_with_the_way_out(
    program: Any, tables: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SyntheticRun(tables=tables).write(tmp_path / "runs")
    arguments = [str(tmp_path / "runs"), "--out", str(tmp_path), "--only", program.__name__.rpartition(".")[2]]
    if set(NEEDS[program]) & set(tables):
        figures.main(arguments)
        assert capsys.readouterr().err.count("not recorded") == (not set(NEEDS[program]) <= set(tables))
        assert len(list(tmp_path.glob("*.png"))) == 1
    else:
        with pytest.raises(SystemExit, match=r"no run recorded `.*(gradhorizon-measure RUNS|train under another)"):
            figures.main(arguments)


@pytest.mark.parametrize("tables", SUBSETS, ids=lambda value: "-".join(value) or "none")
def test_report_says_what_is_absent_and_how_to_get_it(tables: tuple[str, ...], tmp_path: Path) -> None:
    SyntheticRun(tables=tables).write(tmp_path / "runs")
    draw_report([str(tmp_path / "runs"), "--out", str(tmp_path)])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert ("gradhorizon-measure RUNS measurement=input_gradients" in page) is ("input_gradients" not in tables)
    assert ("finished run takes none" in page) is not ({"metrics", "parameter_gradients"} <= set(tables))


@pytest.mark.parametrize("tables", SUBSETS, ids=lambda value: "-".join(value) or "none")
def test_wandb_report_and_table_are_written_all_the_same(tables: tuple[str, ...], tmp_path: Path) -> None:
    SyntheticRun(tables=tables).write(tmp_path / "runs")
    wandb_report.main([str(tmp_path / "runs"), "--offline", "--out", str(tmp_path)])
    figures.main([str(tmp_path / "runs"), "--out", str(tmp_path), "--only", "verdicts"])
    content = (tmp_path / "wandb_report.json").read_text("utf-8")
    assert ("not recorded, so not drawn" in content) is (tables != TABLES)
    assert "2/3" in (tmp_path / "verdicts.md").read_text("utf-8")


def test_some_members_without_a_table_do_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SyntheticRun().write(tmp_path / "runs")
    SyntheticRun(model="gru", tables=("metrics",)).write(tmp_path / "runs")
    figures.main([str(tmp_path / "runs"), "--out", str(tmp_path)])
    assert capsys.readouterr().err.count("input_gradients of 3 of 6 members, parameter_gradients of 3 of 6") == 1
    assert len(list(tmp_path.glob("*.png"))) == 3
