r"""Who is at work on a member: numbered claims, of which the highest counts.

A claim is a file ``seed-N/.owner-000001.json``. Whoever wants the member, and finds the highest claim ended or its
owner dead, creates the one after it, which the file system grants to one process alone (``O_EXCL``), and then sees that
it is the highest. The highest claim is never removed, so numbers only grow, and a process that looked too long ago
finds its number taken or surpassed. This holds on file systems without any locking, too.

Imports nothing beyond the standard library and what reads plain data, so that looking is cheap. No file is made through
a link (`gradhorizon.records.safely`).
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from gradhorizon.machine.processes import UNKNOWN_START, process_start
from gradhorizon.records import safely
from gradhorizon.records.errors import DamagedFileError
from gradhorizon.records.layout import clock_path, owner_in, owner_path, unnumbered_owner_path
from gradhorizon.records.plain import open_file
from gradhorizon.records.seals import is_sealed_json, sealed_json

HEARTBEAT_S = 10.0
"""Between two signs of life of an owner, seconds."""

SILENCE_S = 60.0
"""Without a sign of life for longer, an owner that cannot be looked up counts as dead, seconds."""

SLOT_VARIABLE = "GRADHORIZON_SLOT"
"""Environment variable in which a launcher says where it has put a process, such as ``GPU 1``."""

_LOOKS = 5  # at a folder that changes while it is read
_MOST_BYTES = 2**16  # of a claim


@dataclass(frozen=True)
class Claim:
    """One claim, as it was written, and its heartbeat.

    Attributes:
        path: where it lies.
        number: from 1.
        host: the owner's host name; empty if the file is damaged or not yet written.
        machine: what tells its processes from those of other machines, boots and containers.
        pid: its process.
        process_start: clock ticks from boot to the start of that process, None where that is unknown.
        launched_at_s: when it was claimed, seconds since 1970 on the owner's clock.
        slot: where a launcher has put it, None if nobody said.
        token: what no other claim has.
        ended_at_s: when it was given back, None until then.
        beat_at_s: the last sign of life, seconds since 1970 on the file server's clock.
    """

    path: Path
    number: int
    beat_at_s: float
    host: str = ""
    machine: str = ""
    pid: int = 0
    process_start: int | None = None
    launched_at_s: float = float("nan")
    slot: str | None = None
    token: str = ""
    ended_at_s: float | None = None

    @property
    def is_here(self) -> bool:
        """Whether its owner can be looked up among this machine's processes."""
        return bool(self.machine) and self.machine == this_machine()

    def is_alive(self, now_s: float) -> bool:
        """Whether its owner may still be at work.

        On its own machine its process is looked up, so a killed one is dead at once, and one that was merely stopped
        is alive. Elsewhere, and for a damaged claim, the last sign of life decides.

        Args:
            now_s: seconds since 1970 on the file server's clock.
        """
        if self.ended_at_s is not None:
            return False
        if self.is_here:
            start = process_start(self.pid)
            if start is None or UNKNOWN_START not in (start, self.process_start):
                return start is not None and start == self.process_start
        return now_s - self.beat_at_s <= SILENCE_S

    @property
    def place(self) -> str:
        """Where its owner is, or was: slot, host and process."""
        process = f"{self.host}:{self.pid}" if self.host else "unknown process"
        return f"{self.slot} of {process}" if self.slot else process

    def beat(self) -> None:
        """Give a sign of life, by the file server's clock; quiet if that cannot be done now, or is no longer due."""
        with suppress(OSError):
            if self.is_latest():  # another's claim of the same name, in a folder made anew, is not ours to touch
                os.utime(self.path, follow_symlinks=False)

    def is_latest(self) -> bool:
        """Whether nobody has taken the member over, or away."""
        found = latest_claim(self.path.parent)
        return found is not None and found.number == self.number and found.token in (self.token, "")

    def end(self) -> None:
        """Give the member back; the file stays, and says who had it last."""
        if not self.is_latest():
            return
        try:
            _replace(replace(self, ended_at_s=time.time()))
        except OSError:  # a full disk takes no new file; an empty and ancient claim counts as a dead owner's
            safely.empty(self.path)
            os.utime(self.path, (0, 0), follow_symlinks=False)

    def words(self, now_s: float | None = None) -> str:
        """Who its owner is, for people.

        Args:
            now_s: seconds since 1970 on the file server's clock; None where its last sign of life is left out.
        """
        beat = "" if now_s is None else f" (last sign of life {max(now_s - self.beat_at_s, 0):.0f} s ago)"
        if not self.host:
            return f"a process that has not said who it is in {self.path.name}{beat}"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.launched_at_s))
        slot = f" on {self.slot}" if self.slot else ""
        return f"process {self.pid} on host {self.host}{slot}, since {since}{beat}"


