"""An independent, slow account of what W&B must show of a run: loops over the rows of its Parquet files.

A point is (name of the x-axis, x, key, value); NaN is the word "nan", so that points can be compared.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradhorizon.records.reading import read_member_table
from tests.wandb_stub import StubRun

Point = tuple[str, int, str, Any]
HEAT_MAP = "probe/input_gradient_heat_map"
PROFILE = "profile/log10_relative_input_gradient"
RELATIVE = "relative_gradient_norm_median"


def points_of_server(run: StubRun) -> Counter[Point]:
    """How often the server has received each point, images left out."""
    points: Counter[Point] = Counter()
    for row in run.rows:
        (axis,) = {"step", "lag"} & set(row)
        points.update((axis, row[axis], key, _word(value)) for key, value in row.items() if key not in (axis, HEAT_MAP))
    return points


def points_of_records(folder: Path, seeds: Sequence[int]) -> set[Point]:
    """Every point that the members' records stand for."""
    values: dict[str, dict[int, dict[int, float]]] = {}
    for seed in seeds:
        for key, step, value in _member_values(folder / f"seed-{seed}"):
            values.setdefault(key, {}).setdefault(step, {})[seed] = value
    points: set[Point] = set()
    for key, by_step in values.items():
        latest: dict[int, float] = {}
        for step in sorted(by_step):
            latest.update(by_step[step])
            points |= {("step", step, f"{key}/seed_{seed}", _word(value)) for seed, value in by_step[step].items()}
            known = [value for value in latest.values() if not math.isnan(value)] or [math.nan]
            spread = {"median": _median(known), "low": min(known), "high": max(known)}
            points |= {("step", step, f"{key}/{name}", _word(value)) for name, value in spread.items()}
    return points | set(_profile_points(folder, seeds))


def _member_values(member: Path) -> Iterator[tuple[str, int, float]]:
    for row in _rows(member, "metrics"):
        yield f"{row['split']}/{row['metric']}", row["step"], row["value"]
    for row in _rows(member, "parameter_gradients"):
        if row["parameter"] == "total":
            yield "train/parameter_gradient_norm/total_unclipped", row["step"], row["norm_unclipped"]
            yield "train/parameter_gradient_norm/total_clipped", row["step"], row["norm_clipped"]
            yield "train/clip_fraction", row["step"], row["clip_fraction"]
    inputs, states = _rows(member, "input_gradients"), _rows(member, "state_gradients")
    for row in inputs:
        if row["lag"] == max(other["lag"] for other in inputs):
            yield "probe/log10_relative_input_gradient/longest_lag", row["step"], _log10(row[RELATIVE])
    for row in states:
        is_whole = row["part"] == "total" and row["component"] == "all"
        if is_whole and row["lag"] == max(other["lag"] for other in states):
            key = f"probe/log10_relative_state_gradient/layer_{row['layer']}_{row['direction']}_longest_lag"
            yield key, row["step"], _log10(row[RELATIVE])


def _profile_points(folder: Path, seeds: Sequence[int]) -> Iterator[Point]:
    for moment in ("init", "solved", "last"):
        lines: dict[int, dict[int, float]] = {}
        for seed in seeds:
            rows = _rows(folder / f"seed-{seed}", "input_gradients")
            steps = [row["step"] for row in rows if moment in (row["phase"], "last")]
            for row in rows:
                if steps and row["step"] == max(steps):
                    lines.setdefault(row["lag"], {})[seed] = _log10(row[RELATIVE])
        for lag, values in lines.items():
            members = {f"seed_{seed}": value for seed, value in values.items()}
            known = [value for value in values.values() if not math.isnan(value)]
            summaries = {"median": _median(known), "low": min(known), "high": max(known)} if known else {}
            for name, value in {**members, **summaries}.items():
                if math.isfinite(value):
                    yield "lag", lag, f"{PROFILE}_{moment}/{name}", value


def _rows(member: Path, table: str) -> list[dict[str, Any]]:
    frame: pd.DataFrame | None = read_member_table(member, table)
    return (
        [] if frame is None else [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
    )


def _median(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _log10(value: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log10(value))  # `math.log10` differs in the last bit


def _word(value: float) -> float | str:
    return "nan" if isinstance(value, float) and math.isnan(value) else value
