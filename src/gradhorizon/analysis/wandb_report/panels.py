"""Panel grids of the W&B report: run sets by model, profiles over lag, scaling with length, training curves.

Keys are written out here, as a reader of W&B sees them; `keys` checks that runs log them.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gradhorizon.analysis.reading.cohort import MEMBER, Cohort, records
from gradhorizon.analysis.reading.configurations import configuration
from gradhorizon.analysis.wandb_report.keys import RUN, Logged, Wanted, check, logged_keys
from gradhorizon.records.read_ends import NAME, is_bidirectional

_generator = random.getstate()  # the package draws its ids at import
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Pydantic V1 style", DeprecationWarning)  # the package's own, at every import
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr
random.setstate(_generator)

PROFILE = "profile/log10_relative_input_gradient"
HORIZON = "profile/gradient_horizon_steps"
LONGEST_LAG = "probe/log10_relative_input_gradient/longest_lag/median"
SPREAD = ("median", "low", "high")
"""What the mirror logs of the members of a run: their median, the smallest and the largest."""
MOMENTS = {"init": "at init", "last": "after training"}
"""The mirror's moment -> as the report says it."""
_VALUE = "log10 of the relative input gradient [–]"
_CURVES = (
    ("metrics", "validation/loss", "validation loss", True),
    ("metrics", "validation/accuracy", "validation accuracy [–]", False),
    ("parameter_gradients", "train/parameter_gradient_norm/total_unclipped", "gradient norm before clipping", True),
    ("parameter_gradients", "train/clip_fraction", "fraction of steps clipped [–]", False),
)  # fmt: skip
"""Table that feeds the curve, key without the member, axis label, whether the axis is logarithmic."""
_GRID_COLUMNS = 24
_PANEL_ROWS = 8


@dataclass(frozen=True)
class Grid:
    """Panels that share their run sets.

    Attributes:
        title: what the runs have in common.
        members: rows of `Cohort.members`: the runs of the run sets.
        panels: what is drawn.
        groupby: configuration keys that the run sets are grouped by.
    """

    title: str
    members: pd.DataFrame
    panels: list[Any]
    groupby: Sequence[str] = ("model",)

    def check(self, logged: Mapping[tuple[str, str], Logged]) -> None:
        """Refuse a panel that would be empty.

        Raises:
            EmptyPanelError: no run logs a key that a panel draws, or that run sets are selected or grouped by.
        """
        runs = list(dict.fromkeys(self.members[RUN].itertuples(index=False, name=None)))
        check(f"run sets of {self.title}", [Wanted("config", key) for key in (*self.groupby, *RUN)], runs, logged)
        for panel in self.panels:
            check(f"{panel.title}, {self.title}", wanted(panel), runs, logged)

    def block(self, look: pd.DataFrame, entity: str, project: str) -> Any:
        """The grid as a block of a report; with an entity and a project, making its model asks W&B for their id.

        Args:
            look: of `Cohort`.
            entity: owner of the project; empty for the report's own.
            project: where the runs are; empty for the report's own.
        """
        sets = list(self._run_sets())
        colors = dict(zip(look["series"], look["color"], strict=True))
        return wr.PanelGrid(
            runsets=[_run_set(name, rows, self.groupby, entity, project) for name, rows in sets],
            panels=_laid_out(self.panels),
            custom_run_colors={
                _group(name, row, self.groupby): colors[row["series"]] for name, rows in sets for row in records(rows)
            },
        )

    def _run_sets(self) -> Iterator[tuple[str, pd.DataFrame]]:
        # Runs of one label that differ in their configuration must not be pooled: each series is a set of its own.
        if (self.members["series"] == self.members["model"]).all():
            yield "runs", self.members
        else:
            for series, rows in self.members.groupby("series", sort=True):
                yield str(series), rows


def wanted(panel: Any) -> list[Wanted]:
    """The keys that a panel draws.

    Args:
        panel: line or scatter plot.
    """
    if isinstance(panel, wr.LinePlot):
        keys = [Wanted("history", _name(key), _name(panel.x)) for key in panel.y]
        return [*keys, Wanted("config", _name(panel.groupby))]
    sections = {wr.Config: "config", wr.SummaryMetric: "summary"}
    return [Wanted(sections[type(axis)], axis.name) for axis in (panel.x, panel.y)]


def _name(metric: Any) -> str:
    return metric if isinstance(metric, str) else str(metric.name)


def profile_grids(cohort: Cohort) -> Iterator[Grid]:
    """One grid per task and length: profiles over lag, a panel per moment."""
    for title, members in _settings(_profiled(cohort)):
        panels = [
            _line(f"Profile {spoken}", "lag", [f"{PROFILE}_{moment}/{name}" for name in SPREAD],
                  _lag_title(members), _VALUE, False)
            for moment, spoken in _moments(cohort, members)
        ]  # fmt: skip
        if panels:
            yield Grid(title, members, panels)


