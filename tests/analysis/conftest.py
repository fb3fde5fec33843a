"""A small sweep with known truth, read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from tests.synthetic_runs import SyntheticRun, config_of, exponential

HOSTILE = "<script>alert(1)</script>"

ODD: dict[str, Callable[[], SyntheticRun]] = {
    "one step": lambda: SyntheticRun(seq_len=1, input_len=1, outcomes=(None,)),
    "all zero": lambda: SyntheticRun(init=lambda lags: np.where(lags == 0, 1.0, 0.0), outcomes=(None, None)),
    "all nan": lambda: SyntheticRun(init=lambda lags: np.full(len(lags), np.nan), outcomes=(None,)),
    "overflow": lambda: SyntheticRun(trained=lambda lags: np.where(lags > 3, np.inf, 1.0), outcomes=(None,)),
    "all diverged": lambda: SyntheticRun(outcomes=("diverged", "diverged")),
    "mathematics in the label": lambda: SyntheticRun(model="_a$b$", outcomes=(None,)),
    "no clipping": lambda: SyntheticRun(clip_norm=None, outcomes=(300,)),
}
"""Runs at the edges: what they measured, written when called."""


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lstm at T = 50 and 100, with rates −0.6, −0.5, −0.4 at init and −0.01 at the end, and a hostile label."""
    root = tmp_path_factory.mktemp("runs")
    init = [exponential(-0.6), exponential(-0.5), exponential(-0.4)]
    for seq_len in (50, 100):
        config = config_of("lstm.LSTM", "initialization.uniform")
        SyntheticRun(seq_len=seq_len, input_len=seq_len + 20, init=init, config=config).write(root)
    SyntheticRun(model=HOSTILE, init=exponential(0.0), color=None, marker=None, outcomes=(None, "diverged", 200)).write(
        root
    )
    return root


@pytest.fixture(scope="session")
def cohort(sweep: Path) -> Cohort:
    return read_cohort([sweep])
