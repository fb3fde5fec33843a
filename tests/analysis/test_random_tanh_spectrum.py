"""The study of random tanh networks against spectra that were written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.random_tanh_spectrum.figure import mean_spectra, summarise
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.measurements.autonomous_spectrum import AutonomousSpectrum
from gradhorizon.records.tables import RecordsError
from tests.analysis.spectrum_runs import write_spectra

TABLE = AutonomousSpectrum.table
SHIFTS = (-0.2, -0.1, 0.0, 0.1, 0.2)


def _write(root: Path, gain: float, spectrum: list[float], **values: Any) -> None:
    of_seeds = [[value + shift for value in spectrum] for shift in SHIFTS]
    write_spectra(root, {TABLE: of_seeds}, {"model.cell.initialization.gain": gain}, **values)


def test_quantities_are_means_over_seeds_of_what_each_member_measured(tmp_path: Path) -> None:
    _write(tmp_path, 0.5, [-0.8, -1.0, -3.0, -7.2], kaplan_yorke_dimension_median=1.5)
    (row,) = summarise(read_cohort([tmp_path])).to_dict("records")
    assert (row["state_size"], row["gain"], row["num_seeds"], row["window_steps"]) == (4, 0.5, 5, 100)
    assert row["leading"] == pytest.approx(-0.8)
    assert row["departure"] == pytest.approx(-0.8 - np.log(0.5))
    assert row["mean"] == pytest.approx(-3.0)
    assert row["dimension_per_unit"] == pytest.approx(1.5 / 4)
    assert row["leading_high"] - row["leading"] == pytest.approx(2.7764451 * np.std(SHIFTS, ddof=1) / np.sqrt(5))


def test_below_the_onset_theory_is_that_of_the_matrix_alone(tmp_path: Path) -> None:
    # One unit: ln|w| of w from N(0, g²) has mean ln g + ½ (ln 2 + ψ(½)) = ln g − 0.6352.
    _write(tmp_path, 0.8, [-1.0])
    row = summarise(read_cohort([tmp_path])).iloc[0]
    assert row["expected_leading"] == pytest.approx(np.log(0.8), rel=1e-12)
    assert row["expected_mean"] == pytest.approx(np.log(0.8) - 0.63518142, rel=1e-7)


def test_each_size_and_gain_is_a_point(tmp_path: Path) -> None:
    _write(tmp_path, 0.5, [-1.0])
    _write(tmp_path, 1.5, [-1.0])
    _write(tmp_path, 1.5, [-1.0, -2.0])
    points = summarise(read_cohort([tmp_path]))[["state_size", "gain"]].to_numpy().tolist()
    assert points == [[1, 0.5], [1, 1.5], [2, 1.5]]


def test_part_of_a_spectrum_has_no_mean_and_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, 0.5, [-1.0, -2.0], state_size=3)
    with pytest.raises(RecordsError, match="5 members measured fewer"):
        summarise(read_cohort([tmp_path]))


def test_spectrum_with_an_unresolved_exponent_has_no_mean_and_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, 0.5, [-1.0, np.nan])
    with pytest.raises(RecordsError, match="`mean` has no finite value"):
        summarise(read_cohort([tmp_path]))


def test_whole_spectra_are_means_at_each_rank_of_the_gains_that_are_drawn(tmp_path: Path) -> None:
    _write(tmp_path, 1.5, [-1.0, -2.0])
    _write(tmp_path, 0.8, [-5.0, -6.0])
    table = mean_spectra(read_cohort([tmp_path]), gains=(1.5,))
    assert table[["gain", "rank", "fraction"]].to_numpy().tolist() == [[1.5, 1, 0.5], [1.5, 2, 1.0]]
    assert table["value"].tolist() == pytest.approx([-1.0, -2.0])
