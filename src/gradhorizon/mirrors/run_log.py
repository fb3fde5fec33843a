"""What is written into one W&B run: rows against optimizer steps, profiles against lag, a heat map, a summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import wandb

from gradhorizon.mirrors.digests import digest
from gradhorizon.mirrors.heat_map import heat_map_pixels
from gradhorizon.mirrors.members import MemberScalars, StepCollector
from gradhorizon.mirrors.mirror import RunInfo
from gradhorizon.mirrors.profiles import MOMENTS, TABLE, ProfileHistory

PROFILE_KEY = "profile/log10_relative_input_gradient"
HEAT_MAP_KEY = "probe/input_gradient_heat_map"


class RunLog:
    """Rows of one W&B run. Every key's x-axis is declared before its first row.

    Args:
        run: the W&B run, which somebody else finishes.
        info: what it shows.
    """

    def __init__(self, run: wandb.Run, info: RunInfo) -> None:
        self._run = run
        self._info = info
        self._splits: set[str] = set()
        self._scalars = MemberScalars()
        self._collectors: dict[str, StepCollector] = {}
        self._profiles = ProfileHistory(info.seeds)
        for x_axis in ("step", "lag"):
            run.define_metric(x_axis, hidden=True)

    def read_earlier_profiles(self) -> None:
        """Take over the profiles that earlier launches of the run have recorded, so that the heat map is whole."""
        self._profiles.add_recorded(self._info.folder)

    def scalars(self, step: int, scalars: Mapping[str, Mapping[int, float]]) -> None:
        """Write one row: every member's values, and the medians over members."""
        row = self._scalars.row(scalars)
        if row:
            self._write("step", step, row)

    def table(self, table: str, frame: pd.DataFrame) -> None:
        """Take the rows of one member at one probe; write the digests of the steps that are complete by now."""
        if table == TABLE:
            self._profiles.add(frame)
        collector = self._collectors.setdefault(table, StepCollector(self._info.seeds))
        step, seed = int(frame["step"].to_numpy()[0]), int(frame["seed"].to_numpy()[0])
        for complete_step, scalars in collector.add(step, seed, digest(table, frame)):
            self.scalars(complete_step, scalars)

    def rest(self) -> None:
        """Write the digests of steps that not all members have reported."""
        for collector in self._collectors.values():
            for step, scalars in collector.flush():
                self.scalars(step, scalars)

    def profiles(self) -> None:
        """Write one row per lag: the log10 profiles of members and their median, at init, when solved and at last.

        A lag at which the gradient is exactly 0 has no point; the first such lag stands in the summary.
        """
        curves = pd.DataFrame(self._profile_columns()).sort_index()
        for lag, values in curves.iterrows():
            row = {str(key): float(value) for key, value in values.items() if np.isfinite(value)}
            if row:
                self._write("lag", int(str(lag)), row)
        for key, values in curves.items():
            zero_lags = values.index[np.isneginf(values)]
            if len(zero_lags):
                self._run.summary[f"{key}_first_zero_lag"] = int(zero_lags.min())

    def heat_map(self) -> None:
        """Draw and write the step × lag heat map."""
        heat = self._profiles.heat_map()
        if heat is not None:
            title = f"{self._info.model} on {self._info.task}, T = {self._info.seq_len}"
            pixels = heat_map_pixels(heat, title)
            self._write("step", heat.steps[-1], {HEAT_MAP_KEY: wandb.Image(pixels, caption=title)})

    def summary(self, status: str, summary: Mapping[str, Any]) -> None:
        """Write the run's outcome."""
        self._run.summary.update({"status": status, **_flat(summary)})

    def _profile_columns(self) -> dict[str, pd.Series]:
        return {
            f"{PROFILE_KEY}_{moment}/{'median' if member == 'median' else f'seed_{member}'}": values
            for moment in MOMENTS
            for member, values in self._profiles.at(moment).items()
        }

    def _write(self, x_axis: str, x: int, row: dict[str, Any]) -> None:
        for split in {key.split("/")[0] for key in row} - self._splits:
            self._run.define_metric(f"{split}/*", step_metric=x_axis)
            self._splits.add(split)
        self._run.log({x_axis: x, **row})


def _flat(summary: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in summary.items():
        name = f"{prefix}seed_{key}" if str(key).isdigit() else f"{prefix}{key}"
        flat.update(_flat(value, f"{name}/") if isinstance(value, Mapping) else {name: value})
    return flat
