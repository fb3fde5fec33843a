"""One job in a fresh process: what the process does, and what its launcher knows of it."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from gradhorizon.machine import stopping
from gradhorizon.records import safely
from gradhorizon.runs.locks import when_lost
from gradhorizon.sweeps.launcher.slots import Slot
from gradhorizon.terminal.reasons import reason_of

_GIB = 2**30
_EXIT_S = 60.0  # that a process may take to exit after its report
_ENDING_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
Status = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        number: its place in the sweep.
        title: what people call it.
        target: what the fresh process calls; found there by the name of its module, which must not be the main one.
        arguments: what it is called with.
        key: jobs of one key never run side by side; None: with any.
        output: file that its standard output and error are appended to; None: the launcher's own.
        not_retried: exceptions after which trying again is of no use.
    """

    number: int
    title: str
    target: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    key: str | None = None
    output: Path | None = None
    not_retried: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True)
class Report:
    """How a job ended: the process's own word, or what its launcher makes of its silence.

    Attributes:
        status: finished, failed, or stopped at a commit because somebody asked.
        value: what the target returned.
        reason: why it failed, in one line.
        traceback: where, if Python could say.
        is_final: trying again is of no use.
    """

    status: Status
    value: Any = None
    reason: str = ""
    traceback: str = ""
    is_final: bool = False


def serve(job: Job, attempt: int, slot: Slot, connection: Connection) -> None:
    """What the fresh process does: takes its slot, runs the job, and reports.

    Anything that arrives on `connection`, and its end (the launcher is gone), is a request to stop.
    """
    gc.freeze()  # what was preloaded is never garbage; to look through it again and again would copy all its memory
    os.setsid()  # Ctrl-C is the launcher's business, and a kill takes the job's own children too
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping.heed_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
    threading.Thread(target=_await_request, args=(connection,), daemon=True).start()
    report = _unwritable(job.output)
    if job.output is not None and report is None:
        when_lost.append(_fall_silent)
        faulthandler.enable(2)  # a crash beneath Python then leaves its traceback, too
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}  {job.title}  (attempt {attempt}, {slot})", flush=True)  # noqa: T201
    report = report or _run(job, slot)
    with suppress(OSError):  # the launcher is gone
        connection.send(report)


def _run(job: Job, slot: Slot) -> Report:
    try:
        slot.occupy()
        return Report("finished", job.target(*job.arguments))
    except SystemExit as error:
        if stopping.is_requested():
            return Report("stopped")
        return Report("failed", reason=reason_of(error), traceback=traceback.format_exc())
    except BaseException as error:  # noqa: BLE001, whatever it is ends this job alone
        traceback.print_exc()
        return Report(
            "failed",
            reason=reason_of(error),
            traceback=traceback.format_exc(),
            is_final=isinstance(error, job.not_retried),
        )


def _await_request(connection: Connection) -> None:
    with suppress(EOFError, OSError):
        connection.recv()
    stopping.request()


def _unwritable(output: Path | None) -> Report | None:
    """Why a job cannot speak into the file that is its output; None if it does so from now on."""
    try:
        if output is not None:
            _redirect(safely.open_to_append(output))
    except OSError as error:
        return Report("failed", reason=f"{output} cannot be written: {reason_of(error)}", is_final=True)
    return None


def _redirect(descriptor: int) -> None:
    for stream, standard in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(descriptor, standard)
    os.close(descriptor)


def _fall_silent() -> None:
    """Let what is still said go nowhere: the output lies in the folder of a run that is another process's by now."""
    _redirect(os.open(os.devnull, os.O_WRONLY))


