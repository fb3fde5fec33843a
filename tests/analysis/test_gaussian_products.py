"""The study of Gaussian products against spectra that were made to lie on, or off, the closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import psi

from experiments.gaussian_products.figure import main, summarise
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from tests.analysis.spectrum_runs import write_spectra

TABLE = LyapunovSpectrum.table
SCATTER = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])


def _newman(size: int) -> np.ndarray:
    return np.array([0.5 * (np.log(2 / size) + psi((size - i) / 2)) for i in range(size)])


def test_spectra_about_the_closed_form_differ_from_it_by_nothing(tmp_path: Path) -> None:
    for size in (2, 3):
        write_spectra(tmp_path, {TABLE: [_newman(size) + 1e-3 * shift for shift in SCATTER]})
    table = summarise(read_cohort([tmp_path]))
    assert table[["state_size", "rank"]].to_numpy().tolist() == [[2, 1], [2, 2], [3, 1], [3, 2], [3, 3]]
    np.testing.assert_allclose(table["expected"], [*_newman(2), *_newman(3)], rtol=1e-12)
    np.testing.assert_allclose(table["normalised"], 0, atol=1e-9)


def test_difference_is_in_standard_errors_of_the_mean(tmp_path: Path) -> None:
    write_spectra(tmp_path, {TABLE: [_newman(2) + 0.01 + 1e-3 * shift for shift in SCATTER]})
    table = summarise(read_cohort([tmp_path]))
    np.testing.assert_allclose(table["normalised"], 0.01 / (1e-3 * stats.sem(SCATTER)), rtol=1e-9)
    np.testing.assert_allclose(table["band"], stats.t.ppf(0.975, 4), rtol=1e-12)


@pytest.mark.slow
def test_program_draws_its_figure(tmp_path: Path) -> None:
    write_spectra(tmp_path, {TABLE: [_newman(2) + 1e-3 * shift for shift in SCATTER]})
    main([str(tmp_path), "--out", str(tmp_path / "figures")])
    assert (tmp_path / "figures" / "gaussian_products.png").is_file()
