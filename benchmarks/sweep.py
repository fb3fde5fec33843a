r"""Cost of a run of a sweep that has nothing to do, beside Hydra's own composition of it.

Both compose the same runs, which differ in one value: Hydra from the files each time, a sweep from what it has merged
for their group choices. *Skipped* is that and the look at what is on the disk of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any, cast

import pandas as pd
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from benchmarks.table import Result, as_table, run_alone
from benchmarks.timing import interleaved, ratio, threads
from gradhorizon.composition.composing import composing_once
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.sweeps.launch import look
from gradhorizon.sweeps.launcher.here import hydra_node_of

COMPOSED_TARGET, SKIPPED_TARGET = 0.1, 0.25
NUM_RUNS = 20


def measure(rounds: int = 7, num_threads: int = 1, num_runs: int = NUM_RUNS) -> pd.DataFrame:
    """Ratios to Hydra's own composition.

    Args:
        rounds: interleaved repetitions.
        num_threads: CPU threads.
        num_runs: runs of each repetition.
    """
    with threads(num_threads), TemporaryDirectory() as folder, initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        hydra = cast("Any", GlobalHydra.instance().hydra).config_loader
        once = composing_once(hydra)

        def each(loader: ConfigLoader, use: Callable[[DictConfig], object]) -> Callable[[], None]:
            def call() -> None:
                for number in range(num_runs):
                    overrides = [f"runs_dir={folder}", "model=gru", "device=cpu", f"seq_len={number + 20}"]
                    use(loader.load_configuration("train", overrides, RunMode.RUN))

            return call

        seconds = interleaved(
            {"hydra": each(hydra, id), "once": each(once, id), "skipped": each(once, _looked_at)}, rounds
        )
    setting, of = f"{num_runs} runs", "composed by Hydra"
    return as_table([
        Result(f"a sweep's run composed once / {of}", setting, ratio(seconds, "once", "hydra"), COMPOSED_TARGET),
        Result(f"a sweep's run skipped / {of}", setting, ratio(seconds, "skipped", "hydra"), SKIPPED_TARGET),
    ])  # fmt: skip


def _looked_at(cfg: DictConfig) -> None:
    with hydra_node_of(cfg):
        look(cfg).say_notes()


if __name__ == "__main__":
    run_alone(measure, __doc__)
