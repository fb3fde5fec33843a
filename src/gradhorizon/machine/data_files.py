"""A user's data file: where a path leads, and what stands for the bytes that lie there. Imports no torch."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from hydra.utils import to_absolute_path


def data_path(path: str) -> Path:
    """Where a path leads: a relative one starts in the folder of the launch, wherever Hydra has gone since.

    Args:
        path: as it is configured; ``~`` is the home.
    """
    return Path(to_absolute_path(str(Path(path).expanduser())))


def digest_of(content: bytes) -> str:
    """Sixteen hexadecimal digits that stand for a file's bytes.

    Args:
        content: all of them.
    """
    return hashlib.sha256(content).hexdigest()[:16]


def data_digest(path: object) -> str | None:
    """What stands for the bytes of a data file; None where it cannot be read, which is said where the task is built.

    Args:
        path: as it is configured; anything else than text leads nowhere.
    """
    if not isinstance(path, str):
        return None
    try:
        place = data_path(path)
        look = place.stat()
        return _digest(place, look.st_size, look.st_mtime_ns) if place.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


@lru_cache(64)
def _digest(path: Path, size: int, changed_at_ns: int) -> str:
    del size, changed_at_ns  # by which a changed file is known
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]
