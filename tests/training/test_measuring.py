"""What a run does with its measurements beside the rows: refuses them in time, and says what they cost."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch

from gradhorizon.config import ConfigError
from gradhorizon.measurements.measurement import CostMeasurement, Program
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.records.files import read_json
from gradhorizon.records.tables import Column, Table
from gradhorizon.tasks.task import Task
from tests.runs_on_disk import all_tables, run

OWN = "+measurement.own={_target_: tests.training.test_measuring.%s}"


class Particular(CostMeasurement):
    """Refuses whatever is not of one hidden unit, and says what it was shown."""

    table: ClassVar[Table] = Table(
        "own",
        "what a program is",
        (
            Column("batch_size", "int64", "sequences", "B"),
            Column("precision", "string", "name", "of the run"),
            Column("is_clipped", "bool", "dimensionless", "whether there is a threshold"),
        ),
    )

    def __init__(self) -> None:
        super().__init__(LogSpaced(num_points=0, at_solved=False))

    def check(self, network: Network, task: Task) -> None:
        if network.cells()[0].hidden_size > 6 or task.seq_len != 8:
            raise ValueError("`hidden_size` must be at most 6")

    def read(self, program: Program) -> pd.DataFrame:
        network = copy.deepcopy(program.network)
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 1e3)
        program.build_training(network).clip()
        norm = torch.stack([parameter.grad.norm() for parameter in network.parameters()]).norm()  # type: ignore[union-attr]
        shown = {"batch_size": program.batch_size, "precision": program.precision}
        return pd.DataFrame([{**shown, "is_clipped": abs(float(norm) - 1.0) < 1e-3}])


def test_a_measurement_refuses_a_network_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="measurement: `hidden_size` must be at most 6"):
        run(tmp_path, OWN % "Particular", "hidden_size=7")
    assert list(tmp_path.iterdir()) == []


def test_a_cost_measurement_sees_the_training_that_is_configured(tmp_path: Path) -> None:
    folder = run(tmp_path, OWN % "Particular", "clip_norm=1.0", "num_seeds=1")
    rows = all_tables(folder, 0)["own"]
    assert list(zip(rows["step"], rows["phase"], strict=True)) == [(0, "init"), (20, "last")]
    assert rows[["batch_size", "precision", "is_clipped"]].to_numpy().tolist() == [[4, "32-true", True]] * 2


def test_the_time_that_measuring_took_is_said_and_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    launch = read_json(run(tmp_path, "num_seeds=1") / "seed-0" / "member.json")["launches"][-1]
    assert set(launch["measuring_s"]) == {"input_gradients", "state_gradients", "gates"}
    assert 0 < sum(launch["measuring_s"].values()) < launch["wall_s"]
    said = next(record.getMessage() for record in caplog.records if "measuring took" in record.getMessage())
    assert "input_gradients" in said