def scaling_grids(cohort: Cohort) -> Iterator[Grid]:
    """One grid per task: the horizon against T on two logarithmic axes, and what is left at the longest lag.

    W&B draws one mark for all points of a panel, so that horizons which are known only to lie beyond the longest lag
    have a panel of their own.
    """
    for task, members in _profiled(cohort).groupby("task", sort=True):
        panels = [
            wr.ScatterPlot(
                title=title, x=wr.Config("seq_len"), y=wr.SummaryMetric(key), log_x=True, log_y=True,
            )
            for moment, spoken in _moments(cohort, members)
            for title, key in _horizons(cohort, members, moment, spoken)
        ]  # fmt: skip
        rest = wr.ScatterPlot(
            title=f"{_VALUE} at the longest lag, at the end, against T [steps]",
            x=wr.Config("seq_len"),
            y=wr.SummaryMetric(LONGEST_LAG),
            log_x=True,
        )
        if panels:
            # By length too, so that no mean over lengths is ever drawn.
            yield Grid(str(task), members, [*panels, rest], ("model", "seq_len"))


def _horizons(cohort: Cohort, members: pd.DataFrame, moment: str, spoken: str) -> list[tuple[str, str]]:
    measured = f"{HORIZON}_{moment}/median"
    titles = {
        measured: f"Gradient horizon {spoken} [steps] against T [steps]",
        f"{measured}_beyond": f"Censored: gradient horizon {spoken} beyond this many steps, against T [steps]",
    }
    runs = members[RUN].drop_duplicates().itertuples(index=False, name=None)
    summaries = [logged_keys(cohort)[run].summary for run in runs]
    found = [key for key in titles if any(key in summary for summary in summaries)]
    return [(titles[key], key) for key in found or [measured]]


def curve_grids(cohort: Cohort) -> Iterator[Grid]:
    """One grid per task and length: what training did, against optimizer steps."""
    without = {table: cohort.runs.members_without(table).index for table in {curve[0] for curve in _CURVES}}
    for title, members in _settings(cohort.members):
        panels = [
            _line(label, "step", [f"{key}/{name}" for name in SPREAD], "optimizer steps", label, is_log)
            for table, key, label, is_log in _CURVES
            if not members.index.isin(without[table]).all()
        ]
        if panels:
            yield Grid(title, members, panels)


def _line(title: str, x: str, y: list[str], title_x: str, title_y: str, is_log: bool) -> Any:
    return wr.LinePlot(
        title=title, x=x, y=[*y], title_x=title_x, title_y=title_y, log_y=is_log, groupby=wr.Config("model"),
        groupby_aggfunc="median", groupby_rangefunc="minmax", smoothing_type="none", max_runs_to_show=100,
    )  # fmt: skip


def _settings(members: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (task, seq_len), rows in members.groupby(["task", "seq_len"], sort=True):
        yield f"{task} · T = {seq_len} (N = {rows['input_len'].iloc[0]} steps)", rows


def _lag_title(members: pd.DataFrame) -> str:
    folders = members.drop_duplicates(RUN)["folder"]
    two_ends = [is_bidirectional(configuration(Path(folder).parent)) for folder in folders]
    if all(two_ends):
        return f"{NAME} [steps]"
    return f"lag τ = t* − t{f' or {NAME}' if any(two_ends) else ''} [steps]"


def _profiled(cohort: Cohort) -> pd.DataFrame:
    """Members with profiles of runs that have ended: only then does the mirror log them."""
    is_open = cohort.members["status"] != "finished"
    still_open = pd.MultiIndex.from_frame(cohort.members.loc[is_open, RUN])
    ended = cohort.members[~pd.MultiIndex.from_frame(cohort.members[RUN]).isin(still_open)]
    return ended.drop(index=cohort.runs.members_without("input_gradients").index, errors="ignore")


def _moments(cohort: Cohort, members: pd.DataFrame) -> list[tuple[str, str]]:
    """Moments at which a member had a gradient that can be drawn; the last one only if it is not the first."""
    measured = cohort.table("input_gradients").merge(members[MEMBER], on=MEMBER)
    norms = measured["relative_gradient_norm_median"]
    drawable = measured[np.isfinite(norms) & (norms > 0)]
    last = measured.groupby(MEMBER)["step"].transform("max")[drawable.index]
    steps = {"init": drawable["step"] == 0, "last": (drawable["step"] == last) & (last > 0)}
    return [(moment, spoken) for moment, spoken in MOMENTS.items() if steps[moment].any()]


def _run_set(name: str, members: pd.DataFrame, groupby: Sequence[str], entity: str, project: str) -> Any:
    run_set: Any = wr.Runset(
        entity=entity, project=project, name=name, groupby=[f"config.{key}" for key in groupby]
    )  # a bare "model" would be taken for an attribute of the run
    chosen = [expr.Config(f"{key}.value").isin(sorted(members[key].astype(str).unique())) for key in RUN]
    # The package would write the filter as text and read it back, and turn every = and < in a run's name into == and <=
    run_set._stashed_filters_v2 = expr.filters_tree_to_v2(expr.And(*chosen).to_model())  # noqa: SLF001
    run_set._stashed_filter_string = run_set.filters  # noqa: SLF001
    return run_set


def _group(run_set: str, row: dict[str, Any], groupby: Sequence[str]) -> Any:
    return wr.RunsetGroup(run_set, tuple(wr.RunsetGroupKey(wr.Config(key), str(row[key])) for key in groupby))


def _laid_out(panels: list[Any]) -> list[Any]:
    width = _GRID_COLUMNS // (2 if len(panels) % 2 == 0 else min(len(panels), 3))
    across = _GRID_COLUMNS // width
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=number % across * width, y=number // across * _PANEL_ROWS, w=width, h=_PANEL_ROWS)
    return panels
