"""Asked to stop, training commits between two optimizer steps, leaves, and later goes on to the same bits."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gradhorizon import application
from gradhorizon.machine import stopping
from gradhorizon.records.files import read_json
from gradhorizon.training.module import EnsembleModule
from tests.runs_on_disk import TINY, assert_same_records, run

HEEDED = """
import signal
from gradhorizon import application
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
application.command()
"""
MOMENTUM = ("optimizer=sgd", "optimizer.momentum=0.9", "clip_norm=0.05")


def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, *overrides: str) -> Path:
    """A run that was asked to stop while it took optimizer step `at_step` (from 1); returns its folder."""
    asked: list[int] = []
    original = EnsembleModule.training_step

    def asking(self: EnsembleModule, batch: object, batch_idx: int) -> None:
        if self.first_step + batch_idx + 1 == at_step:
            asked.append(at_step)
        original(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(EnsembleModule, "training_step", asking)
    monkeypatch.setattr(stopping, "is_requested", lambda: bool(asked))
    with pytest.raises(stopping.Stopped) as caught:
        run(tmp_path, *overrides)
    assert caught.value.code == stopping.EXIT_CODE
    monkeypatch.undo()
    return next(path for path in (tmp_path / "default").iterdir() if path.is_dir())


@pytest.mark.parametrize(("at_step", "overrides"), [(7, ()), (10, MOMENTUM), (19, MOMENTUM)])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, overrides: tuple[str, ...]
) -> None:
    whole = run(tmp_path / "whole", *overrides)
    folder = stopped(tmp_path, monkeypatch, at_step, *overrides)
    assert run(tmp_path, *overrides) == folder
    for seed in (0, 1):
        assert_same_records(whole, folder, seed)
    final = [torch.load(path / "seed-1" / "checkpoint.pt", weights_only=True) for path in (whole, folder)]
    networks = [checkpoint["member"]["network"] for checkpoint in final]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_a_stopped_run_has_committed_every_step_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped(tmp_path, monkeypatch, 7)
    assert read_json(folder / "run.json")["status"] == "running"
    for seed in (0, 1):
        assert torch.load(folder / f"seed-{seed}" / "checkpoint.pt", weights_only=True)["step"] == 7
        assert {path.name for path in folder.glob(f"seed-{seed}/records/*/*")} == {"00000000-00000007.parquet"}


def test_a_run_stopped_at_its_last_step_has_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "is_requested", lambda: True)
    folder = run(tmp_path, "num_steps=1", "val_every_steps=1")
    assert read_json(folder / "run.json")["status"] == "finished"


@pytest.fixture
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and so would tests that it starts."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("_ctrl_c_is_heard")
def test_ctrl_c_asks_once_and_is_then_what_it_always_is() -> None:
    with pytest.raises(KeyboardInterrupt), stopping.requested_by_ctrl_c():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert stopping.is_requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert not stopping.is_requested()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_means_something_else_is_left_alone() -> None:
    heard: list[int] = []
    earlier = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with stopping.requested_by_ctrl_c():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert heard == [signal.SIGINT]
    assert not stopping.is_requested()


def test_ctrl_c_before_any_training_is_a_word_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(application, "main", interrupted)
    with pytest.raises(SystemExit) as caught:
        application.command()
    assert caught.value.code == stopping.EXIT_CODE
    assert "launch the same command again to go on" in caplog.text


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_of_the_basic_launcher_at_a_commit(tmp_path: Path) -> None:
    sweep = (*TINY, "seq_len=20,30", "num_steps=100000", "val_every_steps=100000")
    command = [sys.executable, "-c", HEEDED, "-m", *sweep]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("runs/default/*/seed-1/checkpoints/init.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == stopping.EXIT_CODE, said
    assert "stopped as asked; launch the same command again to go on" in said
    assert "Traceback" not in said
    (folder,) = (tmp_path / "runs" / "default").glob("*-T20-*")
    assert all((folder / f"seed-{seed}" / "checkpoint.pt").is_file() for seed in (0, 1))


TRAIN = [sys.executable, "-m", "gradhorizon.application"]


def hung_up_on(tmp_path: Path, disposition: signal.Handlers, *overrides: str) -> subprocess.Popen[str]:
    """A launch that trains for long, with all that it has begun; its terminal is about to be closed."""
    process = subprocess.Popen(
        [*TRAIN, *overrides, *TINY, "val_every_steps=100000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, disposition),  # noqa: PLW1509, as `nohup` does
    )
    wait_until_begun(tmp_path, process)
    return process


def wait_until_begun(tmp_path: Path, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("runs/default/*/seed-1/checkpoints/init.pt")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)


def assert_committed(tmp_path: Path) -> None:
    (folder,) = (path.parent for path in (tmp_path / "runs" / "default").glob("*/run.json"))
    assert read_json(folder / "run.json")["status"] == "running"
    assert not (folder / "failed.json").exists()
    steps = [read_json(folder / f"seed-{seed}" / "member.json")["step"] for seed in (0, 1)]
    assert steps[0] == steps[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), ("-m", "hydra/launcher=local")])
def test_a_closed_terminal_stops_a_run_at_a_commit(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    process = hung_up_on(tmp_path, signal.SIG_DFL, *launcher, "num_steps=100000")
    for _ in range(2):  # the system tells the process, and the shell does, too
        os.killpg(process.pid, signal.SIGHUP)
    said = process.communicate(timeout=240)[1]
    assert process.returncode == stopping.EXIT_CODE, said
    assert "Traceback" not in said
    assert_committed(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), ("-m", "hydra/launcher=local")])
def test_nohup_keeps_a_run_going_when_its_terminal_is_closed(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    process = hung_up_on(tmp_path, signal.SIG_IGN, *launcher, "num_steps=300")
    os.killpg(process.pid, signal.SIGHUP)
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said


@pytest.mark.slow
def test_a_terminal_that_is_really_closed_is_no_error(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*TRAIN, *TINY, "num_steps=100000", "val_every_steps=100000"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509, as its controlling terminal
    )
    os.close(theirs)
    drain = threading.Thread(target=_read_until_closed, args=(ours,), daemon=True)
    drain.start()
    wait_until_begun(tmp_path, process)
    _closed.set()
    drain.join(60)
    assert process.wait(timeout=240) == stopping.EXIT_CODE
    assert_committed(tmp_path)


_closed = threading.Event()


def _read_until_closed(terminal: int) -> None:
    while not _closed.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 4096)
    os.close(terminal)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_what_measures_is_interrupted_by_a_closed_terminal_once(number: signal.Signals) -> None:
    earlier = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), stopping.interrupted_by_signals():  # noqa: PT012
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(number)  # on the way out, it is not heard
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, earlier)


def test_signals_that_nohup_ignores_stay_ignored() -> None:
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stopping.heed_signals()
        with stopping.interrupted_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert not stopping.is_requested()
    finally:
        signal.signal(signal.SIGHUP, earlier)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_launchers_polite_request_stays_one_while_a_run_only_looks_and_while_it_trains() -> None:
    with stopping.handled([signal.SIGTERM, signal.SIGHUP], signal.SIG_DFL):
        stopping.leave_when_asked()
        assert signal.getsignal(signal.SIGTERM) is stopping._leave
        stopping.heed_signals()
        stopping.leave_when_asked()
        with stopping.commit_when_asked():
            assert signal.getsignal(signal.SIGTERM) is stopping._heed
