"""Members of which a run's sheet tells, and which are no longer there: somebody has moved or removed them.

Imports nothing but the standard library, so that looking is cheap.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradhorizon.records.launches import known_seeds
from gradhorizon.records.layout import MEMBER_SHEET, member_name


def expected_seeds(sheet: dict[str, Any]) -> list[int]:
    """Members that have a sheet of their own, if nobody has taken it away.

    Args:
        sheet: content of ``run.json``.
    """
    ended = {int(seed) for seed, one in sheet.get("outcomes", {}).items() if one["status"] == "finished"}
    return sorted(ended | known_seeds(sheet) if sheet.get("status") == "finished" else ended)


def seeds_without_sheet(folder: Path, seeds: Iterable[int]) -> list[int]:
    """Members of which ``member.json`` is not there, or their whole folder.

    Args:
        folder: the run's folder.
        seeds: members that have ended.

    Raises:
        OSError: one cannot be looked for.
    """
    return [seed for seed in seeds if not _is_there(f"{folder}/{member_name(seed)}/{MEMBER_SHEET}")]


def _is_there(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116, the sheets of ten thousand runs are looked for
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
