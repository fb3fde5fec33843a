"""Every file of conf/measurement names a quantity, and every quantity has an oracle that notices a wrong number."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from gradhorizon.machine.signatures import read_signature
from gradhorizon.measurements.measurement import Measurement, ProbeMeasurement, StepMeasurement
from tests.shipped import shipped

FOLDER = Path(__file__).parents[2] / "conf" / "measurement"
NAMES = shipped("measurement")


def measurement_class(name: str) -> type[Measurement]:
    return get_class(OmegaConf.load(FOLDER / f"{name}.yaml")._target_)


def oracles(name: str) -> list[Callable[[], None]]:
    module = importlib.import_module(f"tests.measurements.test_{name}")
    marks = {key: getattr(value, "pytestmark", []) for key, value in vars(module).items() if key.startswith("test_")}
    return [getattr(module, key) for key, found in marks.items() if any(mark.name == "oracle" for mark in found)]


@pytest.mark.parametrize("name", NAMES)
def test_first_line_gives_the_file_a_package_of_its_own(name: str) -> None:
    first_line = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first_line == f"# @package measurement.{name}"


@pytest.mark.parametrize("name", NAMES)
def test_configuration_builds_a_measurement_whose_schedule_fires(name: str) -> None:
    measurement = instantiate(OmegaConf.load(FOLDER / f"{name}.yaml"))
    assert isinstance(measurement, Measurement)
    measurement.schedule.check(num_steps=1)


@pytest.mark.parametrize("name", NAMES)
def test_table_bears_the_name_of_the_file(name: str) -> None:
    assert measurement_class(name).table.name == name


@pytest.mark.parametrize("name", NAMES)
def test_what_the_constructor_takes_is_read_from_the_source_also_where_it_is_inherited(name: str) -> None:
    found = read_signature(OmegaConf.load(FOLDER / f"{name}.yaml")._target_)
    assert found is not None
    assert list(found.annotations) == list(inspect.signature(measurement_class(name)).parameters)
    assert not found.takes_anything


@pytest.mark.parametrize("name", NAMES)
def test_every_column_says_its_unit_and_what_it_is(name: str) -> None:
    assert all(column.unit and column.description for column in measurement_class(name).table.columns)


@pytest.mark.parametrize("name", NAMES)
def test_quantity_has_an_oracle_test(name: str) -> None:
    assert oracles(name), f"mark a test of tests/measurements/test_{name}.py with pytest.mark.oracle(reason)"


COLUMNS = [(name, column.name) for name in NAMES for column in measurement_class(name).table.columns]


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_an_oracle_notices_a_wrong_column(name: str, column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measurement_class(name)
    truth = measured.read  # type: ignore[attr-defined]

    def read_falsely(self: ProbeMeasurement | StepMeasurement, source: Any) -> pd.DataFrame:
        return _falsified(truth(self, source), column)

    monkeypatch.setattr(measured, "read", read_falsely)
    assert any(_fails(oracle) for oracle in oracles(name))


def _falsified(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    values = rows[column]
    if values.dtype == object:
        return rows.assign(**{column: "_" + values})
    # A thousandth is what no rounding explains; zeros and NaN must be noticed as well.
    wrong = values + 1 if pd.api.types.is_integer_dtype(values) else np.where(values > 0, 1.001 * values, 1.0)
    return rows.assign(**{column: wrong})


def _fails(oracle: Callable[[], None]) -> bool:
    try:
        oracle()
    except (AssertionError, KeyError):
        return True
    return False
