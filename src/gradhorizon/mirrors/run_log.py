"""What is written into one W&B run: rows against optimizer steps, profiles against lag, a heat map, a summary."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import wandb

from gradhorizon.mirrors.digests import digest
from gradhorizon.mirrors.heat_map import heat_map_pixels
from gradhorizon.mirrors.member_scalars import MemberScalars, MemberValues, StepCollector
from gradhorizon.mirrors.mirror import RunInfo
from gradhorizon.mirrors.profiles import MOMENTS, TABLE, ProfileHistory, gradient_horizon
from gradhorizon.mirrors.recorded import recorded_scalars, unfinished_steps
from gradhorizon.records.read_ends import is_bidirectional

PROFILE_KEY = "profile/log10_relative_input_gradient"
HORIZON_KEY = "profile/gradient_horizon_steps"
HEAT_MAP_KEY = "probe/input_gradient_heat_map"


@runtime_checkable
class History(Protocol):
    """The part of a `wandb.Run` that is written to."""

    @property
    def resumed(self) -> bool:
        """Whether the run goes on with rows of an earlier launch."""

    @property
    def summary(self) -> Any:
        """Key -> value."""

    def define_metric(self, name: str, *, step_metric: str | None = None, hidden: bool | None = None) -> Any:
        """Declare a key's x-axis."""

    def log(self, data: dict[str, Any]) -> None:
        """Add a row."""


class RunLog:
    """Rows of one W&B run, one per optimizer step. Every key's x-axis is declared before its first row.

    Rows are a function of the records alone, so that a run that was interrupted, one that was not, and one rebuilt
    from its records show the same. What earlier launches have recorded is taken from the records, step by step with
    what is trained now; of a W&B run that is resumed, rows that it holds are not written again.

    Args:
        run: the W&B run, which somebody else finishes.
        info: what it shows.
    """

    def __init__(self, run: History, info: RunInfo) -> None:
        self._run = run
        self._info = info
        self._splits: set[str] = set()
        self._scalars = MemberScalars()
        self._steps = StepCollector()
        self._recorded: deque[tuple[int, MemberValues]] = deque()
        self._is_bidirectional = is_bidirectional(info.config)
        self._profiles = ProfileHistory(info.seeds, self._is_bidirectional)
        self._first_step = 0
        for x_axis in ("step", "lag"):
            run.define_metric(x_axis, hidden=True)

    def read_records(self) -> None:
        """Take over what earlier launches of the run have recorded.

        To be called once, after records that belong to no checkpoint were set aside.
        """
        self._recorded.extend(recorded_scalars(self._info.folder, self._info.seeds, self._is_bidirectional))
        self._profiles.add_recorded(self._info.folder)
        if self._run.resumed and len(unfinished_steps(self._info.folder, self._info.seeds)) <= 1:
            # The last two steps may have come without all their members: they are written again.
            self._first_step = int(self._run.summary.get("step", 0)) - 1

    def scalars(self, step: int, scalars: MemberValues) -> None:
        """Take values of single members."""
        self._replay(step)
        self._gather(step, scalars)

    def table(self, table: str, frame: pd.DataFrame) -> None:
        """Take the rows of one member at one probe."""
        if table == TABLE:
            self._profiles.add(frame)
        step, seed = int(frame["step"].to_numpy()[0]), int(frame["seed"].to_numpy()[0])
        scalars = digest(table, frame, self._is_bidirectional)
        self.scalars(step, {key: {seed: value} for key, value in scalars.items()})

    def catch_up(self, is_finished: bool) -> None:
        """Take what is recorded of later steps than those trained now: of an unfinished run as far as all members are.

        Args:
            is_finished: whether all members have ended.
        """
        steps = unfinished_steps(self._info.folder, self._info.seeds)
        self._replay(math.inf if is_finished else min(steps, default=math.inf))

    def rest(self, is_finished: bool) -> None:
        """Write what is left: of an unfinished run without medians, since members may be missing from its last steps.

        Args:
            is_finished: whether all members have ended.
        """
        for step, scalars in self._steps.flush():
            self._write_step(step, scalars, with_median=is_finished)

    def profiles(self) -> None:
        """Write one row per lag: the log10 profiles of members, their median and range, at init, solved and last.

        A lag at which the gradient is exactly 0 has no point; the first such lag stands in the summary, as does the
        gradient horizon of each profile: its number only where it was measured, so that no mean and no panel takes the
        length of the sequence for one; where it lies beyond, what it lies beyond.
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
            self._write_horizon(str(key), values)

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

    def _write_horizon(self, key: str, profile: pd.Series) -> None:
        horizon = None if key.endswith(("/low", "/high")) else gradient_horizon(profile)
        if horizon is not None:
            name, (lag, is_beyond) = key.replace(PROFILE_KEY, HORIZON_KEY), horizon
            self._run.summary[f"{name}_beyond" if is_beyond else name] = lag
            self._run.summary[f"{name}_is_beyond"] = is_beyond

    def _profile_columns(self) -> dict[str, pd.Series]:
        columns: dict[str, pd.Series] = {}
        for moment in MOMENTS:
            profiles = self._profiles.at(moment)
            seeds = profiles.drop(columns="median", errors="ignore")
            named = {"low": seeds.min(axis=1), "high": seeds.max(axis=1)} if len(seeds.columns) else {}
            named |= {"median" if name == "median" else f"seed_{name}": values for name, values in profiles.items()}
            columns |= {f"{PROFILE_KEY}_{moment}/{name}": values for name, values in named.items()}
        return columns

    def _replay(self, last_step: float) -> None:
        while self._recorded and self._recorded[0][0] <= last_step:
            self._gather(*self._recorded.popleft())

    def _gather(self, step: int, scalars: MemberValues) -> None:
        for complete_step, values in self._steps.add(step, scalars):
            self._write_step(complete_step, values)

    def _write_step(self, step: int, scalars: MemberValues, with_median: bool = True) -> None:
        row = self._scalars.row(scalars, with_median)
        if row and step >= self._first_step:
            self._write("step", step, row)

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
