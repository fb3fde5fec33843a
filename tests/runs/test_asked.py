"""What sweeps ask for is written down once, and what never began is missing until somebody has finished it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from gradhorizon.config import ConfigError, validate
from gradhorizon.runs.asked import failure_path, key_of
from gradhorizon.runs.endings import record
from gradhorizon.runs.identity import identity_of
from gradhorizon.runs.results import Plan, RunError, Skipped
from gradhorizon.status.run import RunLook
from gradhorizon.status.sweep import SweepLook, SweepReader
from gradhorizon.sweeps import sweeper
from tests.runs_on_disk import composed
from tests.status_runs import StatusRun, claim, failed, write

AXIS = ("seq_len=8", "seq_len=9")
ODD = {
    "key": 3,
    "title": "",
    "overrides": [],
    "identities": [],
    "run": "x",
    "seeds": ["a"],
    "model": None,
    "task": None,
    "seq_len": None,
    "num_steps": None,
}


def sweep(
    runs_dir: Path, *jobs: Sequence[str], results: Sequence[JobReturn] = (), **settings: str
) -> list[Sequence[str]]:
    """A sweep that launches nothing; returns what it would have launched."""
    launched: list[Sequence[str]] = []
    shared = [f"runs_dir={runs_dir}", *(f"{key}={value}" for key, value in settings.items())]

    def compose(overrides: list[str]) -> DictConfig:
        return composed(*overrides, *shared)

    def launch(batch: Sequence[Sequence[str]], _: int) -> Sequence[JobReturn]:
        launched.extend(batch)
        return results or [done(None) for _ in batch]

    sweeper.sweep([jobs], compose, launch)
    return launched


def done(value: Any, status: JobStatus = JobStatus.COMPLETED) -> JobReturn:
    one = JobReturn(status=status)
    one.return_value = value
    return one


def look(folder: Path) -> SweepLook:
    return SweepReader([folder]).read()


def told(folder: Path) -> list[tuple[str, int | None, list[int]]]:
    """Status, T and missing seeds of every run."""
    return [
        (run.status, run.seq_len, [member.seed for member in run.members if member.is_missing])
        for run in look(folder).runs
    ]


def trained(runs_dir: Path, *overrides: str, seeds: int = 2) -> Path:
    """The folder of a run of `composed`, finished by somebody under another name."""
    run = validate(composed(*overrides))
    ends = (("solved", 7),) * seeds
    return StatusRun(status="finished", ends=ends, seq_len=run.seq_len, identity=identity_of(run, "cpu")).write(
        runs_dir / "default"
    )


def test_what_never_began_is_missing_by_name_and_counts_its_seeds(tmp_path: Path) -> None:
    sweep(tmp_path, *([item] for item in AXIS))
    assert told(tmp_path) == [("missing", 8, [0, 1]), ("missing", 9, [0, 1])]
    found = look(tmp_path)
    assert found.summary[0] == "2 runs asked for: 2 missing"
    assert found.summary[1].startswith("0 of 4 members done")
    assert [(run.model, run.task, run.num_steps, run.experiment) for run in found.runs] == [
        ("rnn_tanh", "adding_arjovsky2016", 20, "default")
    ] * 2
    assert [(one.status, one.seed) for one in found.open_members] == [("missing", 0), ("missing", 1)] * 2


def test_a_run_counts_by_its_identity_whoever_has_trained_it_and_under_whatever_name(tmp_path: Path) -> None:
    sweep(tmp_path, *([item] for item in AXIS))
    trained(tmp_path, "seq_len=8")
    assert told(tmp_path) == [("missing", 9, [0, 1]), ("finished", 8, [])]
    trained(tmp_path, "seq_len=9", seeds=1)
    assert told(tmp_path) == [("missing", 9, [1]), ("finished", 8, [])]


def test_a_device_that_is_not_yet_known_may_turn_out_to_be_any(tmp_path: Path) -> None:
    sweep(tmp_path, ["device=auto"], ["seq_len=9", "device=cpu"])
    identity = identity_of(validate(composed("device=auto")), "cuda")
    StatusRun(status="finished", ends=(("solved", 1),) * 2, identity=identity).write(tmp_path / "default")
    assert [status for status, _, _ in told(tmp_path)] == ["missing", "finished"]


@pytest.mark.parametrize("elsewhere", ["b", "another/place"])
def test_a_copied_folder_tells_the_same(tmp_path: Path, elsewhere: str) -> None:
    sweep(tmp_path / "a", *([item] for item in AXIS))
    trained(tmp_path / "a", "seq_len=8")
    shutil.copytree(tmp_path / "a" / "default", tmp_path / elsewhere)
    assert told(tmp_path / elsewhere) == told(tmp_path / "a")


def test_the_same_sweep_is_written_once_and_another_beside_it(tmp_path: Path) -> None:
    for _ in range(2):
        sweep(tmp_path, *([item] for item in AXIS))
    (first,) = (tmp_path / "default" / "sweeps").iterdir()
    before = first.read_bytes()
    sweep(tmp_path, ["seq_len=8"], num_seeds="3")
    assert len(list(first.parent.iterdir())) == 2
    assert first.read_bytes() == before
    assert told(tmp_path) == [("missing", 8, [0, 1, 2]), ("missing", 9, [0, 1])]
    first.unlink()
    assert told(tmp_path) == [("missing", 8, [0, 1, 2])]


def test_seeds_of_several_points_of_one_run_add_up(tmp_path: Path) -> None:
    sweep(tmp_path, ["seed=0"], ["seed=7"])
    assert told(tmp_path) == [("missing", 8, [0, 1, 7, 8])]


def test_each_experiment_has_its_own_record(tmp_path: Path) -> None:
    sweep(tmp_path, ["experiment_name=a"], ["experiment_name=b"])
    assert [len(list((tmp_path / name / "sweeps").iterdir())) for name in "ab"] == [1, 1]
    assert [run.experiment for run in look(tmp_path).runs] == ["a", "b"]


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    assert sweep(tmp_path, ["plan=true"]) == [["plan=true"]]
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_cannot_be_composed_launches_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no_such_model"):
        sweep(tmp_path, ["seq_len=8"], ["model=no_such_model"])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_record_is_said_and_the_sweep_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert sweep(tmp_path / "file", ["seq_len=8"]) == [["seq_len=8"]]
    assert "what this sweep asks for is not written down" in caplog.text


def test_a_wrong_point_is_missing_until_it_has_failed_and_then_failed(tmp_path: Path) -> None:
    sweep(tmp_path, ["batch_size=0"])
    assert told(tmp_path) == [("missing", 8, [0, 1])]
    record(
        failure_path(tmp_path / "default", ["batch_size=0"]),
        "`batch_size` must be at least 1",
        [],
        ["batch_size=0"],
        (),
    )
    assert told(tmp_path) == [("failed", 8, [])]
    assert [one.why for one in look(tmp_path).open_members] == ["`batch_size` must be at least 1"] * 2


def test_a_failed_run_keeps_its_reason_and_is_named_by_what_was_asked_for(tmp_path: Path) -> None:
    sweep(tmp_path, ["seq_len=9"], num_seeds="3")
    identity = identity_of(validate(composed("seq_len=9")), "cpu")
    write(tmp_path / "default" / f"x-{identity}" / "failed.json", {"reason": "KeyError: 'x'", "seeds": [0, 1]})
    (run,) = look(tmp_path).runs
    assert (run.status, run.model, run.seq_len, run.why) == ("failed", "rnn_tanh", 9, "KeyError: 'x'")
    assert [(member.seed, member.is_missing) for member in run.members] == [(0, False), (1, False), (2, True)]


def test_a_run_at_work_stays_running_and_knows_of_the_members_that_wait(tmp_path: Path) -> None:
    sweep(tmp_path, ["seq_len=9"], num_seeds="3")
    identity = identity_of(validate(composed("seq_len=9")), "cpu")
    claim(StatusRun(seq_len=9, identity=identity).write(tmp_path / "default"))
    assert told(tmp_path) == [("running", 9, [1, 2])]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"runs": 3}', '{"runs": [{}]}', json.dumps({"runs": [ODD]})],
)
def test_a_record_of_any_shape_is_named_and_hides_no_other(tmp_path: Path, content: str) -> None:
    sweep(tmp_path, ["seq_len=8"])
    (tmp_path / "default" / "sweeps" / "0.json").write_text(content)
    assert sorted(told(tmp_path), key=str) == [("missing", 8, [0, 1]), ("unreadable", None, [])]
    (broken,) = (run for run in SweepReader([tmp_path]).read().runs if run.status == "unreadable")
    assert "0.json" in broken.why
    assert broken.experiment == "default"


def test_a_failure_in_a_finished_run_is_seen_although_its_sheet_says_finished(tmp_path: Path) -> None:
    folder = trained(tmp_path, "seq_len=8")
    reader = SweepReader([tmp_path])
    assert [run.status for run in reader.read().runs] == ["finished"]
    write(folder / "failed.json", {"reason": "OSError: no", "seeds": [0, 1, 2]})
    (run,) = reader.read().runs
    assert (run.status, len(run.members)) == ("failed", 3)


def test_an_experiment_whose_name_looks_like_a_runs_is_an_experiment(tmp_path: Path) -> None:
    folder = StatusRun().write(tmp_path / "sweep-2026010112")
    assert [run.folder for run in look(tmp_path).runs] == [folder]


def test_overrides_in_another_order_or_for_another_place_have_the_same_key() -> None:
    assert key_of(["a=1", "b=2", "runs_dir=x"]) == key_of(["b=2", "runs_dir=y", "a=1", "hydra.launcher.slots=2"])
    assert key_of(["a=1"]) != key_of(["a=2"])


def test_failures_plans_and_runs_left_to_others_are_summed_up_under_any_launcher(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    jobs = [["seq_len=8"], ["seq_len=9"]]
    broken = done(RunError("Error: it broke", "it broke", tmp_path), JobStatus.FAILED)
    raw = done(ConfigError(""), JobStatus.FAILED)
    with pytest.raises(RunError, match="2 of 2 runs failed"):
        sweep(tmp_path, *jobs, results=[broken, raw])
    assert "  #0 seq_len=8: it broke" in caplog.text
    assert "  #1 seq_len=9: ConfigError (no message)" in caplog.text
    with pytest.raises(SystemExit) as left:
        sweep(tmp_path, *jobs, results=[done(Skipped("another is at it")), done(None)])
    assert left.value.code == 75
    assert "1 of 2 runs skipped" in caplog.text
    sweep(tmp_path, *jobs, results=[done(Plan(1, 2)), done(Plan(0, 1))])
    assert "plan of 2 runs: 1 members are done, 3 would be trained" in caplog.text


def test_a_launcher_that_breaks_is_one_line(tmp_path: Path) -> None:
    def launch(batch: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        raise OSError(f"workers {len(batch)} from {first}\nare gone")

    with pytest.raises(RunError, match=r"the launcher broke.*OSError: workers 1 from 0 are gone; gradhorizon-status"):
        sweeper.sweep([[["seq_len=8"]]], lambda overrides: composed(*overrides, f"runs_dir={tmp_path}"), launch)
    assert told(tmp_path) == [("missing", 8, [0, 1])]


def test_the_failures_of_one_batch_do_not_keep_the_next_from_starting(tmp_path: Path) -> None:
    numbers: list[int] = []

    def launch(batch: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        numbers.append(first)
        return [done(RunError("Error: no", "no"), JobStatus.FAILED) for _ in batch]

    batches = [[["seq_len=8"], ["seq_len=9"]], [["seq_len=10"]]]
    with pytest.raises(RunError, match="3 of 3 runs failed"):
        sweeper.sweep(batches, lambda overrides: composed(*overrides, f"runs_dir={tmp_path}"), launch)
    assert numbers == [0, 2]


def test_records_hold_no_absolute_path(tmp_path: Path) -> None:
    sweep(tmp_path, [f"runs_dir={tmp_path}", "seq_len=8"])
    (path,) = (tmp_path / "default" / "sweeps").iterdir()
    assert str(tmp_path) not in path.read_text()
    assert json.loads(path.read_text())["runs"][0]["overrides"] == ["seq_len=8"]


def test_a_failed_look_has_a_reason_and_others_have_none(tmp_path: Path) -> None:
    assert RunLook(tmp_path, "queued", "e").why == ""
    failed(tmp_path)
    assert [run.why for run in look(tmp_path).runs] == ["RuntimeError: out of memory"]
