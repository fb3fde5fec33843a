"""What a run was launched with, as its folder keeps it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from gradhorizon.records.layout import CONFIG

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@lru_cache(maxsize=4096)
def configuration(run: Path) -> dict[str, Any]:
    """The resolved configuration of a run; empty if it was not kept or is damaged. Not to be changed: it is read once.

    Args:
        run: the run's folder.
    """
    path = run / CONFIG
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER) if path.is_file() else {}  # noqa: S506, a safe loader
    except yaml.YAMLError:
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
