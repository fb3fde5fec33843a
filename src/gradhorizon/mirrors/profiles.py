r"""Input-gradient profiles of all members at all probes, gathered for one line plot and one heat map.

.. math:: \log_{10} \frac{\|\partial L_{t^*} / \partial x_{t^* - \tau}\|}{\|\partial L_{t^*} / \partial x_{t^*}\|}

A true zero is :math:`-\infty` here, never a small number; a profile that was not measured is NaN. The lag of a
bidirectional network is the distance to the nearest end that is read (`gradhorizon.records.read_ends`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradhorizon.records.layout import member_folder
from gradhorizon.records.read_ends import VALUE, by_read_end
from gradhorizon.records.reading import read_member_table

TABLE = "input_gradients"
MOMENTS = ("init", "solved", "last")
MAX_LAGS = 1024
LOG10_HORIZON_LEVEL = -3.0
Array = NDArray[np.float64]


@dataclass(frozen=True)
class HeatMap:
    """Median over members of the log10 relative norm.

    Attributes:
        steps: optimizer steps of the rows, ascending.
        lags: lags of the columns, ascending.
        values: shape (steps, lags).
        num_members: how many members there are.
        is_by_read_end: whether the lags are distances to the nearest end that is read.
    """

    steps: list[int]
    lags: list[int]
    values: Array
    num_members: int
    is_by_read_end: bool = False


class ProfileHistory:
    """Profiles as they were measured, by member and optimizer step.

    Long profiles are thinned to about `MAX_LAGS` lags, dense at both short and long ones.

    Args:
        seeds: seeds of the members.
        is_bidirectional: whether their networks have two directions.
    """

    def __init__(self, seeds: Sequence[int], is_bidirectional: bool = False) -> None:
        self._is_bidirectional = is_bidirectional
        self._profiles: dict[int, dict[int, pd.Series]] = {seed: {} for seed in seeds}
        self._moments: dict[str, dict[int, int]] = {"init": {}, "solved": {}}

    def add_recorded(self, run_folder: Path) -> None:
        """Add what an earlier launch of the run has recorded of the members."""
        for seed in self._profiles:
            frame = read_member_table(member_folder(run_folder, seed), TABLE)
            if frame is not None:
                for _, rows in frame.groupby(["step", "phase"], sort=False):
                    self.add(rows)

    def add(self, rows: pd.DataFrame) -> None:
        """Add the rows of one member at one probe."""
        seed, step, phase = (rows[name].to_numpy()[0] for name in ("seed", "step", "phase"))
        self._profiles.setdefault(int(seed), {})[int(step)] = _profile(by_read_end(rows, self._is_bidirectional))
        self._moments.get(phase, {})[int(seed)] = int(step)

    def at(self, moment: str) -> pd.DataFrame:
        """Profiles at one moment of each member's training: lags as index, seeds and ``median`` as columns.

        Args:
            moment: init, solved (members that were), or last (whatever was measured last).
        """
        steps = self._last_steps() if moment == "last" else self._moments[moment]
        profiles = {seed: self._profiles[seed][step] for seed, step in sorted(steps.items())}
        frame = pd.DataFrame(profiles).sort_index()
        return frame.assign(median=median_over_members(frame.to_numpy().T)) if profiles else frame

    def heat_map(self) -> HeatMap | None:
        """Median over members at every measured step, or None if nothing was measured.

        A member that was not measured at a step, because it is frozen, keeps its last profile.
        """
        steps = sorted({step for profiles in self._profiles.values() for step in profiles})
        if not steps:
            return None
        measured = [profiles for profiles in self._profiles.values() if profiles]
        lags = sorted({int(lag) for profiles in measured for profile in profiles.values() for lag in profile.index})
        members = [_history(profiles, steps, lags) for profiles in measured]
        values = median_over_members(np.stack(members))
        return HeatMap(steps, lags, values, len(members), self._is_bidirectional)

    def _last_steps(self) -> dict[int, int]:
        return {seed: max(profiles) for seed, profiles in self._profiles.items() if profiles}


def _history(profiles: dict[int, pd.Series], steps: list[int], lags: list[int]) -> Array:
    rows, latest = [], np.full(len(lags), np.nan)
    for step in steps:
        latest = profiles[step].reindex(lags).to_numpy() if step in profiles else latest
        rows.append(latest)
    return np.stack(rows)


def _profile(rows: pd.DataFrame) -> pd.Series:
    lags = rows["lag"].to_numpy(np.int64)
    kept = np.argsort(lags)[_thinned(len(lags))]
    with np.errstate(divide="ignore", invalid="ignore"):
        return pd.Series(np.log10(rows[VALUE].to_numpy(np.float64)[kept]), index=lags[kept])


def _thinned(count: int) -> NDArray[np.int64]:
    if count <= MAX_LAGS:
        return np.arange(count)
    half = MAX_LAGS // 2
    spread = np.concatenate([np.linspace(0, count - 1, half), np.geomspace(1, count - 1, half), [0]])
    return np.unique(spread.round().astype(np.int64))


def gradient_horizon(profile: pd.Series) -> tuple[int, bool] | None:
    """First lag ≥ 0 from which a log10 profile stays under `LOG10_HORIZON_LEVEL`, and whether it lies beyond.

    A NaN is not known to be under the level and counts as above it. Of a thinned profile the horizon is the first kept
    lag that is not before it.

    Args:
        profile: log10 relative norms, indexed by lag, ascending.

    Returns:
        The horizon in steps, and False; the longest lag and True if the profile is not under the level there; None if
        nothing was measured.

    Example:
        >>> gradient_horizon(pd.Series([0.0, -2.0, -4.0, -5.0]))
        (2, False)
    """
    known = profile[profile.index >= 0]
    if known.isna().all():
        return None
    reaches = np.flatnonzero(~(known.to_numpy() < LOG10_HORIZON_LEVEL))
    first_under = int(reaches[-1]) + 1 if len(reaches) else 0
    is_beyond = first_under == len(known)
    return int(known.index[min(first_under, len(known) - 1)]), is_beyond


def median_over_members(values: Array) -> Array:
    """Median over the first axis of what is not NaN, infinities included; NaN where nothing is left.

    Args:
        values: shape (members, …).

    Returns:
        Shape (…).

    Example:
        >>> median_over_members(np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])).tolist()
        [2.0, nan]
    """
    ordered = np.sort(values, axis=0)  # NaN comes last
    count = np.sum(~np.isnan(values), axis=0)
    lower = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    upper = np.take_along_axis(ordered, np.minimum(count // 2, len(values) - 1)[None], axis=0)[0]
    with np.errstate(invalid="ignore"):
        median: Array = (lower + upper) / 2
    return median
