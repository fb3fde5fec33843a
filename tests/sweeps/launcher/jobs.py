"""What the scheduler is tested with: functions of microseconds that end in every way a run can end."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gradhorizon.machine import stopping

PATIENCE_S = 60.0


def surroundings() -> dict[str, Any]:
    """What a fresh process finds."""
    cores = sorted(os.sched_getaffinity(0))
    return {"pid": os.getpid(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "cores": cores}


def meet(folder: Path, count: int) -> tuple[str | None, float, float]:
    """Wait until `count` jobs are there; returns the GPU it was given, and when it began and ended."""
    start = time.monotonic()
    (folder / f"there-{os.getpid()}").touch()
    while len(list(folder.glob("there-*"))) < count:
        assert time.monotonic() < start + PATIENCE_S
        time.sleep(0.01)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), start, time.monotonic()


def speak() -> None:
    print("to standard output")  # noqa: T201
    os.write(2, b"to standard error\n")


def interrupt() -> None:
    """Raise an exception without words."""
    raise KeyboardInterrupt


def fail_in_red() -> None:
    """Raise an exception whose words would colour a terminal."""
    raise RuntimeError("\x1b[31mred\x1b[0m\nmore")


def fail() -> None:
    raise ValueError("the very\nreason")


def leave(code: int) -> None:
    sys.exit(code)


def leave_at_once(code: int) -> None:
    os._exit(code)


def leave_traces(folder: Path) -> None:
    (folder / f"trace-{os.getpid()}").touch()


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    time.sleep(PATIENCE_S)


def eat(mebibytes: int) -> int:
    """Hold memory until somebody objects."""
    held = b"x" * (mebibytes * 2**20)
    time.sleep(PATIENCE_S)
    return len(held)


def fail_until(attempt: int, notes: Path) -> int:
    """Fail until the given attempt; returns it."""
    with notes.open("a", encoding="utf-8") as file:
        file.write("x")
    made = len(notes.read_text(encoding="utf-8"))
    if made < attempt:
        raise OSError(f"attempt {made}")
    return made


def work_politely(folder: Path) -> None:
    """Go on until asked to stop, then commit and leave."""
    (folder / f"started-{os.getpid()}").touch()
    deadline = time.monotonic() + PATIENCE_S
    while not stopping.is_requested():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (folder / f"committed-{os.getpid()}").touch()
    raise stopping.Stopped


def work_stubbornly(folder: Path) -> None:
    """Go on whatever anybody asks."""
    (folder / f"started-{os.getpid()}").touch()
    hang()
