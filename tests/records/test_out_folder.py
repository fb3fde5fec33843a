"""Folders that programs are told to write to: refused in one line, before anything is read."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

from gradhorizon.mirrors import push
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.out_folder import refuse_unfit
from tests.synthetic_runs import SyntheticRun

ROOT = Path(__file__).parents[2]
PLACES = {"src": "gradhorizon/analysis", ".": "experiments"}
PROGRAMS = sorted(
    ".".join(path.relative_to(ROOT / root).with_suffix("").parts)
    for root, place in PLACES.items()
    for path in (ROOT / root / place).rglob("*.py")
    if "\ndef main(" in path.read_text(encoding="utf-8")
)
EXTRA = {"gradhorizon.analysis.wandb_report.report": ["--offline"]}


def _in_place_of_a_folder(root: Path) -> Path:
    (root / "file").write_text("mine", encoding="utf-8")
    return root / "file"


UNFIT = {
    "a file in its place": _in_place_of_a_folder,
    "a file above it": lambda root: _in_place_of_a_folder(root) / "figures",
    "a name too long": lambda root: root / ("a" * 300),
    "a path too long": lambda root: root.joinpath(*["a" * 40] * 200),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_folder_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    out = UNFIT[case](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RecordsError, match="--out must be a folder that can be written") as refusal:
        refuse_unfit(out)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(RecordsError, match="Permission denied"):
            refuse_unfit(tmp_path / "figures")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("below", ["", "figures", "seed-0", "seed-0/records/figures"])
def test_a_runs_own_folder_is_refused(below: str, tmp_path: Path) -> None:
    run = SyntheticRun(outcomes=(300,)).write(tmp_path)
    with pytest.raises(RecordsError, match="must not be in a run's folder"):
        refuse_unfit(run / below)


def test_a_link_into_a_run_is_refused(tmp_path: Path) -> None:
    run = SyntheticRun(outcomes=(300,)).write(tmp_path)
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(RecordsError, match="must not be in a run's folder"):
        refuse_unfit(tmp_path / "link" / "figures")


@pytest.mark.parametrize("place", ["synthetic-figures", "synthetic/figures", "new/of/several"])
def test_a_folder_beside_runs_is_taken_and_not_yet_made(place: str, tmp_path: Path) -> None:
    SyntheticRun(outcomes=(300,)).write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refuse_unfit(tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_refuses_before_it_reads(program: str, tmp_path: Path) -> None:
    out = _in_place_of_a_folder(tmp_path)
    # There are no runs: whoever read first would say so instead.
    with pytest.raises(SystemExit, match="--out must be a folder that can be written"):
        import_module(program).main([str(tmp_path / "none"), "--out", str(out), *EXTRA.get(program, [])])
    assert out.read_text(encoding="utf-8") == "mine"


def test_pushing_offline_refuses_before_it_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = _in_place_of_a_folder(tmp_path)
    assert push.main([str(tmp_path / "none"), "--offline", "--out", str(out)]) == 1
    assert "--out must be a folder that can be written" in caplog.text
