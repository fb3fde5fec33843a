"""Where the files lie that are installed with the package."""

from __future__ import annotations

from pathlib import Path


def _conf_dir() -> Path:
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "conf"


CONF_DIR = _conf_dir()
"""The folder of configuration files: inside the installed package, or the repository's own."""
