"""What a run was launched with, as its folder keeps it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradhorizon.records.configurations import read_configuration
from gradhorizon.records.layout import CONFIG


@lru_cache(maxsize=4096)
def configuration(run: Path) -> dict[str, Any]:
    """The resolved configuration of a run; empty if it was not kept. Not to be changed: it is read once.

    Args:
        run: the run's folder.

    Raises:
        RecordsError: it is damaged, or not as a run writes it.
    """
    return read_configuration(run) if os.path.lexists(run / CONFIG) else {}
