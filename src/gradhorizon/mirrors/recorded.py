"""What a run's records hold of the scalars that a mirror shows: the source of everything that a mirror can miss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gradhorizon.mirrors.digests import digest
from gradhorizon.mirrors.member_scalars import MemberValues
from gradhorizon.records.layout import member_folder
from gradhorizon.records.reading import read_member_table, recorded_tables
from gradhorizon.records.sheets import read_member_sheet
from gradhorizon.records.tables import METRICS


def recorded_scalars(
    folder: Path, seeds: Sequence[int], is_bidirectional: bool = False
) -> list[tuple[int, MemberValues]]:
    """The scalars of each optimizer step, ascending: metrics, and the digests of all other tables.

    Args:
        folder: the run's folder.
        seeds: seeds of the members to read; one that has recorded nothing is left out.
        is_bidirectional: whether their networks have two directions.
    """
    steps: dict[int, dict[str, dict[int, float]]] = {}
    for seed in seeds:
        for name in sorted(recorded_tables(member_folder(folder, seed))):
            frame = read_member_table(member_folder(folder, seed), name)
            for step, scalars in () if frame is None else _scalars(name, frame, is_bidirectional):
                for key, value in scalars.items():
                    steps.setdefault(step, {}).setdefault(key, {})[seed] = value
    return sorted(steps.items())


def is_recorded(folder: Path, seeds: Sequence[int]) -> bool:
    """Whether any of the members has committed anything."""
    return any(recorded_tables(member_folder(folder, seed)) for seed in seeds)


def unfinished_steps(folder: Path, seeds: Sequence[int]) -> set[int]:
    """The optimizer steps from which members that are not finished go on: one if they train side by side."""
    sheets = [read_member_sheet(member_folder(folder, seed)) for seed in seeds]
    return {int(sheet.get("step", 0)) for sheet in sheets if sheet.get("status") != "finished"}


def _scalars(name: str, frame: pd.DataFrame, is_bidirectional: bool) -> Iterator[tuple[int, dict[str, float]]]:
    if name == METRICS.name:
        keys = frame["split"].astype(str) + "/" + frame["metric"].astype(str)
        for step, key, value in zip(frame["step"], keys, frame["value"].to_numpy(np.float64), strict=True):
            yield int(step), {key: float(value)}
        return
    for _, rows in frame.groupby(["step", "phase"], sort=False):
        yield int(rows["step"].iloc[0]), digest(name, rows, is_bidirectional)
