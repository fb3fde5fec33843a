"""What a run was launched with, as its folder keeps it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


@lru_cache(maxsize=4096)
def configuration(run: Path) -> dict[str, Any]:
    """The resolved configuration of a run; empty if it was not kept. Not to be changed: it is read once.

    Args:
        run: the run's folder.
    """
    path = run / "config.yaml"
    content = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
