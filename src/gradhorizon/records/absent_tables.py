"""What to do about a table that a finished run lacks: the one place that knows which can still be had, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.machine.signatures import class_value

OF_TRAINING = ("metrics",)
"""Tables that training itself writes, whatever is measured."""
EXTERNAL = "external"
"""Key of a measurement from outside the package, whose table has a name of its own."""
_OWN = "gradhorizon.measurements."


def remedy(tables: Iterable[str], measurements: Mapping[str, Any] | None = None, runs: str = "RUNS") -> str:
    """How finished runs get the tables that they lack, or that they cannot.

    Args:
        tables: their names, which are those of their measurements.
        measurements: configuration nodes of measurements, by their keys; without them, one from outside is not known.
        runs: the folders, as a command names them.

    Example:
        >>> remedy(["input_gradients"])
        '`gradhorizon-measure RUNS measurement=input_gradients` adds input_gradients'
    """
    names = sorted(set(tables))
    later = [name for name in names if can_be_added(name, measurements)]
    never = [name for name in names if name not in later]
    return "; ".join([*_by_measuring(later, measurements, runs), *_by_training(never)])


def can_be_added(table: str, measurements: Mapping[str, Any] | None = None) -> bool:
    """Whether a run that has ended can still gain a table, from the checkpoints that it kept.

    Args:
        table: its name.
        measurements: see `remedy`.
    """
    if table in OF_TRAINING:
        return False
    try:
        return bool(class_value(_target(table, measurements), "is_added_later"))
    except Exception:  # noqa: BLE001, whatever an unknown measurement raises is said where it is built
        return True


def table_of(name: str, node: Mapping[str, Any]) -> str:
    """Name of the table that a measurement writes: its module's if it is shipped, else what its class says.

    Args:
        name: its key in the configuration, which counts where the class cannot be imported.
        node: its configuration.
    """
    target = str(node.get("_target_"))
    if target.startswith(_OWN):
        return target.split(".")[-2]
    try:
        return str(class_value(target, "table").name)
    except Exception:  # noqa: BLE001, whatever its package raises is said where it is built
        return name


def _target(table: str, measurements: Mapping[str, Any] | None) -> str:
    node: Any = (measurements or {}).get(_key(table, measurements)) or OmegaConf.load(_file(table))
    return str(node.get("_target_"))


def _key(table: str, measurements: Mapping[str, Any] | None) -> str:
    """What the measurement of a table is called in a configuration."""
    known = measurements or {}
    own = (name for name, node in known.items() if table_of(name, node) == table)
    return table if table in known or _file(table).is_file() else next(own, EXTERNAL)


def _file(table: str) -> Path:
    return CONF_DIR / "measurement" / f"{table}.yaml"


def _by_measuring(names: list[str], measurements: Mapping[str, Any] | None, runs: str) -> Iterator[str]:
    if names:
        keys = list(dict.fromkeys(_key(name, measurements) for name in names))
        setting = f"measurement={keys[0]}" if len(keys) == 1 else f"'measurement=[{','.join(keys)}]'"
        if EXTERNAL in keys:
            target = ((measurements or {}).get(EXTERNAL) or {}).get("_target_", "…")
            setting += f" measurement.{EXTERNAL}._target_={target}"
        yield f"`gradhorizon-measure {runs} {setting}` adds {' and '.join(names)}"


def _by_training(names: list[str]) -> Iterator[str]:
    if names:
        asked = ",".join(name for name in names if name not in OF_TRAINING)
        yield (
            f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} read while a step is taken, and a finished "
            f"run takes none: train under another experiment_name{f' with measurement=[…,{asked}]' if asked else ''}"
        )
