"""One process at a time at a member: a lock of the file system, and a claim that says who holds it.

The file system's lock (``seed-N/.lock``, through ``filelock``) is freed at once when its process is killed. Network
file systems may lack it, keep it after a crash, or not show it to other hosts; so what decides is the claim
(`gradhorizon.runs.claims`), and the lock is a second opinion: a member is refused while its owner may be alive, or
while somebody holds the lock and no claim tells who.

An owner that was silent for a minute on another host is taken over. Should it have been suspended and wake up, it finds
that a member is no longer its own before it writes anything below the run's folder (`check_held`, which whatever writes
records asks), and leaves: a takeover in error costs work, no records. A launch that has lost one member writes nothing
for its others either; they are given back, and go on from their last commit. A file that the woken process had half
written was removed by whoever took the member over, and so can no longer be put in its place.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gradhorizon.config import ConfigError
from gradhorizon.machine.stopping import Stopped
from gradhorizon.records import safely
from gradhorizon.records.files import remove_half_written_by, remove_strays
from gradhorizon.records.guards import check_owned, guarded_by
from gradhorizon.records.layout import LOCK, member_folder
from gradhorizon.runs import claims
from gradhorizon.runs.claims import Claim

log = logging.getLogger(__name__)

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})

when_lost: list[Callable[[], None]] = []
"""Called as soon as a member is found to be this process's no longer, before anything is said of it."""


class MemberHeldError(ConfigError):
    """Another process is at a member: nothing is wrong, but it is not this one's turn."""


class _Holding:
    """Members of one run that this process has locked.

    Args:
        folder: the run's folder.
        held: a claim for each member.
    """

    def __init__(self, folder: Path, held: Sequence[Claim]) -> None:
        self._run = folder.absolute()
        self._claims = {claim.path.parent.absolute(): claim for claim in held}
        self._loss: str | None = None

    def check(self, path: Path) -> None:
        """Refuse to write at `path`, if it belongs to these members or to their run, once one of them was lost.

        Raises:
            MemberHeldError: one was.
        """
        place = path.absolute()
        if not place.is_relative_to(self._run):
            return
        if self._loss is None:
            # All of them, its own first: who has lost one writes nothing for the others either.
            by_nearness = sorted(self._claims.items(), key=lambda item: not place.is_relative_to(item[0]))
            self._loss = next((_loss(claim) for _, claim in by_nearness if not claim.is_latest()), None)
            if self._loss is None:
                return
            for call in when_lost:
                call()
        raise MemberHeldError(self._loss)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Have what breaks within say that a member was lost, if one was: that is then why.

        Raises:
            MemberHeldError: it broke, and one was.
        """
        try:
            yield
        except (MemberHeldError, Stopped):
            raise
        except (Exception, SystemExit) as error:
            if not isinstance(error.__context__, KeyboardInterrupt):  # of which Lightning makes an exit
                with suppress(OSError):
                    self.check(self._run)
            raise


def _loss(claim: Claim) -> str:
    member = claim.path.parent
    found = claims.latest_claim(member)
    name = f"{member.name} of {member.parent.name}"
    if found is None or found.number <= claim.number:
        anew = "" if found is None else f", and {found.words()} has made it anew"
        return (
            f"{name} is gone: it was deleted or moved while it was being written{anew}; nothing was written since. "
            "Launch the same command again to train what is missing"
        )
    return (
        f"{name} is no longer this process's: {found.words()} has taken it over; nothing was written since. Was this "
        "process suspended, or its file system out of reach, for a minute?"
    )


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
        holding = _Holding(folder, held)
        stack.enter_context(guarded_by(holding.check))
        stack.enter_context(holding.told())
        yield


def check_held(path: Path) -> None:
    """Make sure that what this process has locked was not taken over meanwhile, nor deleted.

    Whatever writes records asks this itself, before each file.

    Args:
        path: a member's folder, a run's, or anything below them. Of a run's own files, all members that this process
            has locked of it are looked at.

    Raises:
        MemberHeldError: it was.
    """
    check_owned(path)


def other_owner(folder: Path, seeds: Iterable[int]) -> Claim | None:
    """Who else is at one of the members now; None if nobody is.

    Args:
        folder: the run's folder.
        seeds: members.
    """
    now_s = time.time()  # to ask the file server would write into a folder that may be another's
    found = [claims.latest_claim(member_folder(folder, seed)) for seed in seeds]
    others = [claim for claim in found if claim is not None and not (claim.is_here and claim.pid == os.getpid())]
    return next((claim for claim in others if claim.is_alive(now_s)), None)


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
        try:
            yield claim
        finally:
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
        if claim.is_latest():
            for path in [*remove_strays(member), *remove_half_written_by(found.pid, member.parent)]:
                log.info("  %s: removed %s, half-written by its earlier owner", member.name, path.name)
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
