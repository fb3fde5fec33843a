"""The study of the forget bias against exponents that were written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.forget_bias_spectrum.figure import main, summarise
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.measurements.hidden_block_spectrum import HiddenBlockSpectrum
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from tests.analysis.spectrum_runs import write_spectra

FULL, BLOCK = LyapunovSpectrum.table, HiddenBlockSpectrum.table
SHIFTS = (-0.02, -0.01, 0.0, 0.01, 0.02)


def _write(root: Path, bias: float, full: float, block: float) -> None:
    spectra = {
        table: [[leading + shift, leading - 1.0] for shift in SHIFTS]
        for table, leading in ((FULL, full), (BLOCK, block))
    }
    write_spectra(root, spectra, {"model.cell.initialization.value": bias})


def test_each_bias_has_the_leading_exponent_of_either_state(tmp_path: Path) -> None:
    _write(tmp_path, 0.0, -0.7, -1.9)
    _write(tmp_path, 2.0, -0.1, -1.8)
    table = summarise(read_cohort([tmp_path]))
    assert table[["table", "bias"]].to_numpy().tolist() == [
        ["lyapunov_spectrum", 0.0], ["lyapunov_spectrum", 2.0],
        ["hidden_block_spectrum", 0.0], ["hidden_block_spectrum", 2.0],
    ]  # fmt: skip
    assert table["leading"].tolist() == pytest.approx([-0.7, -0.1, -1.9, -1.8])
    assert table["num_seeds"].tolist() == [5] * 4


def test_theory_is_the_logarithm_of_the_gate(tmp_path: Path) -> None:
    _write(tmp_path, float(np.log(3.0)), -0.7, -1.9)
    assert summarise(read_cohort([tmp_path]))["expected"].tolist() == pytest.approx([np.log(0.75)] * 2, rel=1e-12)


@pytest.mark.slow
def test_program_draws_its_figure(tmp_path: Path) -> None:
    _write(tmp_path, 0.0, -0.7, -1.9)
    _write(tmp_path, 2.0, -0.1, -1.8)
    main([str(tmp_path), "--out", str(tmp_path / "figures")])
    assert (tmp_path / "figures" / "forget_bias_spectrum.png").is_file()
