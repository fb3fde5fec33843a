"""The ways to the disk at which a launch can be killed, known by the names of what is written there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradhorizon.records import layout
from gradhorizon.training.module import EnsembleModule

_RENAMES = ("replace", "rename")


@dataclass(frozen=True)
class Call:
    """One way to the disk: a function that a launch calls, and which of its calls count.

    Attributes:
        owner: what the function belongs to.
        names: of the function, and of others that do the same.
        counts: whether a call with these arguments counts.
        when: kill before or after the call, or instead of it with half of the file's content cut off.
    """

    owner: Any
    names: tuple[str, ...]
    counts: Callable[..., bool]
    when: str = "before"


def target_of(source: Any, target: Any, **options: Any) -> Path:
    """Where a call of `os.replace` or `os.rename` puts a file."""
    del source
    folder = options.get("dst_dir_fd")
    place = Path() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
    return place / os.fsdecode(target)


def _goes_to(*names: str) -> Callable[..., bool]:
    return lambda *arguments, **options: target_of(*arguments, **options).name in names


def _is_part(*arguments: Any, **options: Any) -> bool:
    return layout.steps_in(target_of(*arguments, **options).name) is not None


def _is_merged_part(*arguments: Any, **options: Any) -> bool:
    """Whether it is a part of which others lie beside it that cover some of its steps."""
    path = target_of(*arguments, **options)
    own = layout.steps_in(path.name)
    others = [layout.steps_in(one.name) for one in path.parent.glob("*.parquet")] if own else []
    return any(own[0] <= other[0] and other[1] <= own[1] and other != own for other in others if other and own)


def _is_whole(*arguments: Any, **options: Any) -> bool:
    path = target_of(*arguments, **options)
    return path.parent.name == layout.RECORDS and layout.table_in(path.name) is not None


def _is_last_checkpoint(*arguments: Any, **options: Any) -> bool:
    """Whether it is the checkpoint of a member whose tables are whole already."""
    path = target_of(*arguments, **options)
    if path.name != layout.CHECKPOINT:
        return False
    return any(layout.table_in(one.name) for one in (path.parent / layout.RECORDS).glob("*.parquet"))


def _is_removed_part(path: Any, **_: object) -> bool:
    return layout.steps_in(Path(os.fsdecode(path)).name) is not None


def _is_aside(*arguments: Any, **options: Any) -> bool:
    return ".aside" in target_of(*arguments, **options).name


_CHECKPOINT = _goes_to(layout.CHECKPOINT)
_KEPT = _goes_to(*(layout.kept_path(Path(), phase, 0).name for phase in ("init", "last")))
SET_ASIDE = "while parts are set aside"

PHASES: dict[str, Call | None] = {
    "at a random moment": None,
    "in an optimizer step": Call(EnsembleModule, ("training_step",), lambda *_: True),
    "with half a file written": Call(os, ("fsync",), lambda _: True, "cutting"),
    "before a part appears": Call(os, _RENAMES, _is_part),
    "after a part appeared": Call(os, _RENAMES, _is_part, "after"),
    "between the parts and their checkpoint": Call(os, _RENAMES, _CHECKPOINT),
    "after their checkpoint": Call(os, _RENAMES, _CHECKPOINT, "after"),
    "before a checkpoint is kept": Call(os, _RENAMES, _KEPT),
    "before a part merged of several appears": Call(os, _RENAMES, _is_merged_part),
    "between a merged part and its checkpoint": Call(os, _RENAMES, _is_merged_part, "after"),
    "before a merged table appears": Call(os, _RENAMES, _is_whole),
    "after a merged table appeared": Call(os, _RENAMES, _is_whole, "after"),
    "between the tables and the last checkpoint": Call(os, _RENAMES, _is_last_checkpoint),
    "while merged parts are removed": Call(os, ("unlink", "remove"), _is_removed_part),
    "before a member's status": Call(os, _RENAMES, _goes_to(layout.MEMBER_SHEET)),
    "before the run's status": Call(os, _RENAMES, _goes_to(layout.RUN_SHEET)),
    SET_ASIDE: Call(os, _RENAMES, _is_aside, "after"),
}
"""Phase -> the calls at one of which a launch is killed; None for whenever the clock says."""


@contextmanager
def calls(call: Call, is_fatal: Callable[[int], bool]) -> Iterator[list[int]]:
    """Count the calls that count, and end this process at the one that is fatal.

    Args:
        call: the way to the disk.
        is_fatal: whether to end at the call of that number.
    """
    originals, made = {name: getattr(call.owner, name) for name in call.names}, [0]

    def counted(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if not call.counts(*arguments, **options):
            return original(*arguments, **options)
        made[0] += 1
        if not is_fatal(made[0]):
            return original(*arguments, **options)
        if call.when == "after":
            original(*arguments, **options)
        elif call.when == "cutting":
            os.truncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        return os.kill(os.getpid(), signal.SIGKILL)

    for name, original in originals.items():
        # Plain functions, since a method of a class is among them.
        setattr(call.owner, name, _bound(counted, original))
    try:
        yield made
    finally:
        for name, original in originals.items():
            setattr(call.owner, name, original)


def _bound(counted: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: counted(original, *arguments, **options)
