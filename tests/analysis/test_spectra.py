"""What the studies of spectra share: exponents by setting, and their means over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradhorizon.analysis.drawing.spectra import exponents_at_init, over_seeds, size_look
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from gradhorizon.records.tables import RecordsError
from tests.analysis.spectrum_runs import write_spectra
from tests.records_on_disk import list_as_found

TABLE = LyapunovSpectrum.table


def _values(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"setting": 1, "value": values})


def test_exponents_are_those_of_initialisation_with_the_setting_of_their_run(tmp_path: Path) -> None:
    write_spectra(tmp_path, {TABLE: [[-1.0, -2.0]]}, {"model.cell.gain": 0.5})
    write_spectra(tmp_path, {TABLE: [[-3.0, -4.0]]}, {"model.cell.gain": 0.7})
    table = exponents_at_init(read_cohort([tmp_path]), "lyapunov_spectrum", {"gain": "model.cell.gain"})
    found = table.sort_values("value", ascending=False)[["gain", "rank", "value", "state_size"]]
    assert found.to_numpy().tolist() == [[0.5, 1, -1, 2], [0.5, 2, -2, 2], [0.7, 1, -3, 2], [0.7, 2, -4, 2]]


def test_run_without_the_setting_is_named(tmp_path: Path) -> None:
    folder = write_spectra(tmp_path, {TABLE: [[-1.0]]}, {"model.cell.gain": 0.5})
    with pytest.raises(RecordsError, match=rf"{folder.name}/config.yaml has no `model.cell.value`"):
        exponents_at_init(read_cohort([tmp_path]), "lyapunov_spectrum", {"bias": "model.cell.value"})


def test_several_layers_are_refused(tmp_path: Path) -> None:
    folder = write_spectra(tmp_path, {TABLE: [[-1.0, -2.0]]})
    path = folder / "seed-0" / "records" / "lyapunov_spectrum.parquet"
    rows = pd.read_parquet(path)
    pd.concat([rows, rows.assign(layer=1)]).to_parquet(path)
    list_as_found(folder / "seed-0")
    with pytest.raises(RecordsError, match="one layer and direction per member"):
        exponents_at_init(read_cohort([tmp_path]), "lyapunov_spectrum")


def test_interval_of_five_seeds_is_students() -> None:
    values = [1.0, 2.0, 4.0, 4.0, 9.0]
    row = over_seeds(_values(*values), ["setting"], "value").iloc[0]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (row["value"], row["num_seeds"]) == (4.0, 5)
    assert (row["value_low"], row["value_high"]) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert row["value_error"] == pytest.approx(stats.sem(values), rel=1e-12)


def test_four_seeds_have_their_range_and_no_standard_error() -> None:
    row = over_seeds(_values(1.0, 2.0, 3.0, 6.0), ["setting"], "value").iloc[0]
    assert (row["value_low"], row["value"], row["value_high"]) == (1.0, 3.0, 6.0)
    assert np.isnan(row["value_error"])


def test_missing_exponent_is_refused_and_its_group_named() -> None:
    with pytest.raises(RecordsError, match=r"`value` has no finite value at \{'setting': 1.*\}"):
        over_seeds(_values(1.0, np.nan), ["setting"], "value")


def test_no_two_of_four_sizes_look_alike() -> None:
    looks = size_look([800, 100, 400, 200])
    assert list(looks) == [100, 200, 400, 800]
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 4
