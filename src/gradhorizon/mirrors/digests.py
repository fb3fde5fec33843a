"""The few numbers of a measurement's rows that are worth a curve over training; the records keep the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from gradhorizon.records.read_ends import by_read_end

MAX_COLUMNS = 16


def digest(table: str, frame: pd.DataFrame, is_bidirectional: bool = False) -> dict[str, float]:
    """``split/quantity`` or ``split/quantity/qualifier`` -> value.

    Args:
        table: the table's name; one that is not known here gives the median of each of its float columns.
        frame: its rows of one member at one probe.
        is_bidirectional: whether the network has two directions; its longest lag is the distance to the end nearest.
    """
    if frame.empty:
        return {}
    if table == "input_gradients":
        frame = by_read_end(frame, is_bidirectional)
    known = _DIGESTS.get(table)
    return known(frame) if known else _medians(table, frame)


def _input_gradients(frame: pd.DataFrame) -> dict[str, float]:
    return {"probe/log10_relative_input_gradient/longest_lag": _log10_at_longest_lag(frame)}


def _state_gradients(frame: pd.DataFrame) -> dict[str, float]:
    whole = frame[(frame["part"] == "total") & (frame["component"] == "all")]
    return {
        f"probe/log10_relative_state_gradient/{layer}_longest_lag": _log10_at_longest_lag(rows)
        for layer, rows in _by_layer(whole)
    }


def _parameter_gradients(frame: pd.DataFrame) -> dict[str, float]:
    total = frame["parameter"].to_numpy() == "total"
    columns = {
        "train/parameter_gradient_norm/total_unclipped": "norm_unclipped",
        "train/parameter_gradient_norm/total_clipped": "norm_clipped",
        "train/clip_fraction": "clip_fraction",
    }
    return {key: float(frame[column].to_numpy(np.float64)[total][0]) for key, column in columns.items()}


def _gates(frame: pd.DataFrame) -> dict[str, float]:
    scalars = {}
    for layer, layer_rows in _by_layer(frame):
        for gate, rows in layer_rows.groupby("gate", sort=False):
            scalars[f"probe/gate_mean/{layer}_{gate}"] = float(rows["mean"].mean())
            time_scale = float(rows["time_scale_median_steps"].median())
            if not np.isnan(time_scale):
                scalars[f"probe/gate_time_scale_steps/{layer}_{gate}"] = time_scale
    return scalars


def _medians(table: str, frame: pd.DataFrame) -> dict[str, float]:
    columns = [name for name, dtype in frame.dtypes.items() if dtype == np.float64]
    return {f"probe/{table}/{name}_median": float(frame[name].median()) for name in columns[:MAX_COLUMNS]}


def _by_layer(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (layer, direction), rows in frame.groupby(["layer", "direction"], sort=False):
        yield f"layer_{layer}_{direction}", rows


def _log10_at_longest_lag(frame: pd.DataFrame) -> float:
    value = frame["relative_gradient_norm_median"].to_numpy(np.float64)[int(frame["lag"].to_numpy().argmax())]
    with np.errstate(divide="ignore"):
        return float(np.log10(value))


_DIGESTS: dict[str, Callable[[pd.DataFrame], dict[str, float]]] = {
    "input_gradients": _input_gradients,
    "state_gradients": _state_gradients,
    "parameter_gradients": _parameter_gradients,
    "gates": _gates,
}
