"""One process at a time at a member: a lock of the file system, and a claim that says who holds it.

The file system's lock (``seed-N/.lock``, through ``filelock``) is freed at once when its process is killed. Network
file systems may lack it, keep it after a crash, or not show it to other hosts; so what decides is the claim
(`gradhorizon.claims`), and the lock is a second opinion: a member is refused while its owner may be alive, or while
somebody holds the lock and no claim tells who.

An owner that was silent for a minute on another host is taken over. Should it have been suspended and wake up, it finds
at its next commit that the member is no longer its own, and leaves without writing (`check_held`): a takeover in error
costs work, no records.
"""

from __future__ import annotations

import errno
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gradhorizon import claims
from gradhorizon.claims import Claim
from gradhorizon.config import ConfigError
from gradhorizon.records import safely
from gradhorizon.records.layout import LOCK, member_folder

log = logging.getLogger(__name__)

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
_held: dict[Path, Claim] = {}


class MemberHeldError(ConfigError):
    """Another process is at a member: nothing is wrong, but it is not this one's turn."""


@contextmanager
def members_locked(folder: Path, seeds: Sequence[int], what: str = "trained") -> Iterator[None]:
    """Keep other processes from the members with `seeds`; never waits.

    Args:
        folder: the run's folder.
        seeds: members, whose folders are made where they are missing.
        what: what is done to them.

    Raises:
        MemberHeldError: another process is at one of them.
        ConfigError: the folder cannot be written.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(_member_locked(folder, seed, what)) for seed in seeds]
        stack.enter_context(_beating(held))
        yield


def check_held(member: Path) -> None:
    """Make sure, before a commit, that a member that this process has locked was not taken over meanwhile.

    Args:
        member: the member's folder.

    Raises:
        MemberHeldError: it was.
    """
    claim = _held.get(member.resolve())
    if claim is not None and not claim.is_latest():
        raise MemberHeldError(
            f"{member.name} of {member.parent.name} is no longer this process's: {_owner(member)} has taken it over; "
            "nothing was written since. Was this process suspended, or its file system out of reach, for a minute?"
        )


@contextmanager
def _member_locked(folder: Path, seed: int, what: str) -> Iterator[Claim]:
    member = member_folder(folder, seed)
    with ExitStack() as stack:
        try:
            with safely.opened_folder(member, is_made=True):
                pass  # it is there, and no link
            claim = _claimed(member, seed, what, stack)
        except safely.MisplacedError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"{member} must be a folder that can be written, to lock it: {error}") from error
        _held[member.resolve()] = claim
        try:
            yield claim
        finally:
            del _held[member.resolve()]
            with suppress(OSError):
                claim.end()


def _claimed(member: Path, seed: int, what: str, stack: ExitStack) -> Claim:
    is_theirs = not _lock(member / LOCK, stack)
    found = claims.latest_claim(member)
    now_s = claims.server_time_s(member)
    is_left = found is not None and found.ended_at_s is None
    if (is_theirs and not is_left) or (found is not None and found.is_alive(now_s)):
        raise _refusal(member, seed, what)
    claim = claims.take(member, found)
    if claim is None:
        raise _refusal(member, seed, what)
    if found is not None and is_left:
        why = "gone" if found.is_here else "silent"
        log.warning("  seed %d: taken over from %s, which is %s", seed, found.words(now_s), why)
    return claim


def _lock(path: Path, stack: ExitStack) -> bool:
    """Whether nobody else holds the file system's lock; it is this process's from now on, where there is one."""
    lock = FileLock(path, timeout=0)
    try:
        with warnings.catch_warnings():  # of a fallback to the mere existence of the file, which will do
            warnings.simplefilter("ignore")
            stack.enter_context(lock)
    except Timeout:
        return False
    except NotImplementedError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _refusal(member: Path, seed: int, what: str) -> MemberHeldError:
    return MemberHeldError(
        f"seed {seed} of {member.parent.name} must be {what} by one process at a time, and {_owner(member)} is at it; "
        f"wait for it, or end it (one that was killed on another host is taken over after {claims.SILENCE_S:.0f} s)"
    )


def _owner(member: Path) -> str:
    found = claims.latest_claim(member)
    if found is None or found.ended_at_s is not None:
        return "another one"
    return found.words(claims.server_time_s(member))


@contextmanager
def _beating(held: Sequence[Claim]) -> Iterator[None]:
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(claims.HEARTBEAT_S):
            for claim in held:
                claim.beat()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(claims.HEARTBEAT_S)  # not for ever: its file system may hang
