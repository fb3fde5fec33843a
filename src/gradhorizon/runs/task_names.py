"""What a run's task is called in its folder, its records and its figures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.core.hydra_config import HydraConfig

from gradhorizon.config import RunConfig
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.sheets import read_run_sheet
from gradhorizon.terminal.words import snake_case

_OWN = "gradhorizon.tasks."


def task_name(run: RunConfig) -> str:
    """Name of the protocol: a shipped one's own, else that of the file that chose it, else that of the class.

    Data of the user's own is called by its file, as one name would pool what has other chance values.

    Args:
        run: the resolved configuration.
    """
    target = str(run.task["_target_"])
    if target.startswith(_OWN):
        data = Path(str(run.task.get("path") or "")).stem if "digest" in run.task else ""
        return _as_name(data) or target.split(".")[-2]
    return _chosen() or _of_class(target)


def recorded_name(folder: Path) -> str | None:
    """What a run's earlier launches called its task; None if there are none, or if they can no longer be read.

    Args:
        folder: the run's folder.
    """
    try:
        return str(read_run_sheet(folder)["task"])
    except RecordsError:
        return None


def _chosen() -> str:
    """The user's own file of the group `task`; empty without one, or where its class was replaced."""
    if not HydraConfig.initialized() or _replaces_class(HydraConfig.get().overrides.task):
        return ""
    choice = str(HydraConfig.get().runtime.choices.get("task") or "")
    is_own = choice and not (CONF_DIR / "task" / f"{choice}.yaml").is_file()
    return _as_name(choice) if is_own else ""


def _as_name(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", text)


def _replaces_class(overrides: Iterable[Any]) -> bool:
    return any(re.match(r"[+~]*task(\._target_)?=.*", str(word)) and "_target_" in str(word) for word in overrides)


def _of_class(target: str) -> str:
    try:
        return str(resolve_name(target).name)
    except Exception:  # noqa: BLE001, whatever its package raises is said where the task is built
        return snake_case(target.rpartition(".")[2])
