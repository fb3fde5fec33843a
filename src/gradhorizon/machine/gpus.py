"""How many CUDA devices torch will find, asked of the driver where importing torch would take seconds."""

from __future__ import annotations

import ctypes
import importlib.util
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

_DRIVER = "libcuda.so.1"


def count() -> int:
    """CUDA devices that this process can use: what ``torch.cuda.device_count()`` says, or 0 where CUDA cannot start."""
    if "torch" in sys.modules or _is_torch_needed():
        import torch  # noqa: PLC0415

        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return _count_by_driver()


@cache
def _build() -> dict[str, str | None]:
    """What torch was built for, from its version file, which imports nothing."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))


def _is_torch_needed() -> bool:
    is_cuda = _build().get("cuda") is not None
    return _build().get("hip") is not None or (is_cuda and not sys.platform.startswith("linux"))


@cache
def _count_by_driver() -> int:
    built_for = _build().get("cuda")
    if built_for is None:
        return 0
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    return devices_of(driver, int(built_for.split(".")[0]))


def devices_of(driver: Any, built_for_major: int) -> int:
    """Devices that a CUDA driver offers to a program, 0 if it offers none or is older than the program.

    Args:
        driver: the driver's library, a `ctypes.CDLL`.
        built_for_major: major version of the CUDA release that the program was built for.

    Source:
        CUDA C++ Programming Guide, "Minor version compatibility": a driver serves every release of its own major
        version and of earlier ones. ``cuDriverGetVersion`` returns 1000 major + 10 minor.
    """
    version, number = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(version)):
        return 0
    if version.value // 1000 < built_for_major or driver.cuDeviceGetCount(ctypes.byref(number)):
        return 0
    return number.value
