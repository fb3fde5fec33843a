"""`gradhorizon-status`: every state of a run, damaged files, many runs, hostile labels."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from gradhorizon.runs.claims import SILENCE_S
from gradhorizon.status import command
from gradhorizon.status.command import main
from gradhorizon.status.run import RunLook, read_run
from gradhorizon.status.sweep import SweepReader, run_folders
from gradhorizon.training.recorder import MemberFiles
from tests import runs_on_disk
from tests.status_runs import StatusRun, change, claim, commit, failed, finished, running, stale, write

HOSTILE = "[red]evil[/red]\x1b[31m\n\r\u202e名前" + "x" * 200


def look(folder: Path) -> RunLook:
    return read_run(folder, time.time())


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(item) for item in arguments]) in (0, 1, 75)
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    return json.loads(printed(capsys, *arguments, "--json"), parse_constant=pytest.fail)


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def killed(experiment: Path) -> Path:
    folder = StatusRun(ends=(800,)).write(experiment)
    change(claim(folder), process_start=5)
    return folder


def interrupted(experiment: Path) -> Path:
    folder = StatusRun(ends=(800,)).write(experiment)
    claim(folder).end()
    return folder


def started(experiment: Path) -> Path:
    folder = StatusRun().write(experiment)
    claim(folder)
    return folder


def refused(experiment: Path) -> Path:
    folder = failed(experiment)
    (folder / "run.json").unlink()
    return folder


def failed_alone(experiment: Path) -> Path:
    folder = StatusRun(status="failed").write(experiment)
    (folder / "log.txt").write_text(
        "2026-01-01 00:00:00,000 INFO gradhorizon: begins\n"
        "2026-01-01 00:00:01,000 ERROR gradhorizon: failed\n"
        "Traceback (most recent call last):\n  first\nKeyError: 1\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n  second\nOSError: the power went out\n"
    )
    return folder


def launched_again(experiment: Path) -> Path:
    folder = failed(experiment)
    claim(folder)
    return folder


def all_done_but_unsaid(experiment: Path) -> Path:
    return StatusRun(status="running", ends=(("solved", 3),)).write(experiment)


def truncated(experiment: Path) -> Path:
    folder = finished(experiment)
    (folder / "run.json").write_text('{"model": "lst')
    return folder


def truncated_member(experiment: Path) -> Path:
    folder = StatusRun(ends=(5, 5)).write(experiment)
    (folder / "seed-1" / "member.json").write_text('{"seed": 1,')
    return folder


def not_of_ours(experiment: Path) -> Path:
    folder = finished(experiment)
    (folder / "run.json").write_text('{"status": "finished", "outcomes": 3, "launches": null, "num_steps": 1e999}')
    return folder


def empty(experiment: Path) -> Path:
    folder = experiment / "lstm-copy_arjovsky2016-T50-0123456789"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (running, "running"),
        (started, "running"),
        (launched_again, "running"),
        (stale, "stale"),
        (killed, "stale"),
        (failed, "failed"),
        (refused, "failed"),
        (failed_alone, "failed"),
        (interrupted, "queued"),
        (empty, "queued"),
        (finished, "finished"),
        (all_done_but_unsaid, "finished"),
        (truncated, "unreadable"),
        (truncated_member, "unreadable"),
        (not_of_ours, "unreadable"),
    ],
)
def test_every_state_of_a_run_is_told_from_the_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], expected: str
) -> None:
    folder = make(tmp_path / "study")
    before = stamps(tmp_path)
    assert look(folder).status == expected
    assert expected in printed(capsys, tmp_path)
    assert [run["status"] for run in document(capsys, tmp_path)["runs"]] == [expected]
    printed(capsys, tmp_path, "--failed")
    assert stamps(tmp_path) == before


@pytest.mark.parametrize("arguments", [["--once"], ["--json"], ["--failed"]])
@pytest.mark.parametrize(
    ("others", "code"),
    [
        ((), 0),
        ((running,), 75),
        ((interrupted,), 75),
        ((failed,), 1),
        ((stale,), 1),
        ((truncated,), 1),
        ((running, failed), 1),
    ],
)
def test_the_exit_code_says_whether_all_is_finished_something_broke_or_more_is_to_come(
    tmp_path: Path, others: Sequence[Callable[[Path], Path]], code: int, arguments: list[str]
) -> None:
    finished(tmp_path / "done")
    for make in others:
        make(tmp_path / make.__name__)
    assert main([str(tmp_path), *arguments]) == code


def test_a_running_run_tells_step_speed_place_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = look(running(tmp_path / "study", variant="hidden_size=128"))
    assert (run.step, run.num_steps, run.variant) == (1200, 5000, "hidden_size=128")
    assert run.steps_per_s == pytest.approx(20, rel=0.05)  # 400 steps each 20 s
    assert run.left_s == pytest.approx(3800 / 20, rel=0.05)
    assert run.owner is not None
    assert run.owner.pid == os.getpid()
    StatusRun(model="gru").write(tmp_path)
    text = printed(capsys, tmp_path)
    assert "hidden_size=128; " in text
    assert f":{os.getpid()}; 20 steps/s; last commit" in text
    assert "1/3     1200/5000       3 min" in text
    assert "1 solved" in text


def test_settings_that_all_runs_share_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, rate in enumerate(("1e-3", "0.1")):
        StatusRun(variant=f"hidden_size=8-optimizer.lr={rate}-device=cpu", identity=f"{index:010d}").write(tmp_path)
    text = printed(capsys, tmp_path)
    assert "optimizer.lr=1e-3; waits" in text
    assert "optimizer.lr=0.1; waits" in text
    assert "hidden_size" not in text


def test_runs_are_told_apart_by_settings_that_their_folders_names_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, rate in enumerate((0.1, 0.2)):
        folder = StatusRun(identity=f"{index:010d}").write(tmp_path)
        sheet = json.loads((folder / "run.json").read_text())
        write(folder / "run.json", sheet | {"variant": f"hidden_size=8 learning_rate={rate}"})
    text = printed(capsys, tmp_path)
    assert "learning_rate=0.1; waits" in text
    assert "learning_rate=0.2; waits" in text
    assert "hidden_size" not in text


def test_runs_that_failed_before_they_had_a_sheet_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, cell in enumerate(("One", "Two")):
        overrides = ["model=external", f"model.cell._target_=cells.{cell}", "num_seeds=2"]
        write(tmp_path / f"mine-copy-{index:010d}" / "failed.json", {"reason": "no such cell", "overrides": overrides})
    text = printed(capsys, tmp_path)
    assert "model.cell._target_=cells.One; no such cell" in text
    assert "model.cell._target_=cells.Two; no such cell" in text
    assert "num_seeds" not in text


def test_speed_before_the_second_commit_counts_from_the_owners_start(tmp_path: Path) -> None:
    folder = StatusRun(ends=(1000,)).write(tmp_path)
    claim(folder)  # ten minutes ago
    commit(folder, 0, 0, 1000, age_s=100)
    assert look(folder).steps_per_s == pytest.approx(1000 / 500, rel=0.05)


def test_commits_before_an_interruption_do_not_count_for_speed(tmp_path: Path) -> None:
    folder = StatusRun(ends=(1200,)).write(tmp_path)
    claim(folder)
    for first, age_s in ((0, 9000), (400, 30), (800, 10)):
        commit(folder, 0, first, first + 400, age_s)
    assert look(folder).steps_per_s == pytest.approx(400 / 20, rel=0.05)


def test_members_at_different_steps_are_trained_one_group_after_the_other(tmp_path: Path) -> None:
    run = look(StatusRun(ends=(1000, 1000, None, ("solved", 10))).write(tmp_path))
    assert run.steps_left == 4000 + 5000


def test_totals_add_up_what_runs_and_what_was_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running(tmp_path / "study")
    interrupted(tmp_path / "other")
    finished(tmp_path / "study", model="gru")
    failed(tmp_path / "study", model="irnn")
    totals = document(capsys, tmp_path)["totals"]
    assert totals["runs"] == {
        "running": 1,
        "failed": 1,
        "stale": 0,
        "unreadable": 0,
        "queued": 1,
        "missing": 0,
        "finished": 1,
    }
    assert totals["members"] == {"total": 9, "done": 4, "solved": 2, "diverged": 1, "budget exhausted": 1}
    assert totals["left_s"] == pytest.approx((3800 + 4200) / 20, rel=0.05)
    assert totals["runs_finished_last_hour"] == 1


def test_the_json_document_has_the_keys_that_its_documentation_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale(tmp_path / "study")
    failed(tmp_path / "study", model="gru")
    found = document(capsys, tmp_path)
    assert found.keys() == {"schema", "at_s", "totals", "runs"}
    assert found["schema"] == 1
    first, second = found["runs"]
    assert (
        first.keys()
        == second.keys()
        == {
            "folder",
            "status",
            "experiment",
            "model",
            "task",
            "seq_len",
            "variant",
            "num_steps",
            "step",
            "committed_at_s",
            "steps_per_s",
            "left_s",
            "problem",
            "failure",
            "owner",
            "members",
        }
    )
    assert first["failure"]["reason"] == "RuntimeError: out of memory"
    assert second["owner"].keys() == {"host", "pid", "slot", "since_s", "beat_at_s"}
    assert (second["owner"]["host"], second["owner"]["slot"]) == ("node7", "GPU 3")
    assert second["members"] == [
        {"seed": 0, "is_finished": False, "is_missing": False, "step": 800, "outcome": None, "outcome_step": None}
    ]


def test_a_claim_of_numbers_that_are_none_still_gives_valid_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StatusRun().write(tmp_path)
    change(claim(folder), launched_at_s=float("nan"))
    assert document(capsys, tmp_path)["runs"][0]["owner"]["since_s"] is None


def test_tracebacks_of_failed_runs_are_printed_with_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = failed(tmp_path / "study")
    text = printed(capsys, tmp_path, "--failed")
    assert str(folder) in text
    assert '  File "train.py", line 7, in step' in text


def test_a_failure_without_a_launcher_is_told_from_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed_alone(tmp_path / "study")
    assert "OSError: the power went out" in printed(capsys, tmp_path)
    text = printed(capsys, tmp_path, "--failed")
    assert text.index("KeyError: 1") < text.index("During handling") < text.rindex("OSError")
    assert "begins" not in text


def test_no_failure_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path)
    assert printed(capsys, tmp_path, "--failed") == "no run has failed\n"


def test_a_damaged_file_is_named_and_hides_no_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncated_member(tmp_path / "study")
    running(tmp_path / "study", model="gru")
    text = printed(capsys, tmp_path)
    assert "unreadable: seed-1/member.json cannot be read (" in text
    assert "running    gru" in text


def test_finished_runs_are_counted_by_model_unless_all_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seq_len in range(3):
        finished(tmp_path, seq_len=seq_len)
    counts = printed(capsys, tmp_path).splitlines()[-1].split()
    assert counts == ["lstm", "3", "9", "3", "3", "3"]
    assert printed(capsys, tmp_path, "--all").count("\nfinished") == 3


def test_running_and_failed_runs_come_first_and_long_lists_are_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(15):
        failed(tmp_path, seq_len=number)
        running(tmp_path, seq_len=number, model="gru")
        interrupted(tmp_path / f"{number}")
    text = printed(capsys, tmp_path)
    statuses = [line.split()[0] for line in text.splitlines() if line and not line[0].isspace()][3:]
    assert statuses == ["status", *["running"] * 15, *["failed"] * 10, *["queued"] * 10]
    assert "… and 5 more failed; --all shows them" in text
    assert printed(capsys, tmp_path, "--all").count("\nfailed") == 15


@pytest.mark.parametrize("width", [40, 80, 120])
def test_hostile_labels_are_shown_as_text_and_no_line_is_too_wide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for make in (running, failed, stale, finished):
        folder = make(tmp_path / make.__name__, model=HOSTILE[:90], task=HOSTILE[:80])
    (folder.parents[1] / "failed").mkdir(exist_ok=True)
    for arguments in ([], ["--all"], ["--failed"]):
        text = printed(capsys, tmp_path, *arguments)
        assert "[red]evil" in text
        assert not set(text) & {"\x1b", "\r", "\u202e"}
        if arguments != ["--failed"]:
            assert max(map(cell_len, text.splitlines())) <= width


def test_hostile_tracebacks_and_hosts_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = failed(tmp_path)
    (folder / "failed.json").write_text(json.dumps({"reason": HOSTILE, "traceback": [HOSTILE, 3, None]}))
    change(claim(StatusRun(model="gru").write(tmp_path)), host=HOSTILE, slot=HOSTILE)
    assert not set(printed(capsys, tmp_path) + printed(capsys, tmp_path, "--failed")) & {"\x1b", "\r"}


def test_a_failure_record_of_any_shape_is_survived(tmp_path: Path) -> None:
    folder = failed(tmp_path)
    for content in ("", "[]", '{"traceback": 3}', '{"reason": null, "traceback": null}', '{"last_lines": {"a": 1}}'):
        (folder / "failed.json").write_text(content)
        run = look(folder)
        assert run.status == "failed"
        assert run.failure is not None


def test_a_thousand_finished_runs_take_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(1000):
        finished(tmp_path / f"study-{number % 4}", identity=f"{number:010d}", model=f"model_{number % 7}")
    start = time.process_time()
    text = printed(capsys, tmp_path)
    assert time.process_time() - start < 3
    assert "1000 runs started so far: 1000 finished" in text
    assert len(text.splitlines()) < 15
    reader = SweepReader([tmp_path])
    reader.read()
    start = time.process_time()
    assert len(reader.read().runs) == 1000
    assert time.process_time() - start < 1


def test_a_finished_run_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    reader = SweepReader([tmp_path])
    assert reader.read().num_members == 3
    sheet = json.loads((folder / "run.json").read_text())
    sheet["outcomes"]["3"] = sheet["outcomes"]["0"]
    (folder / "run.json").unlink()
    (folder / "run.json").write_text(json.dumps(sheet))
    os.utime(folder / "run.json", (1, 1))
    assert reader.read().num_members == 4


def test_runs_are_found_by_name_or_content_at_any_depth_and_hidden_folders_are_left_out(tmp_path: Path) -> None:
    named = StatusRun().write(tmp_path / "a" / "b")
    renamed = StatusRun().write(tmp_path / "c").rename(tmp_path / "c" / "renamed")
    (tmp_path / "d" / "seed-0").mkdir(parents=True)
    StatusRun().write(tmp_path / ".hydra")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert list(run_folders(tmp_path)) == [named, renamed, tmp_path / "d"]
    assert list(run_folders(named)) == [named]


@pytest.mark.parametrize("folder", ["nothing_here", ""])
def test_no_run_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture, folder: str) -> None:
    assert main([str(tmp_path / folder), "--once"]) == 1
    assert "no run found at or below" in caplog.text


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--interval", "nan"], ["--json", "--failed"]])
def test_a_wrong_command_line_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == 2
    assert "error:" in capsys.readouterr().err


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> io.StringIO:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, height=40, highlight=False, markup=False)
    monkeypatch.setattr(command, "Console", lambda **_: terminal)
    monkeypatch.setattr(time, "sleep", sleep)
    return screen


def test_a_terminal_is_refreshed_until_all_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = running(tmp_path)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        sheet = json.loads((folder / "run.json").read_text())
        ends = {"status": "finished", "outcome": "solved", "outcome_step": 7}
        sheet |= {"status": "finished", "outcomes": dict.fromkeys("012", ends)}
        (folder / "run.json").write_text(json.dumps(sheet))
        age_s = 0 if len(slept) < 3 else 60  # a sweep may have another run to start
        os.utime(folder / "run.json", (time.time() - age_s, time.time() - age_s))

    screen = on_a_terminal(monkeypatch, sleep)
    assert main([str(tmp_path)]) == 0
    assert slept == [2.0, 2.0, 2.0]
    assert "1 running" in screen.getvalue()
    assert "1 finished" in screen.getvalue()


def test_ctrl_c_leaves_the_display_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    running(tmp_path)
    on_a_terminal(monkeypatch, interrupt)
    assert main([str(tmp_path)]) == 75


def test_a_real_run_is_seen_running_and_then_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunLook] = []
    original = MemberFiles.commit

    def commit_and_look(self: MemberFiles, *arguments: Any) -> None:
        original(self, *arguments)
        seen.extend(SweepReader([tmp_path]).read().runs)

    monkeypatch.setattr(MemberFiles, "commit", commit_and_look)
    runs_on_disk.run(
        tmp_path, "num_seeds=1", "num_steps=4", "val_every_steps=2", "trainer.checkpoint_every_s=0", "batch_size=2"
    )
    assert [(run.status, run.model, run.seq_len, run.step, run.num_steps) for run in seen[:1]] == [
        ("running", "rnn_tanh", 8, 2, 4)
    ]
    assert seen[0].owner is not None
    assert seen[0].owner.pid == os.getpid()
    (last,) = SweepReader([tmp_path]).read().runs
    assert (last.status, last.model, len(last.members)) == ("finished", "rnn_tanh", 1)


def test_looking_imports_nothing_heavy() -> None:
    heavy = "('torch', 'hydra', 'pandas', 'pyarrow')"
    script = f"import sys, gradhorizon.status.command; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_silent_owner_elsewhere_is_stale_only_after_the_limit(tmp_path: Path) -> None:
    folder = StatusRun().write(tmp_path)
    taken = claim(folder)
    change(taken, age_s=SILENCE_S - 20, machine="another")
    assert look(folder).status == "running"
    change(taken, age_s=SILENCE_S + 20, machine="another")
    assert look(folder).status == "stale"
