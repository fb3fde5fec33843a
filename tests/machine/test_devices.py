"""The number of GPUs is torch's own, and asking for it imports no torch."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from gradhorizon.machine import gpus

COUNT = """
import sys
from gradhorizon.machine import gpus
by_driver, is_imported = gpus.count(), "torch" in sys.modules
import torch
print(by_driver, torch.cuda.device_count() if torch.cuda.is_available() else 0, is_imported or gpus._is_torch_needed())
"""


@dataclass
class Driver:
    """A CUDA driver of which everything is known."""

    version: int = 12080
    devices: int = 2
    start_error: int = 0
    count_error: int = 0

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.start_error

    def cuDriverGetVersion(self, out: Any) -> int:
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = self.version
        return 0

    def cuDeviceGetCount(self, out: Any) -> int:
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = self.devices
        return self.count_error


@pytest.mark.parametrize(
    ("driver", "count"),
    [
        (Driver(), 2),
        (Driver(devices=0), 0),
        (Driver(version=13000), 2),
        (Driver(version=12000), 2),
        (Driver(version=11080), 0),
        (Driver(start_error=100), 0),
        (Driver(count_error=3), 0),
    ],
)
def test_a_driver_offers_its_devices_to_programs_of_its_own_release_and_older(driver: Any, count: int) -> None:
    assert gpus.devices_of(driver, 12) == count


def test_the_driver_is_asked_only_where_torch_was_built_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_build", lambda: {"cuda": None, "hip": None})
    assert not gpus._is_torch_needed()
    assert gpus._count_by_driver.__wrapped__() == 0


def test_a_missing_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_build", lambda: {"cuda": "12.8", "hip": None})
    monkeypatch.setattr(gpus, "_DRIVER", "libcuda_of_no_machine.so.1")
    assert gpus._count_by_driver.__wrapped__() == 0


def test_the_count_is_that_of_torch_and_imports_no_torch_where_the_driver_can_be_asked() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    by_driver, by_torch, is_imported = done.stdout.split()
    assert by_driver == by_torch
    assert is_imported == "False"
