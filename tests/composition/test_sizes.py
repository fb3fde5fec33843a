"""Sizes that no machine holds are refused before anything is built, and large ones that are none are answered."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

from gradhorizon.composition import sizes
from gradhorizon.config import ConfigError, validate
from gradhorizon.machine import stopping
from gradhorizon.machine.stopping import commit_when_asked, leave_when_asked
from gradhorizon.measurements.probe import log_spaced_lags
from gradhorizon.sweeps.sweeper import asked_run
from tests.runs_on_disk import composed, run

LARGEST = 2**31 - 1
HUGE = (
    f"num_seeds={LARGEST}",
    "num_seeds=100000000",
    "num_layers=1000000000",
    "hidden_size=1000000",
    f"batch_size={LARGEST}",
    f"seq_len={LARGEST}",
    f"val_size={LARGEST}",
    f"probe_batch_size={LARGEST}",
)


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "machine_bytes", lambda: 16 * 2**30)


@pytest.mark.parametrize("plan", ["plan=true", "plan=false"])
@pytest.mark.parametrize("size", HUGE)
def test_a_size_that_no_machine_holds_is_refused_by_its_key(tmp_path: Path, size: str, plan: str) -> None:
    with pytest.raises(ConfigError, match=rf"`{size.partition('=')[0]}`=.* than this machine can hold"):
        run(tmp_path, size, plan)
    assert not list(tmp_path.iterdir())


def test_more_seeds_than_fit_are_refused_over_a_finished_run_too(tmp_path: Path) -> None:
    folder = run(tmp_path, "num_steps=1", "num_seeds=1")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="2147483646 members take at least 32 TiB"):
        run(tmp_path, "num_steps=1", f"num_seeds={LARGEST}")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("size", [f"num_steps={LARGEST}", f"num_cuts={LARGEST}", f"val_every_steps={LARGEST}"])
def test_a_plan_of_what_needs_no_memory_is_answered(
    tmp_path: Path, size: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run(tmp_path, size, "plan=true", "num_seeds=12")
    assert "plan: trains seeds 0 … 11, at most" in caplog.text


def test_cuts_that_are_finer_than_a_step_are_all_steps() -> None:
    assert log_spaced_lags(40, LARGEST) == log_spaced_lags(40, 10_000) == list(range(41))


def test_what_a_sweep_asks_for_names_every_seed() -> None:
    overrides = ["num_seeds=20000"]
    assert asked_run(composed(*overrides), "", overrides).seeds == list(range(20_000))


def test_a_machine_whose_memory_nobody_knows_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "machine_bytes", lambda: None)
    sizes.refuse_members(validate(composed()), LARGEST)


def test_a_signal_to_end_leaves_at_once_while_a_launch_only_looks() -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        leave_when_asked()
        with commit_when_asked():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stopping.is_requested()
        with pytest.raises(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        stopping._asked.clear()
        signal.signal(signal.SIGTERM, earlier)
