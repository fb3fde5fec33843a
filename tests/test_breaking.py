"""Runs that break in every phase, under every launcher: told in place, marked, and counted alike by all who count."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gradhorizon.analysis import command as figures
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.runs.locks import members_locked
from gradhorizon.status import command
from gradhorizon.status.sweep import run_folders
from tests.programs import draw_report
from tests.runs_on_disk import TINY

ROOT = Path(__file__).parents[1]
TINY_CELL = (
    TINY[0],
    *TINY[2:],
    "num_seeds=1",
    "num_steps=4",
    "val_every_steps=2",
    "measurement=[input_gradients,parameter_gradients]",
    "model=external",
    "model.label=breaking",
)
BREAKING = (*TINY_CELL, "model.cell._target_=tests.breaking.Breaking")
SIGNS = {
    "none-none": None,
    "constructor-raise": "model: RuntimeError: it broke in two lines",
    "constructor-run_out": "model: StopIteration (no message)",
    "constructor-exit": "SystemExit: exited with code 3",
    "gate-none": "segment",
    "probe-mumble": "Unspeakable (no message)",
    "evaluate-raise": "RuntimeError: it broke in two lines",
    "training_step@0-run_out": "StopIteration (no message)",
    "training_step@1-exit": "SystemExit: exited with code 3",
    "training_step@1-exit0": "SystemExit: exited with code 0",
    "training_step@2-exit_words": "SystemExit: enough",
    "training_step@2-memory": "MemoryError (no message)",
    "training_step@3-base": "BaseException: no exception",
    "'${absent.key}'": "cannot be resolved",
}
"""Way -> what every teller says of it; None for the one that ends well."""
PHASES = {
    "constructor-raise": "building",
    "gate-none": "checking kernels",
    "probe-mumble": "measuring input_gradients at",
    "evaluate-raise": "validation at step 0",
    "training_step@0-run_out": "training step 0",
    "training_step@3-base": "training step 3",
}
WAYS_AXIS = "+model.cell.way=none-none,training_step@1-die"
NEEDS = {"submitit_local": "hydra_plugins.hydra_submitit_launcher"}


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gradhorizon.application", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def document(capsys: pytest.CaptureFixture[str], folder: Path) -> dict[str, Any]:
    command.main([str(folder), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def way_of(run: dict[str, Any]) -> str:
    found = re.search(r"model\.cell\.way=(\S+)", run["variant"])
    return found[1].strip("'") if found else run["variant"]


def assert_tellers_agree(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status, its list of failures, figures and report name the same members and count alike."""
    told = document(capsys, folder)
    runs, members = told["totals"]["runs"], told["totals"]["members"]
    num_open = members["total"] - members["done"]

    command.main([str(folder), "--once"])
    head = capsys.readouterr().out.splitlines()[:2]
    assert head[0].endswith(": " + ", ".join(f"{count} {name}" for name, count in runs.items() if count))
    assert head[1].startswith(f"{members['done']} of {members['total']} members done")
    command.main([str(folder), "--failed"])
    said = capsys.readouterr().out
    assert all(run["failure"]["reason"] in said for run in told["runs"] if run["status"] == "failed")

    with pytest.raises(SystemExit) as refusal:
        figures.main([str(folder), "--out", str(out)])
    refused = str(refusal.value)
    assert refused.startswith(f"Error: {num_open} records are missing:")
    assert Counter(re.findall(r"seed-\d+: (\w+)", refused)) == Counter(
        "missing" if member["is_missing"] else run["status"]
        for run in told["runs"]
        for member in run["members"]
        if not member["is_finished"]
    )
    assert head[0] in refused

    figures.main([str(folder), "--out", str(out), "--partial"])
    shown = capsys.readouterr().out
    assert f"{num_open} member{'s' * (num_open != 1)} had not finished" in re.sub(r"\s+", " ", shown)
    draw_report([str(folder), "--out", str(out)])
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in (shown, page):
        assert head[0] in text
        assert all(run["failure"]["reason"] in html.unescape(text) for run in told["runs"] if run["status"] == "failed")
    assert len(read_cohort([folder], is_partial=True).sweep.open_members) == num_open


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "local", "submitit_local"])
def test_runs_that_break_in_any_phase_are_told_marked_and_counted_alike(
    tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if launcher in NEEDS and importlib.util.find_spec(NEEDS[launcher]) is None:
        pytest.skip(f"{launcher} is not installed")
    sweep = ("-m", f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path / 'hydra'}", *BREAKING)
    result = launch(tmp_path, *sweep, f"+model.cell.way={','.join(SIGNS)}")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    num_failed = len(SIGNS) - 1
    assert f"{num_failed} of {len(SIGNS)} runs failed:" in result.stderr
    in_place = re.findall(r"^.*?#(\d+)\b.*FAILED: (.*)$", result.stderr, re.MULTILINE)
    if launcher != "submitit_local":  # whose jobs speak into files of their own
        assert {int(number) for number, _ in in_place} == set(range(1, len(SIGNS)))
        assert all(sign in dict(in_place)[str(number)] for number, sign in enumerate(SIGNS.values()) if sign)

    runs = {way_of(run): run for run in document(capsys, tmp_path / "runs")["runs"]}
    assert Counter(run["status"] for run in runs.values()) == {"failed": num_failed, "finished": 1}
    for way, sign in SIGNS.items():
        run = runs[way.strip("'")]
        assert (run["model"], run["seq_len"]) == ("breaking", 8)
        if sign is not None:
            assert sign in run["failure"]["reason"]
            assert run["failure"]["phase"].startswith(PHASES.get(way, ""))
            assert "Traceback (most recent call last):" in "\n".join(run["failure"]["lines"])
        if "absent" not in way and sign is not None:
            assert "Traceback (most recent call last):" in (tmp_path / run["folder"] / "log.txt").read_text()
    assert_tellers_agree(tmp_path / "runs", tmp_path / "out", capsys)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_what_never_began_is_missing_until_another_launch_has_finished_it(
    tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run before dies with its whole sweep under the basic launcher, and alone under the local one."""
    sweep = ("-m", f"hydra/launcher={launcher}", *BREAKING)
    died = launch(tmp_path, *sweep, WAYS_AXIS, "seq_len=8,9")
    assert died.returncode != 0
    statuses = Counter(run["status"] for run in document(capsys, tmp_path / "runs")["runs"])
    expected = {"basic": {"finished": 1, "stale": 1, "missing": 2}, "local": {"finished": 2, "failed": 2}}
    assert statuses == expected[launcher]
    assert command.main([str(tmp_path / "runs"), "--once"]) == 1
    capsys.readouterr()
    assert_tellers_agree(tmp_path / "runs", tmp_path / "out", capsys)
    capsys.readouterr()

    (tmp_path / "healed").touch()
    other = {"basic": "local", "local": "basic"}[launcher]
    again = launch(tmp_path, "-m", f"hydra/launcher={other}", *BREAKING, WAYS_AXIS, "seq_len=8,9")
    assert again.returncode == 0, again.stderr
    assert document(capsys, tmp_path / "runs")["totals"]["runs"]["finished"] == 4
    assert command.main([str(tmp_path / "runs"), "--failed"]) == 0
    assert capsys.readouterr().out == "no run has failed\n"


@pytest.mark.slow
def test_a_run_that_is_left_to_another_process_is_told_by_joblibs_exit_code_too(tmp_path: Path) -> None:
    sweep = ("-m", "hydra/launcher=joblib", *BREAKING, "seq_len=8,9")
    first = launch(tmp_path, *sweep, "plan=true")
    assert "plan of 2 runs: 0 members are done, 2 would be trained" in first.stderr
    assert not (tmp_path / "runs").exists()
    assert launch(tmp_path, *BREAKING, "num_steps=2").returncode == 0
    (folder,) = run_folders(tmp_path / "runs")
    (folder / "seed-0" / "member.json").unlink()
    with members_locked(folder, [0]):
        result = launch(tmp_path, *sweep, "num_steps=2")
    assert result.returncode == 75
    assert "1 of 2 runs skipped: other processes are at them" in result.stderr
