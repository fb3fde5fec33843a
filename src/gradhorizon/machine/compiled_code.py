"""Where torch keeps compiled code, which it loads again: not where anybody else can have put some.

By default that is a folder in the shared temporary one with a name that anybody can guess, made as soon as an optimizer
is built: a file of another user's in its place ends every run, and a folder of theirs is trusted.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_private() -> None:
    """Have torch keep it among the user's own caches, or in a private folder, unless the user has chosen a place."""
    if not os.environ.get(_VARIABLE):
        os.environ[_VARIABLE] = str(_own_cache() or _temporary())


def _own_cache() -> Path | None:
    with suppress(OSError, RuntimeError):  # a home that is not known, or cannot be written
        named = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = named / "gradhorizon" / "torchinductor"
        there = next(one for one in (folder, *folder.parents) if one.exists())
        if named.is_absolute() and there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return folder
    return None


def _temporary() -> str:
    folder, owner = tempfile.mkdtemp(prefix="gradhorizon-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # and no process that was forked from it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
