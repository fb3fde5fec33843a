"""The dimension's curves against the rows that they were written with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.figures import state_dimension
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.measurements.state_dimension import StateDimension
from gradhorizon.records.parquet import write_parquet
from tests.records_on_disk import list_as_found
from tests.synthetic_runs import SyntheticRun

LAGS = (0, 1, 5)


def write_dimensions(root: Path, of_seeds: Sequence[float], **settings: Any) -> None:
    """A run of two layers whose upper one has D + lag at init, and twice that after training; the lower one has 1."""
    run = SyntheticRun(outcomes=(None,) * len(of_seeds), tables=("metrics",), **settings)
    lead = {name: getattr(run, name) for name in ("experiment", "model", "task", "seq_len", "input_len")}
    folder = run.write(root)
    for seed, dimension in enumerate(of_seeds):
        rows = pd.DataFrame(
            [
                {"layer": layer, "lag": lag, "step": step, "phase": phase, "participation_ratio": value}
                for step, phase, scale in ((0, "init", 1.0), (500, "train", 9.0), (run.num_steps, "last", 2.0))
                for lag in LAGS
                for layer, value in ((0, 1.0), (1, scale * (dimension + lag)))
            ]
        ).assign(direction="forward", t=0, total_variance=1.0, num_samples=8, num_non_finite_samples=0, seed=seed)
        table = StateDimension.table.to_arrow(rows.assign(**lead, run=run.name))
        write_parquet(table, folder / f"seed-{seed}" / "records" / "state_dimension.parquet")
        list_as_found(folder / f"seed-{seed}", seed)


def test_curves_are_the_median_and_the_range_of_the_seeds_in_the_topmost_layer(tmp_path: Path) -> None:
    write_dimensions(tmp_path, [2.0, 3.0, 5.0])
    table = state_dimension.summarise(read_cohort([tmp_path])).set_index(["stage", "lag"])
    for stage, scale in (("at init", 1.0), ("after training", 2.0)):
        for lag in LAGS:
            found = list(table.loc[(stage, lag), ["median", "low", "high", "num_seeds"]])
            assert found == [scale * (3 + lag), scale * (2 + lag), scale * (5 + lag), 3]


def test_cuts_without_variance_are_left_out(tmp_path: Path) -> None:
    write_dimensions(tmp_path, [np.nan, np.nan])
    assert state_dimension.summarise(read_cohort([tmp_path])).empty


@pytest.mark.parametrize("lengths", [(50,), (50, 100)])
def test_a_panel_is_drawn_for_each_length_and_stage(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    for length in lengths:
        write_dimensions(tmp_path, [2.0, 3.0], seq_len=length)
    cohort = read_cohort([tmp_path])
    (draw,) = state_dimension.figures(cohort).values()
    with appearance.styled():
        titles = [ax.get_title(loc="left") for ax in draw().axes]
    assert titles == [f"{stage},  T = {length}" for stage in ("at init", "after training") for length in lengths]
    assert {path.suffix for path in state_dimension.write(cohort, tmp_path)} == {".png", ".pdf"}
