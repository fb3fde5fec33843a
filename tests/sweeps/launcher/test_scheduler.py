"""The scheduler: whatever a job does, the others run, and what became of it is known."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from gradhorizon.config import ConfigError
from gradhorizon.sweeps.launcher.process import Job
from gradhorizon.sweeps.launcher.scheduler import Ending, Limits, SlotScheduler
from gradhorizon.sweeps.launcher.slots import Slot
from tests.sweeps.launcher import jobs

ROOT = Path(__file__).parents[3]
ANY_TWO = (Slot(0), Slot(1))


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.sweeps.launcher.jobs", "gradhorizon.sweeps.launcher.process"])
    return found


def job(number: int, target: Callable[..., Any], *arguments: object, **more: Any) -> Job:
    return Job(number, f"#{number}", target, arguments, **more)


def run(
    context: ForkServerContext, todo: Sequence[Job | None], slots: Sequence[Slot] = ANY_TWO, **limits: Any
) -> list[Ending]:
    endings: list[Ending] = []
    SlotScheduler(slots, Limits(**limits), context, lambda *_: None, endings.append).run(todo)
    return endings


def final(endings: Sequence[Ending]) -> dict[int, Ending]:
    return {ending.job.number: ending for ending in endings if not ending.is_retried}


@pytest.mark.parametrize(
    ("target", "arguments", "reason", "trace"),
    [
        (jobs.fail, (), "ValueError: the very reason", "raise ValueError"),
        (jobs.interrupt, (), "KeyboardInterrupt (no message)", "raise KeyboardInterrupt"),
        (jobs.fail_in_red, (), "RuntimeError: \ufffd[31mred\ufffd[0m more", "raise RuntimeError"),
        (jobs.leave, (3,), "SystemExit: exited with code 3", "sys.exit(code)"),
        (jobs.leave, (0,), "SystemExit: exited with code 0", "sys.exit(code)"),
        (jobs.leave_at_once, (4,), "exited with code 4 before it had ended", ""),
        (jobs.be_killed, (), "killed by signal 9, SIGKILL (out of memory?)", ""),
        (jobs.crash, (), "killed by signal 11, SIGSEGV", ""),
    ],
)
def test_a_job_that_breaks_is_told_from_the_others_which_run(
    context: ForkServerContext, target: Callable[..., Any], arguments: tuple[Any, ...], reason: str, trace: str
) -> None:
    endings = final(run(context, [job(0, jobs.surroundings), job(1, target, *arguments), job(2, jobs.surroundings)]))
    assert [endings[number].report.status for number in range(3)] == ["finished", "failed", "finished"]
    assert endings[1].report.reason == reason
    assert trace in endings[1].report.traceback


def test_every_job_has_a_process_of_its_own(context: ForkServerContext) -> None:
    endings = run(context, [job(number, jobs.surroundings) for number in range(4)], [Slot(0)])
    assert len({ending.report.value["pid"] for ending in endings} | {os.getpid()}) == 5


def test_repeated_gpus_pack_jobs_and_the_emptiest_is_taken_first(context: ForkServerContext, tmp_path: Path) -> None:
    slots = [Slot(number, gpu=name) for number, name in enumerate(["7", "7", "9", "9"])]
    endings = final(run(context, [job(number, jobs.meet, tmp_path, 4) for number in range(4)], slots))
    assert [endings[number].report.value[0] for number in range(4)] == ["7", "9", "7", "9"]


def test_no_more_jobs_run_than_there_are_slots(context: ForkServerContext, tmp_path: Path) -> None:
    endings = run(context, [job(number, jobs.meet, tmp_path, 2) for number in range(5)])
    spans = [ending.report.value[1:] for ending in endings]
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) == 2


def test_cpu_groups_pin_their_jobs(context: ForkServerContext) -> None:
    core = max(os.sched_getaffinity(0))
    (ending,) = run(context, [job(0, jobs.surroundings)], [Slot(0, cores=frozenset({core}))])
    assert ending.report.value["cores"] == [core]


def test_jobs_of_one_key_never_run_side_by_side(context: ForkServerContext, tmp_path: Path) -> None:
    keys = ["a", "a", "b"]
    endings = final(run(context, [job(number, jobs.meet, tmp_path, 2, key=key) for number, key in enumerate(keys)]))
    spans = {number: ending.report.value[1:] for number, ending in endings.items()}
    assert spans[1][0] > spans[0][1]
    assert spans[2][0] < spans[0][1]


def test_the_main_module_of_the_launcher_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(f"print('main')\nimport sys\nsys.argv[1:] = ['leave_traces', {str(tmp_path)!r}]\n{SCHEDULE}")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("main") == 1
    assert done.stdout.count("finished") == 5


def test_points_without_a_job_are_passed_over(context: ForkServerContext) -> None:
    assert sorted(final(run(context, [None, job(1, jobs.surroundings), None, None]))) == [1]


def test_the_next_job_is_at_hand_before_its_slot_is_free(context: ForkServerContext, tmp_path: Path) -> None:
    def source() -> Iterator[Job]:
        yield job(0, jobs.meet, tmp_path, 2)
        (tmp_path / "there-source").touch()
        yield job(1, jobs.surroundings)

    endings: list[Ending] = []
    SlotScheduler([Slot(0)], Limits(), context, lambda *_: None, endings.append).run(source())
    assert [ending.report.status for ending in endings] == ["finished", "finished"]


def test_a_failed_job_is_tried_again_after_all_others(context: ForkServerContext, tmp_path: Path) -> None:
    todo = [job(0, jobs.fail_until, 3, tmp_path / "notes"), job(1, jobs.surroundings)]
    endings = run(context, todo, [Slot(0)], retries=2)
    assert [(ending.job.number, ending.attempt, ending.is_retried) for ending in endings] == [
        (0, 1, True),
        (1, 1, False),
        (0, 2, True),
        (0, 3, False),
    ]
    assert endings[-1].report.value == 3


def test_retries_end(context: ForkServerContext, tmp_path: Path) -> None:
    endings = run(context, [job(0, jobs.fail_until, 9, tmp_path / "notes")], retries=1)
    assert [ending.report.reason for ending in endings] == ["OSError: attempt 1", "OSError: attempt 2"]
    assert [ending.is_retried for ending in endings] == [True, False]


def test_what_cannot_get_better_is_not_tried_again(context: ForkServerContext) -> None:
    assert len(run(context, [job(0, jobs.fail, not_retried=(ValueError,))], retries=3)) == 1


def test_a_job_beyond_its_time_is_killed_after_the_grace(context: ForkServerContext) -> None:
    endings = final(run(context, [job(0, jobs.hang), job(1, jobs.surroundings)], time_limit_s=0.3, grace_s=0.2))
    assert endings[0].report.status == "failed"
    assert endings[0].report.reason == "time limit of 0.3 s"
    assert 0.5 <= endings[0].wall_s < jobs.PATIENCE_S  # it would hang for that long
    assert endings[1].report.status == "finished"


def test_a_job_beyond_its_time_may_commit_first(context: ForkServerContext, tmp_path: Path) -> None:
    (ending,) = run(context, [job(0, jobs.work_politely, tmp_path)], time_limit_s=0.3)
    assert (ending.report.status, ending.report.reason) == ("failed", "time limit of 0.3 s")
    assert len(list(tmp_path.glob("committed-*"))) == 1


def test_a_job_beyond_its_memory_is_killed(context: ForkServerContext) -> None:
    endings = final(run(context, [job(0, jobs.eat, 400), job(1, jobs.surroundings)], memory_limit_gib=0.35))
    assert endings[0].report.reason.startswith("memory limit of 0.35 GiB: it held 0.")
    assert endings[1].report.status == "finished"


def test_output_goes_to_the_file_of_the_job(
    context: ForkServerContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(context, [job(0, jobs.speak, output=tmp_path / "0.txt"), job(1, jobs.fail, output=tmp_path / "1.txt")])
    assert "to standard output" in (tmp_path / "0.txt").read_text()
    assert "to standard error" in (tmp_path / "0.txt").read_text()
    assert "raise ValueError" in (tmp_path / "1.txt").read_text()
    assert "standard" not in "".join(capfd.readouterr())


def test_a_crash_beneath_python_leaves_where_it_was(context: ForkServerContext, tmp_path: Path) -> None:
    run(context, [job(0, jobs.crash, output=tmp_path / "out.txt")])
    assert "Segmentation fault" in (tmp_path / "out.txt").read_text()
    assert "in crash" in (tmp_path / "out.txt").read_text()


def test_output_of_a_second_attempt_is_appended(context: ForkServerContext, tmp_path: Path) -> None:
    run(context, [job(0, jobs.fail_until, 2, tmp_path / "notes", output=tmp_path / "out.txt")], retries=1)
    text = (tmp_path / "out.txt").read_text()
    assert text.index("attempt 1") < text.index("attempt 2")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"retries": -1}, "`hydra.launcher.retries` must be 0 or more, got -1"),
        ({"time_limit_s": 0}, "`hydra.launcher.time_limit_s` must be positive or null, got 0"),
        ({"time_limit_s": float("nan")}, "`hydra.launcher.time_limit_s` must be positive or null, got nan"),
        ({"memory_limit_gib": -2}, "`hydra.launcher.memory_limit_gib` must be positive or null, got -2"),
        ({"grace_s": -1}, "`hydra.launcher.grace_s` must be 0 or more, got -1"),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Limits(**limits)


SCHEDULE = """
import multiprocessing, sys
from pathlib import Path
from gradhorizon.sweeps.launcher.process import Job
from gradhorizon.sweeps.launcher.scheduler import Limits, SlotScheduler
from gradhorizon.sweeps.launcher.slots import Slot
from tests.sweeps.launcher import jobs

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.sweeps.launcher.jobs", "gradhorizon.sweeps.launcher.process"])
todo = [Job(number, f"#{number}", getattr(jobs, sys.argv[1]), (Path(sys.argv[2]),)) for number in range(5)]
say = lambda ending: print(ending.job.number, ending.report.status, flush=True)
scheduler = SlotScheduler([Slot(0), Slot(1)], Limits(), context, lambda *_: None, say)
scheduler.run(todo)
print("interrupted", scheduler.is_interrupted, flush=True)
"""


def started(name: str, folder: Path) -> subprocess.Popen[str]:
    """A scheduler in a process group of its own, with two jobs running."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCHEDULE, name, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(list(folder.glob("started-*"))) == 2)
    return process


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_any_alive(folder: Path) -> bool:
    return any(Path(f"/proc/{path.name.removeprefix('started-')}").exists() for path in folder.glob("started-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_once_it_starts_nothing_more_and_lets_jobs_commit(tmp_path: Path, number: int) -> None:
    process = started("work_politely", tmp_path)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    said = process.communicate(timeout=60)[0].splitlines()
    assert sorted(said) == ["0 stopped", "1 stopped", "interrupted True"]
    assert len(list(tmp_path.glob("committed-*"))) == len(list(tmp_path.glob("started-*"))) == 2


def test_interrupted_twice_it_kills_what_does_not_leave(tmp_path: Path) -> None:
    process = started("work_stubbornly", tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0].splitlines()
    assert sorted(said) == ["0 stopped", "1 stopped", "interrupted True"]
    assert not is_any_alive(tmp_path)


def test_jobs_commit_and_leave_when_their_launcher_is_killed(tmp_path: Path) -> None:
    process = started("work_politely", tmp_path)
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: len(list(tmp_path.glob("committed-*"))) == 2)
    wait_until(lambda: not is_any_alive(tmp_path))
