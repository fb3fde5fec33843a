"""What every spectrum must do, whatever its matrices are: count what is broken, change nothing, refuse nonsense."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import pytest

from gradhorizon.measurements.autonomous_spectrum import AutonomousSpectrum
from gradhorizon.measurements.hidden_block_spectrum import HiddenBlockSpectrum
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from tests.measurements.networks import random_probe
from tests.measurements.spectra import (
    check_any_mode_gives_the_same_bits,
    check_measuring_changes_nothing,
    check_nan_parameters_are_counted,
)
from tests.synthetic_cells import PerStepLayer

SPECTRA: dict[type, Callable[..., Any]] = {
    AutonomousSpectrum: partial(AutonomousSpectrum, num_steps=60, transient_steps=10),
    HiddenBlockSpectrum: HiddenBlockSpectrum,
    LyapunovSpectrum: LyapunovSpectrum,
}
READINGS = [(kind, count) for kind in SPECTRA for count in (None, 2)]


def reading(kind: type, num_exponents: int | None = None) -> Callable[[Probe], pd.DataFrame]:
    return SPECTRA[kind](LogSpaced(), num_exponents).read


@pytest.mark.parametrize(("kind", "num_exponents"), READINGS)
def test_nan_parameters_are_counted_not_raised(kind: type, num_exponents: int | None) -> None:
    num_samples = 2 if kind is AutonomousSpectrum else 4
    check_nan_parameters_are_counted(reading(kind, num_exponents), num_samples)


@pytest.mark.parametrize(("kind", "num_exponents"), READINGS)
def test_measuring_changes_nothing_and_repeats_to_the_bit(kind: type, num_exponents: int | None) -> None:
    check_measuring_changes_nothing(reading(kind, num_exponents))


@pytest.mark.parametrize(("kind", "num_exponents"), READINGS)
def test_any_mode_gives_the_same_bits(kind: type, num_exponents: int | None) -> None:
    check_any_mode_gives_the_same_bits(reading(kind, num_exponents))


@pytest.mark.parametrize("kind", SPECTRA)
def test_network_without_recurrence_gives_no_rows(kind: Any) -> None:
    rows = reading(kind)(random_probe(Network(partial(PerStepLayer, hidden_size=3), 2, 2)))
    assert rows.empty
    assert list(rows.columns) == [column.name for column in kind.table.columns]


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize(
    ("option", "value"),
    [("num_exponents", 0), ("num_samples", 0), ("transient_steps", -1), ("qr_every_steps", 0)],
)
def test_options_out_of_range_are_refused(kind: type, option: str, value: int) -> None:
    option = "num_trajectories" if (kind, option) == (AutonomousSpectrum, "num_samples") else option
    with pytest.raises(ValueError, match=rf"`{option}` must be at least {value + 1}, got {value}"):
        kind(LogSpaced(), **{option: value})
