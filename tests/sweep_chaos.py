"""What is done to a sweep while it runs: processes die, somebody types Ctrl-C, W&B's server goes and comes back."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from tests.sweep_processes import Process, Sweep
from tests.wandb_stub import API_KEY, WandbStub

_PATIENCE_S = 300.0
_SPREAD = 0.7  # so that most faults find something to disturb
_DELAY_S = 3.0  # at most, after a fault could be done
_ANY_TIME = 0.2  # probability that a fault does not wait until some run trains
_REVIVES = 0.3  # probability that a server is well again, before each fault


def environment_of(stub: WandbStub) -> dict[str, str]:
    """What points W&B's client at a server, whose address it keeps when it is revived.

    Args:
        stub: the server.
    """
    return {"WANDB_BASE_URL": stub.url, "WANDB_API_KEY": API_KEY}


class Server:
    """A W&B server that goes, hangs, fails, and comes back at the same address with what it held."""

    def __init__(self) -> None:
        self.stub = WandbStub().__enter__()
        self._is_well = True

    def die(self) -> bool:
        """Refuse connections, and cut those that are open."""
        self.revive()
        self._is_well = False
        self.stub.die()
        return True

    def hang(self) -> bool:
        """Take requests, and never answer."""
        self.revive()
        self._is_well = False
        self.stub.hang()
        return True

    def refuse(self) -> bool:
        """Answer that something is wrong."""
        self.revive()
        self._is_well = False
        self.stub.status = 500
        return True

    def revive(self) -> None:
        """Be well again."""
        if not self._is_well:
            port, held = int(self.stub.url.rpartition(":")[2]), self.stub.runs
            self.stub.die()
            self.stub = WandbStub(port).__enter__()
            self.stub.runs = held
            self._is_well = True


class Chaos:
    """Does one thing after another to a sweep; what, and when, is drawn.

    Args:
        sweep: whose processes.
        server: where they send to.
        seed: of what is drawn.
        num_faults: how many, spread over the first `_SPREAD` of the members to finish.
        num_members: of the whole sweep.

    Attributes:
        faults: what was done, in order.
    """

    def __init__(self, sweep: Sweep, server: Server, seed: int, num_faults: int, num_members: int) -> None:
        self.faults: list[str] = []
        self._sweep, self._server = sweep, server
        self._random = random.Random(seed)  # noqa: S311, moments, no secrets
        self._ways: dict[str, Callable[[], bool]] = {
            "worker killed": lambda: self._kill(lambda one: one.is_worker),
            "launcher killed": self._kill_launcher,
            "launcher killed with all": self._kill_everything,
            "fork server killed": lambda: self._kill(self._is_fork_server),
            "W&B's service killed": lambda: self._kill(lambda one: one.is_service),
            "Ctrl-C": self._interrupt,
            "server dies": self._server.die,
            "server hangs": self._server.hang,
            "server refuses": self._server.refuse,
        }
        self._plan = self._drawn(num_faults)
        self._due = sorted(self._random.uniform(0, _SPREAD * num_members) for _ in self._plan)

    def _drawn(self, num_faults: int) -> list[str]:
        certain = ["worker killed", "launcher killed", "launcher killed with all", "Ctrl-C", "server dies"]
        weights = [4 if name == "worker killed" else 1 for name in self._ways]
        plan = [*certain, *self._random.choices(list(self._ways), weights, k=num_faults)][:num_faults]
        self._random.shuffle(plan)
        return plan

    def accompany(self, launcher: subprocess.Popen[bytes]) -> list[str]:
        """Disturb one launch until it ends, or until all is done that was to do; returns what was done to it.

        Raises:
            TimeoutExpired: it has hung.
        """
        self._launcher = launcher
        first = len(self.faults)
        while self._plan and self._has_come_to_a_moment():
            if self._random.random() < _REVIVES:
                self._server.revive()
            if self._ways[self._plan[0]]():
                self.faults.append(self._plan.pop(0))
                self._due.pop(0)
        if not self._plan:
            self._server.revive()
        launcher.wait(_PATIENCE_S)
        return self.faults[first:]

    def _has_come_to_a_moment(self) -> bool:
        """Wait for the next fault's time, mostly while some run has a process; whether the launch still lives."""
        is_any_time = self._random.random() < _ANY_TIME
        while self._launcher.poll() is None and not (self._is_due() and (is_any_time or self._is_training())):
            time.sleep(0.1)
        with suppress(subprocess.TimeoutExpired):
            self._launcher.wait(self._random.uniform(0, _DELAY_S))
        return self._launcher.poll() is None

    def _is_due(self) -> bool:
        return len(list(self._sweep.folder.glob("runs/*/*/seed-*/records/metrics.parquet"))) >= self._due[0]

    def _is_training(self) -> bool:
        return any(one.is_worker for one in self._sweep.processes())

    def _has_started(self) -> bool:
        return ": starts on " in self._sweep.log.read_text(encoding="utf-8")

    def _kill(self, is_meant: Callable[[Process], bool]) -> bool:
        meant = [one for one in self._sweep.processes() if is_meant(one)]
        if meant:
            self._random.choice(meant).kill()
        return bool(meant)

    def _is_fork_server(self, process: Process) -> bool:
        return process.parent == self._launcher.pid and "multiprocessing.forkserver" in process.command

    def _kill_launcher(self) -> bool:
        self._launcher.kill()
        self._launcher.wait()
        return True

    def _kill_everything(self) -> bool:
        self._sweep.kill_all()
        return self._kill_launcher()

    def _interrupt(self) -> bool:
        if self._has_started():  # before, Python is still importing, and ends in its own words
            with suppress(ProcessLookupError):
                os.killpg(self._launcher.pid, signal.SIGINT)
        return self._has_started()
