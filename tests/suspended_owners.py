"""Launches in processes of their own, each as on a host of its own, that can stop themselves at chosen moments.

Their claims are as those of another host, which nobody can look up among processes, so that silence alone says that one
is dead; two seconds of it do.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradhorizon import application
from gradhorizon.records import writing
from gradhorizon.runs import claims
from gradhorizon.runs.log import _LogFile
from gradhorizon.training.module import EnsembleModule
from gradhorizon.training.recorder import MemberFiles
from tests.torture_phases import target_of

SILENCE_S = 2.0
WAIT_S = 300


@dataclass(frozen=True)
class Moment:
    """A call at which the launch stops itself.

    Attributes:
        owner: what the function belongs to.
        name: the function's name.
        counts: whether a call with these arguments counts.
        number: which of those that count, from 1.
        is_after: stop after the call, not before it.
    """

    owner: Any
    name: str
    counts: Callable[..., bool]
    number: int = 1
    is_after: bool = False


def _goes_to(ending: str) -> Callable[..., bool]:
    return lambda *arguments, **options: target_of(*arguments, **options).as_posix().endswith(ending)


def _is_part(*arguments: Any, **options: Any) -> bool:
    return target_of(*arguments, **options).parent.parent.name == "records"


MOMENTS = {
    "in a step": Moment(EnsembleModule, "training_step", lambda *_: True, 8),
    "before a commit": Moment(MemberFiles, "commit", lambda *_: True, 4),
    "before a part appears": Moment(os, "replace", _is_part, 3),
    "between part and checkpoint": Moment(os, "replace", _goes_to("seed-0/checkpoint.pt"), 2),
    "between checkpoint and sheet": Moment(os, "replace", _goes_to("seed-0/checkpoint.pt"), 2, is_after=True),
    "before a network is kept": Moment(os, "replace", _goes_to("seed-0/checkpoints/last.pt")),
    "while merged parts are removed": Moment(writing, "_is_removed", lambda *_: True, 2),
    "before the run's sheet": Moment(os, "replace", _goes_to("/run.json"), 1),
    "before a line of the log": Moment(_LogFile, "emit", lambda *_: True),
}


def stop_at(moment: Moment) -> None:
    """Have this process stop itself at a moment, as Ctrl-Z would, with all its threads."""
    original, calls = getattr(moment.owner, moment.name), [0]

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls[0] += moment.counts(*arguments, **options)
        is_now = calls[0] == moment.number and moment.counts(*arguments, **options)
        if is_now and not moment.is_after:
            os.kill(os.getpid(), signal.SIGSTOP)
        result = original(*arguments, **options)
        if is_now and moment.is_after:
            os.kill(os.getpid(), signal.SIGSTOP)
        return result

    setattr(moment.owner, moment.name, stopping)


@dataclass
class Launched:
    """A process that trains.

    Attributes:
        pid: its id.
        output: what it has said.
        code: its exit code, None while it runs.
    """

    pid: int
    output: Path
    code: int | None = None

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self.output.read_text(encoding="utf-8")

    def wait(self, until_stopped: bool = False) -> None:
        """Return once it has ended, or stopped itself.

        Args:
            until_stopped: whether it must stop, and not end.
        """
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status) and until_stopped:
                return
            if pid and not os.WIFSTOPPED(status):
                self.code = os.waitstatus_to_exitcode(status)
                assert not until_stopped, f"it ended with {self.code} before it stopped: {self.said}"
                return
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"it took more than {WAIT_S} s: {self.said}")

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.code = -signal.SIGKILL


def launched(output: Path, overrides: Sequence[str], moment: Moment | None = None) -> Launched:
    """A launch in a process of its own, forked, so that nothing is imported again.

    Args:
        output: file for what it says, beside which its runs go.
        overrides: of its command line.
        moment: when it stops itself, if ever.
    """
    child = os.fork()
    if child == 0:
        _train(output, overrides, moment)
    return Launched(child, output)


def _train(output: Path, overrides: Sequence[str], moment: Moment | None) -> None:
    code = 1
    try:
        with output.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(output.parent)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        claims.this_machine = lambda: f"the machine of {os.getpid()}"  # type: ignore[assignment]
        claims.HEARTBEAT_S, claims.SILENCE_S = 0.1, SILENCE_S
        if moment is not None:
            stop_at(moment)
        sys.argv = ["gradhorizon", *overrides]
        application.command()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001, the parent reads it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
