"""The few numbers of a measurement's rows that are worth a curve over training; the records keep the rest."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

MAX_COLUMNS = 16
_MEASUREMENTS = "gradhorizon.measurements"

Digest = Callable[[pd.DataFrame, bool], dict[str, float] | None]


def digest(table: str, frame: pd.DataFrame, is_bidirectional: bool = False) -> dict[str, float]:
    """``split/quantity`` or ``split/quantity/qualifier`` -> value, as the measurement of that table says.

    Args:
        table: the table's name; one of no measurement of ours, or of one that says nothing, gives the median of each of
            its float columns.
        frame: its rows of one member at one probe.
        is_bidirectional: whether the network has two directions; its longest lag is the distance to the end nearest.
    """
    if frame.empty:
        return {}
    values = _own_digest(table)(frame, is_bidirectional)
    return _medians(table, frame) if values is None else values


@cache
def _own_digest(table: str) -> Digest:
    """`Measurement.digest` of the measurement whose module bears the table's name.

    A W&B run is rebuilt from the records alone, and a stranger's records may name anything: only what lies in the room
    of measurements is imported, whatever a run's configuration says.
    """
    module = f"{_MEASUREMENTS}.{table}"
    classes: list[Any] = []
    if table.isidentifier() and find_spec(module) is not None:
        classes = [found for _, found in inspect.getmembers(importlib.import_module(module), inspect.isclass)]
    own = [found.digest for found in classes if getattr(vars(found).get("table"), "name", None) == table]
    return own[0] if own else lambda _rows, _has_two_directions: None


def _medians(table: str, frame: pd.DataFrame) -> dict[str, float]:
    columns = [name for name, dtype in frame.dtypes.items() if dtype == np.float64]
    return {f"probe/{table}/{name}_median": float(frame[name].median()) for name in columns[:MAX_COLUMNS]}
