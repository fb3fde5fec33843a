"""What to do about a table that a finished run lacks: the one place that knows which can still be had, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.machine.signatures import class_value

OF_TRAINING = ("metrics",)
"""Tables that training itself writes, whatever is measured."""


def remedy(tables: Iterable[str], measurements: Mapping[str, Any] | None = None, runs: str = "RUNS") -> str:
    """How finished runs get the tables that they lack, or that they cannot.

    Args:
        tables: their names, which are those of their measurements.
        measurements: configuration nodes of measurements that have no file in ``conf/measurement``, by name.
        runs: the folders, as a command names them.

    Example:
        >>> remedy(["input_gradients"])
        '`gradhorizon-measure RUNS measurement=input_gradients` adds input_gradients'
    """
    names = sorted(set(tables))
    later = [name for name in names if can_be_added(name, measurements)]
    never = [name for name in names if name not in later]
    return "; ".join([*_by_measuring(later, runs), *_by_training(never)])


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


def _target(table: str, measurements: Mapping[str, Any] | None) -> str:
    node: Any = (measurements or {}).get(table) or OmegaConf.load(CONF_DIR / "measurement" / f"{table}.yaml")
    return str(node.get("_target_"))


def _by_measuring(names: list[str], runs: str) -> Iterator[str]:
    if names:
        setting = f"measurement={names[0]}" if len(names) == 1 else f"'measurement=[{','.join(names)}]'"
        yield f"`gradhorizon-measure {runs} {setting}` adds {' and '.join(names)}"


def _by_training(names: list[str]) -> Iterator[str]:
    if names:
        asked = ",".join(name for name in names if name not in OF_TRAINING)
        yield (
            f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} read while a step is taken, and a finished "
            f"run takes none: train under another experiment_name{f' with measurement=[…,{asked}]' if asked else ''}"
        )
