"""The few scalars that W&B shows of each table."""

from __future__ import annotations

import math
import pkgutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from gradhorizon import measurements
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.mirrors.digests import MAX_COLUMNS, _own_digest, digest
from tests.mirrors.rows import input_gradient_rows, parameter_gradient_rows, with_lead
from tests.shipped import shipped

MY_QUANTITY = """
from gradhorizon.measurements.measurement import ProbeMeasurement
from gradhorizon.records.tables import Column, Table

class MyQuantity(ProbeMeasurement):
    table = Table("my_quantity", "a quantity", (Column("mine", "float64", "dimensionless", "a number"),))

    @staticmethod
    def digest(rows, has_two_directions):
        return {"probe/mine/largest": rows["mine"].max() * (-1 if has_two_directions else 1)}
"""


def test_parameter_gradients_give_the_total_and_the_clip_fraction_alone() -> None:
    assert digest("parameter_gradients", parameter_gradient_rows(0, 5, total=8.0, clip_fraction=0.25)) == {
        "train/parameter_gradient_norm/total_unclipped": 8.0,
        "train/parameter_gradient_norm/total_clipped": 4.0,
        "train/clip_fraction": 0.25,
    }


def test_input_gradients_give_the_longest_lag() -> None:
    frame = input_gradient_rows(0, 5, "train", [1.0, 0.5, 1e-3])
    (value,) = digest("input_gradients", frame).values()
    assert value == pytest.approx(-3.0, rel=1e-12)


def test_vanished_input_gradient_is_minus_infinity() -> None:
    frame = input_gradient_rows(0, 5, "train", [1.0, 0.0])
    assert digest("input_gradients", frame) == {"probe/log10_relative_input_gradient/longest_lag": -math.inf}


def test_state_gradients_give_the_whole_states_total_per_layer_and_direction() -> None:
    columns = {
        "layer": [0, 0, 0, 0, 1],
        "direction": ["forward"] * 4 + ["backward"],
        "component": ["all", "all", "h", "all", "all"],
        "part": ["total", "direct", "total", "total", "total"],
        "lag": [0, 9, 9, 9, 4],
        "relative_gradient_norm_median": [1.0, 1e-6, 1e-5, 1e-2, 1e-4],
    }
    values = digest("state_gradients", with_lead(columns, 0, 5, "train"))
    assert values == pytest.approx(
        {
            "probe/log10_relative_state_gradient/layer_0_forward_longest_lag": -2.0,
            "probe/log10_relative_state_gradient/layer_1_backward_longest_lag": -4.0,
        },
        rel=1e-12,
    )


def test_gates_give_their_mean_and_a_time_scale_where_they_retain() -> None:
    columns = {
        "layer": 0,
        "direction": "forward",
        "gate": ["forget_gate", "forget_gate", "input_gate"],
        "mean": [0.5, 0.75, 0.25],
        "time_scale_median_steps": [2.0, 4.0, math.nan],
    }
    assert digest("gates", with_lead(columns, 0, 5, "train")) == {
        "probe/gate_mean/layer_0_forward_forget_gate": 0.625,
        "probe/gate_time_scale_steps/layer_0_forward_forget_gate": 3.0,
        "probe/gate_mean/layer_0_forward_input_gate": 0.25,
    }


def test_unknown_table_gives_the_medians_of_its_float_columns() -> None:
    columns = {"lag": [1, 2, 3], "name": ["a", "b", "c"], "mine": [1.0, 5.0, 2.0]}
    assert digest("my_table", with_lead(columns, 0, 5, "train")) == {"probe/my_table/mine_median": 2.0}


def test_unknown_table_gives_no_more_keys_than_the_limit() -> None:
    columns = {f"column_{index}": [0.5] for index in range(3 * MAX_COLUMNS)}
    assert len(digest("my_table", with_lead(columns, 0, 5, "train"))) == MAX_COLUMNS


def test_a_new_measurement_gives_its_own_digest_by_being_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_quantity.py").write_text(MY_QUANTITY, encoding="utf-8")
    monkeypatch.setattr(measurements, "__path__", [*measurements.__path__, str(tmp_path)])
    frame = with_lead({"mine": [1.0, 4.0]}, 0, 5, "train")
    assert digest("my_quantity", frame) == {"probe/mine/largest": 4.0}
    assert digest("my_quantity", frame, is_bidirectional=True) == {"probe/mine/largest": -4.0}
    monkeypatch.delitem(sys.modules, "gradhorizon.measurements.my_quantity")


@pytest.mark.parametrize("name", shipped("measurement"))
def test_every_measurement_lies_where_its_digest_is_looked_for(name: str) -> None:
    target = OmegaConf.load(CONF_DIR / "measurement" / f"{name}.yaml")._target_
    measured = pkgutil.resolve_name(target)
    assert measured.__module__ == f"gradhorizon.measurements.{measured.table.name}"
    assert _own_digest(measured.table.name) is measured.digest


@pytest.mark.parametrize(
    "name", ["a_stranger", "../a_stranger", "a_stranger.py", "schedule", "measurement", "x.a_stranger"]
)
def test_nothing_of_a_stranger_is_executed_to_show_a_table(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_stranger.py").write_text("raise SystemExit('executed')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert digest(name, with_lead({"mine": [1.0]}, 0, 5, "train")) == {f"probe/{name}/mine_median": 1.0}


def test_table_without_rows_gives_nothing() -> None:
    assert digest("gates", pd.DataFrame({"seed": [], "step": []})) == {}
