"""Every process of a sweep, found by a word in its environment: launcher, fork server, workers, W&B's services."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_MARKER = "GRADHORIZON_TEST_SWEEP"
_SERVICES = ("wandb-core", "wandb-xpu", "gpu_stats")


@dataclass(frozen=True)
class Process:
    """One process as /proc shows it.

    Attributes:
        pid: its number.
        parent: that of its parent.
        session: its session's leader.
        name: of its executable, at most 15 characters.
        command: its command line.
    """

    pid: int
    parent: int
    session: int
    name: str
    command: str

    @property
    def is_service(self) -> bool:
        """Whether it is W&B's."""
        return self.name in _SERVICES

    @property
    def is_worker(self) -> bool:
        """Whether it trains a run."""
        return "multiprocessing.forkserver" in self.command and self.session == self.pid

    def kill(self) -> None:
        """End it with SIGKILL, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@dataclass
class Sweep:
    """A command that is launched again and again in one folder.

    Attributes:
        folder: where it is launched.
        arguments: of ``gradhorizon``.
        environment: of its processes, beyond this one's.
    """

    folder: Path
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    num_launches: int = 0

    def __post_init__(self) -> None:
        self._marker = f"{_MARKER}={uuid.uuid4().hex}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        """What the latest launch has said."""
        return self.folder / f"launch-{self.num_launches}.txt"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the command, in a session of its own as in a terminal."""
        self.num_launches += 1
        name, _, word = self._marker.partition("=")
        outer = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        environment = {**outer, **self.environment, name: word}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "gradhorizon.application", "-m", *self.arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self) -> list[Process]:
        """All that live of all launches; zombies have no environment and do not count."""
        found = [_process(path, self._marker.encode()) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [one for one in found if one is not None]

    def left_alive(self, patience_s: float) -> list[Process]:
        """What still lives after `patience_s` seconds; returns at once when nothing does."""
        deadline = time.monotonic() + patience_s
        while (alive := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return alive

    def kill_all(self) -> None:
        """End all processes of all launches, those too that are being started meanwhile."""
        while alive := self.processes():
            for process in alive:
                process.kill()

    def logs(self) -> str:
        """What all launches have said."""
        paths = [self.folder / f"launch-{number}.txt" for number in range(1, self.num_launches + 1)]
        return "\n".join(f"=== {path.name}\n{path.read_text(encoding='utf-8')}" for path in paths)


def _process(path: Path, marker: bytes) -> Process | None:
    with suppress(OSError, ValueError, IndexError):
        if marker not in (path / "environ").read_bytes().split(b"\0"):
            return None
        head, _, tail = (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
        fields = tail.split()
        command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return Process(int(path.name), int(fields[1]), int(fields[3]), head.partition("(")[2], command)
    return None
