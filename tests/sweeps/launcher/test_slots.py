"""Slots: what is asked for, what is there, what is refused."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gradhorizon.config import ConfigError
from gradhorizon.machine import gpus
from gradhorizon.sweeps.launcher import slots
from gradhorizon.sweeps.launcher.slots import Slot, slots_of

CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("num_threads", "count"), [(1, 6), (2, 3), (4, 1), (8, 1)])
def test_by_default_the_cpu_has_as_many_slots_as_its_cores_can_feed(
    monkeypatch: pytest.MonkeyPatch, num_threads: int, count: int
) -> None:
    monkeypatch.setattr(slots, "num_cores", lambda: 6)
    assert slots_of(None, "cpu", num_threads) == [Slot(number) for number in range(count)]


@pytest.mark.usefixtures("_two_gpus")
def test_by_default_every_gpu_is_a_slot() -> None:
    assert slots_of(None, "cuda", 1) == [Slot(0, gpu="0"), Slot(1, gpu="1")]


@pytest.mark.usefixtures("_two_gpus")
def test_by_default_gpus_are_those_that_the_launcher_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5ad1")
    assert [slot.gpu for slot in slots_of(None, "cuda", 1)] == ["3", "GPU-5ad1"]


@pytest.mark.usefixtures("_two_gpus")
def test_gpus_are_left_alone_by_runs_on_the_cpu() -> None:
    assert all(slot.gpu is None for slot in slots_of(None, "cpu", 1))


def test_repeated_gpus_are_slots_of_their_own() -> None:
    assert [slot.gpu for slot in slots_of([0, 0, "1"], "cuda", 1)] == ["0", "0", "1"]


def test_a_number_is_slots_on_the_cpu() -> None:
    assert slots_of(3, "cpu", 1) == [Slot(0), Slot(1), Slot(2)]


def test_groups_name_their_cores() -> None:
    named = f"cpu:{CORES[0]},{CORES[-1]}-{CORES[-1]}"
    assert slots_of([named], "cpu", 1) == [Slot(0, cores=frozenset({CORES[0], CORES[-1]}))]


def test_slots_say_where_they_are() -> None:
    assert [str(slot) for slot in (Slot(0), Slot(0, gpu="2"), Slot(0, cores=frozenset({1, 0})))] == [
        "CPU",
        "GPU 2",
        "CPU cores 0, 1",
    ]


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        (0, "cpu", "must be at least 1, got 0; for GPU 0 write slots="),
        ([], "cpu", "must be GPU ids"),
        (["cpu:0", "1"], "cpu", "must be GPU ids"),
        (["cpu:x"], "cpu", "must be GPU ids"),
        (["cpu:0-100000"], "cpu", "may not use or pin"),
        (["cpu:3-1"], "cpu", "ranges must ascend"),
        ("0,1", "cuda", "must be GPU ids"),
        ("cpu:0", "cpu", "must be GPU ids"),
        (1.5, "cpu", "must be GPU ids"),
        (True, "cpu", "must be GPU ids"),
        ({"a": 1}, "cuda", "must be GPU ids"),
        ([None], "cuda", "must be GPU ids"),
        ([[0]], "cuda", "must be GPU ids"),
        ([-1], "cuda", "must be GPU ids"),
        (["x"], "cuda", "must be GPU ids"),
        ([0, 0], "cpu", "names GPUs, but runs are on cpu"),
        (2, "cuda", "must be a list of GPU ids for device=cuda"),
        ([f"cpu:{CORES[0]}"], "cuda", "must be a list of GPU ids for device=cuda"),
    ],
)
def test_slots_that_cannot_be_are_refused(asked: Any, device: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        slots_of(asked, device, 1)
