"""Small real runs for tests: composed by Hydra, trained in this process, compared table by table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.records.reading import read_member_table
from gradhorizon.sweeps.launch import launch

TINY = (
    "logger=none",
    "model=rnn_tanh",
    "task=adding_arjovsky2016",
    "seq_len=8",
    "hidden_size=5",
    "batch_size=4",
    "num_steps=20",
    "val_every_steps=5",
    "val_size=20",
    "probe_batch_size=3",
    "num_cuts=3",
    "num_seeds=2",
    "trainer.log_every_steps=5",
    "measurement.parameter_gradients.schedule.every_steps=5",
    "device=cpu",
)


def composed(*overrides: str) -> DictConfig:
    """The configuration of a tiny run with further overrides."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=[*TINY, *overrides])


def run(runs_dir: Path, *overrides: str) -> Path:
    """Train a tiny run; returns its folder."""
    return launch(composed(f"runs_dir={runs_dir}", *overrides)).folder


def all_tables(folder: Path, seed: int) -> dict[str, pd.DataFrame]:
    """Every table of one member, by name."""
    member = folder / f"seed-{seed}"
    names = sorted({path.name.removesuffix(".parquet") for path in (member / "records").iterdir()})
    tables = {name: read_member_table(member, name) for name in names}
    return {name: table for name, table in tables.items() if table is not None}


def assert_same_records(first: Path, second: Path, seed: int) -> None:
    """Fail unless every row and bit of one member's records is the same in both runs, names of folders aside."""
    expected, found = all_tables(first, seed), all_tables(second, seed)
    assert expected.keys() == found.keys()
    assert expected
    for name, table in expected.items():
        pd.testing.assert_frame_equal(
            table.drop(columns=["run", "experiment"]), found[name].drop(columns=["run", "experiment"]), check_exact=True
        )