def ensure_fork_server() -> None:
    """Start what jobs are forked from, if it does not run: no Ctrl-C, SIGTERM to all, or closed terminal ends it."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        resource_tracker.ensure_running()  # which sees to Ctrl-C and SIGTERM itself, and unblocks them here
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


class RunningJob:
    """A job's process, seen from its launcher.

    Args:
        context: the start method.
        job: what to run.
        slot: where.
        attempt: from 1.
    """

    def __init__(self, context: ForkServerContext, job: Job, slot: Slot, attempt: int) -> None:
        self.job, self.slot, self.attempt = job, slot, attempt
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(job, attempt, slot, theirs))
        ensure_fork_server()
        with _main_module_hidden():
            self._process.start()
        theirs.close()
        self._started_at = time.monotonic()
        self._report: Report | None = None
        self._is_silent = False
        self._reason = ""
        self._is_stop_asked = False
        self._kill_at = float("inf")

    @property
    def wall_s(self) -> float:
        """Seconds since it started."""
        return time.monotonic() - self._started_at

    @property
    def handles(self) -> list[Any]:
        """What becomes ready when the process has something to say or is over."""
        return [self._process.sentinel] if self._is_silent else [self._process.sentinel, self._connection]

    def ask_to_stop(self, reason: str = "", grace_s: float = float("inf")) -> None:
        """Ask it to commit and leave.

        Args:
            reason: why the job then counts as failed; none if it may go on another time.
            grace_s: seconds until it is killed.
        """
        if not self._is_stop_asked:
            self._is_stop_asked = True
            self._reason = self._reason or reason
            self._kill_at = time.monotonic() + grace_s
            with suppress(OSError):
                self._connection.send("stop")

    def kill(self, reason: str = "") -> None:
        """End the process and its own children at once."""
        self._is_stop_asked = True
        self._reason = self._reason or reason
        self._kill_at = float("inf")
        pid = self._process.pid or 0
        for end in (os.killpg, os.kill):  # it has no group of its own in its first moment
            with suppress(OSError):
                end(pid, signal.SIGKILL)

    def enforce(self, time_limit_s: float | None, memory_limit_gib: float | None, grace_s: float) -> None:
        """Stop or kill it if it is beyond a limit.

        Args:
            time_limit_s: seconds it may take.
            memory_limit_gib: resident memory it may hold, GiB.
            grace_s: seconds between being asked to stop and being killed.
        """
        if time.monotonic() > self._kill_at:
            self.kill()
        if time_limit_s is not None and self.wall_s > time_limit_s:
            self.ask_to_stop(f"time limit of {time_limit_s:g} s", grace_s)
        if memory_limit_gib is not None:
            resident_gib = resident_bytes(self._process.pid or 0) / _GIB
            if resident_gib > memory_limit_gib:
                self.kill(f"memory limit of {memory_limit_gib:g} GiB: it held {resident_gib:.2g} GiB")

    def is_over(self) -> bool:
        """Whether the process has ended; takes in its report on the way."""
        has_ended = self._process.exitcode is not None
        if not self._is_silent and self._connection.poll():
            try:
                self._report = self._connection.recv()
            except Exception:  # noqa: BLE001, a process that is killed may leave half a report
                self._report = None
            self._is_silent = True
            self._kill_at = min(self._kill_at, time.monotonic() + _EXIT_S)
        return has_ended

    def report(self) -> Report:
        """How it ended; only when it is over."""
        exit_code = self._process.exitcode or 0
        self._process.join()
        self._connection.close()
        if self._report is not None and self._report.status != "stopped":
            return self._report
        if self._reason:
            return Report("failed", reason=self._reason)
        if self._is_stop_asked:
            return Report("stopped")
        if self._report is not None:
            return Report("failed", reason="stopped at a commit by somebody's SIGTERM", is_final=True)
        return Report("failed", reason=_said_by_exit_code(exit_code))


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep the fresh process from running the launcher's main module again, of which it has no use."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _said_by_exit_code(code: int) -> str:
    if code >= 0:
        return f"exited with code {code} before it had ended"
    guess = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"killed by signal {-code}, {signal.Signals(-code).name}{guess}"


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes, what it shares with others included; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
