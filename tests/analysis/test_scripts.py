"""Every script of analysis/ runs on records as it says, and is short."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.synthetic_runs import SyntheticRun, exponential

SCRIPTS = sorted((Path(__file__).parents[2] / "analysis").glob("*.py"))
MOST_LINES = 60


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_draws_two_experiments(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for experiment, rate in (("one", -0.05), ("other", -0.2)):
        for model in ("lstm", "gru"):
            run = SyntheticRun(model=model, experiment=experiment, trained=exponential(rate), untold=experiment)
            run.write(tmp_path / "runs")
    folders = [str(tmp_path / "runs" / name) for name in ("one", "other")]
    monkeypatch.setattr(sys, "argv", [script.name, *folders, "--out", str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    written = sorted((tmp_path / "out").iterdir())
    assert written
    assert {str(path) for path in written} <= set(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_says_how_it_is_run_and_is_short(script: Path) -> None:
    text = script.read_text("utf-8")
    assert f"python analysis/{script.name} " in text.split('"""')[1]
    assert len(text.splitlines()) <= MOST_LINES
    assert not list((script.parents[1] / "src").rglob(f"analysis/{script.name}"))


def test_one_experiment_is_not_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SyntheticRun().write(tmp_path)
    script = next(path for path in SCRIPTS if path.stem == "two_experiments")
    monkeypatch.setattr(sys, "argv", [script.name, str(folder), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"Error: name two experiments with models in common, got \['synthetic'\]"):
        runpy.run_path(str(script), run_name="__main__")
