"""What is said of a table that a run lacks is true: what `gradhorizon-measure` takes, it takes, and nothing else."""

from __future__ import annotations

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from gradhorizon.config import ConfigError
from gradhorizon.late_measurement.command import composed
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.measurements.measurement import Measurement, StepMeasurement
from gradhorizon.records.absent_tables import can_be_added, remedy
from tests.shipped import shipped

NAMES = shipped("measurement")


@pytest.mark.parametrize("name", NAMES)
def test_way_out_is_one_that_the_command_takes(name: str) -> None:
    found = get_object(OmegaConf.select(OmegaConf.load(CONF_DIR / "measurement" / f"{name}.yaml"), "_target_"))
    assert issubclass(found, Measurement)
    assert found.table.name == name
    is_step = issubclass(found, StepMeasurement)
    assert can_be_added(name) is not is_step
    assert ("gradhorizon-measure" in remedy([name])) is not is_step
    if is_step:
        with pytest.raises(ConfigError, match="finished run takes none: train under another experiment_name"):
            composed([f"measurement={name}"])
    else:
        composed([f"measurement={name}"])


def test_tables_of_both_kinds_are_one_sentence() -> None:
    assert remedy(["parameter_gradients", "gates", "cost", "metrics"], runs="runs/a") == (
        "`gradhorizon-measure runs/a 'measurement=[cost,gates]'` adds cost and gates; metrics and parameter_gradients "
        "are read while a step is taken, and a finished run takes none: train under another experiment_name with "
        "measurement=[…,parameter_gradients]"
    )


def test_measurement_of_ones_own_is_known_by_its_class() -> None:
    target = {"_target_": "gradhorizon.measurements.parameter_gradients.ParameterGradients"}
    assert not can_be_added("mine", {"mine": target})
    assert can_be_added("mine", {"mine": {"_target_": "not_there.Mine"}})
