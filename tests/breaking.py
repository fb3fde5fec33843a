"""A cell that breaks where it is told to, in the way it is told to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradhorizon.cells.elman import Elman


class Unspeakable(Exception):  # noqa: N818, a name that tells no reader what it is for
    """One whose words break, too."""

    def __str__(self) -> str:
        raise ValueError("no words")


def _refuse() -> None:
    raise RuntimeError("it broke\n  in two lines\x1b[31m")


def _run_out() -> None:
    next(iter(()))


def _remember() -> None:
    raise MemoryError


def _mumble() -> None:
    raise Unspeakable


def _leave_python() -> None:
    raise BaseException("no exception")  # noqa: TRY002, whatever it is


WAYS: dict[str, Callable[[], object]] = {
    "raise": _refuse,
    "run_out": _run_out,
    "memory": _remember,
    "mumble": _mumble,
    "base": _leave_python,
    "exit": lambda: sys.exit(3),
    "exit0": lambda: sys.exit(0),
    "exit_words": lambda: sys.exit("enough"),
    "die": lambda: os._exit(7),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


class Breaking(Elman):
    """Elman's recurrence until it breaks, which it no longer does where a file ``healed`` lies.

    Args:
        input_size: D.
        hidden_size: H.
        way: ``<where>-<how>``: where is ``constructor``, ``gate``, or a function within which it breaks, with the
            number of the optimizer step if it matters, as in ``training_step@3-exit``.
    """

    def __init__(self, input_size: int, hidden_size: int, way: str = "none-none") -> None:
        super().__init__(input_size, hidden_size)
        self.where, self.how = way.split("-")
        if self.where == "constructor":
            WAYS[self.how]()

    def segment(self, *arguments: Any) -> Any:
        """Elman's, or the end."""
        outputs, state = super().segment(*arguments)
        if self.where == "gate":
            return outputs * 2, state
        if _is_within(*self.where.split("@")) and not Path("healed").exists():
            WAYS[self.how]()
        return outputs, state


def _is_within(name: str, step: str = "") -> bool:
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and (not step or frame.f_locals.get("batch_idx") == int(step))
