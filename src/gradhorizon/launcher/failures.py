"""What is left of a run that failed: a file in its folder, beside what it has recorded, and a line in the listing."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradhorizon.launcher.process import Report
from gradhorizon.records import RecordsError, read_json, write_json
from gradhorizon.runs import FAILURE_FILE

log = logging.getLogger(__name__)

_LAST_LINES = 20


@dataclass(frozen=True)
class Failure:
    """One run that failed for good.

    Attributes:
        title: what people call it.
        reason: why, in one line.
        folder: where it lies, None if it never had a folder.
    """

    title: str
    reason: str
    folder: Path | None


def record(folder: Path, report: Report, overrides: Sequence[str], attempt: int, wall_s: float) -> None:
    """Write ``failed.json``; a ``run.json`` that still says running, because its process was killed, then says failed.

    Args:
        folder: the run's folder.
        report: how it ended.
        overrides: what it was launched with.
        attempt: from 1.
        wall_s: seconds this attempt took.
    """
    content = {
        "reason": report.reason,
        "traceback": report.traceback.splitlines(),
        "last_lines": _last_lines(folder / "log.txt"),
        "overrides": list(overrides),
        "attempt": attempt,
        "wall_s": wall_s,
        "failed_at_s": time.time(),
    }
    try:
        write_json(content, folder / FAILURE_FILE)
        _mark_failed(folder / "run.json")
    except RecordsError as error:  # the disk may be full, which may be why it failed; other runs go on
        log.warning("  %s", error)


def _mark_failed(path: Path) -> None:
    try:
        sheet = read_json(path)
    except RecordsError:  # killed before it was written, or no longer readable: then it is not ours to touch
        return
    if sheet.get("status") == "running":
        write_json({**sheet, "status": "failed"}, path)


def listing(failures: Sequence[Failure], total: int) -> str:
    """All failures of a sweep, with where to read on.

    Args:
        failures: those that failed for good.
        total: runs of the sweep.

    Example:
        >>> print(listing([Failure("#1 model=gru", "exited with code 3", None)], total=4))
        1 of 4 runs failed:
          #1 model=gru: exited with code 3
    """
    lines = [f"{len(failures)} of {total} runs failed:"]
    for failure in failures:
        lines.append(f"  {failure.title}: {failure.reason}")
        if failure.folder is not None:
            logs = [name for name in (FAILURE_FILE, "log.txt", "output.txt") if (failure.folder / name).is_file()]
            lines.append(f"    {failure.folder}: {', '.join(logs)}")
    return "\n".join(lines)


def _last_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