def latest_claim(folder: Path) -> Claim | None:
    """The claim that counts, or None if there never was one.

    Args:
        folder: the member's folder.
    """
    for _ in range(_LOOKS):
        numbers = _numbers(folder)
        if not numbers:
            return None
        path = owner_path(folder, max(numbers))
        try:
            # Opened first: a network file system then asks its server how old the file is.
            with open_file(path) as file:
                beat_at_s = os.fstat(file.fileno()).st_mtime
                return _parsed(path, max(numbers), beat_at_s, file.read(_MOST_BYTES).decode())
        except FileNotFoundError:
            continue  # surpassed since it was listed
        except (OSError, UnicodeDecodeError, DamagedFileError):
            break
    return Claim(path, max(numbers), _mtime(path))


def take(folder: Path, previous: Claim | None) -> Claim | None:
    """A claim of this process, or None if another one was faster.

    Args:
        folder: the member's folder.
        previous: the latest claim, which has ended or whose owner is dead.

    Raises:
        OSError: the folder cannot be written.
    """
    number = previous.number + 1 if previous else 1
    path = owner_path(folder, number)
    mine = Claim(
        path,
        number,
        time.time(),
        socket.gethostname(),
        this_machine(),
        os.getpid(),
        process_start(os.getpid()),
        time.time(),
        os.environ.get(SLOT_VARIABLE) or None,
        uuid.uuid4().hex,
    )
    try:
        safely.write_new(b"", path)
    except FileExistsError:
        return None
    try:
        _replace(mine)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    numbers = _numbers(folder)
    if max(numbers) > number:
        path.unlink(missing_ok=True)
        return None
    for surpassed in numbers - {number}:
        owner_path(folder, surpassed).unlink(missing_ok=True)
    return mine


def server_time_s(folder: Path) -> float:
    """Seconds since 1970 on the clock that stamps the files of `folder`.

    Args:
        folder: one that can be written.
    """
    path = clock_path(folder, uuid.uuid4().hex)
    safely.write_new(b"", path)
    try:
        return path.lstat().st_mtime
    finally:
        path.unlink(missing_ok=True)


@cache
def this_machine() -> str:
    """What tells this machine, its boot and its container from others: process ids mean the same within one alone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():012x}"


def _numbers(folder: Path) -> set[int]:
    try:
        names = os.listdir(folder)  # noqa: PTH208, a thousand folders are listed
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {number for name in names if (number := owner_in(name)) is not None}


def _parsed(path: Path, number: int, beat_at_s: float, text: str) -> Claim:
    try:
        content = json.loads(text)
        is_sealed_json(content)
        return Claim(path, number, beat_at_s, **_checked(content))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Claim(path, number, beat_at_s)


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    start, ended, slot = content["process_start"], content["ended_at_s"], content["slot"]
    return {
        "host": str(content["host"]),
        "machine": str(content["machine"]),
        "pid": int(content["pid"]),
        "process_start": None if start is None else int(start),
        "launched_at_s": float(content["launched_at_s"]),
        "slot": None if slot is None else str(slot),
        "token": str(content["token"]),
        "ended_at_s": None if ended is None else float(ended),
    }


def _replace(claim: Claim) -> None:
    content = {key: value for key, value in asdict(claim).items() if key not in ("path", "number", "beat_at_s")}
    temporary = unnumbered_owner_path(claim.path.parent, claim.token)
    try:
        safely.write_new(sealed_json(content), temporary)
        temporary.replace(claim.path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")  # cannot be judged, so it may be alive
