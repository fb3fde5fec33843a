"""The mirror's contract, and the mirror that is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gradhorizon.mirrors import Mirror, NoMirror, RunInfo


def run_info(folder: Path, **changes: Any) -> RunInfo:
    values: dict[str, Any] = {
        "name": "lstm-abc",
        "experiment": "study",
        "model": "lstm",
        "task": "adding",
        "seq_len": 100,
        "seeds": (0, 1, 2),
        "config": {},
        "folder": folder,
        "resume_id": "abc-0-1-2",
    }
    return RunInfo(**{**values, **changes})


class Witness(Mirror):
    """Remembers how it was closed."""

    def __init__(self) -> None:
        self.closed: list[tuple[str, Mapping[str, Any]]] = []

    def open(self, run: RunInfo) -> None:
        self.run = run

    def log_scalars(self, step: int, scalars: Mapping[str, Mapping[int, float]]) -> None:
        pass

    def log_table(self, table: str, frame: pd.DataFrame) -> None:
        pass

    def close(self, status: str, summary: Mapping[str, Any]) -> None:
        self.closed.append((status, dict(summary)))


def test_no_mirror_writes_nothing(tmp_path: Path) -> None:
    mirror = NoMirror()
    with mirror.opened(run_info(tmp_path)):
        mirror.log_scalars(0, {"train/loss": {0: 1.0}})
        mirror.log_table("gates", pd.DataFrame())
    assert list(tmp_path.iterdir()) == []


def test_opened_mirror_is_closed_as_finished_with_the_summary(tmp_path: Path) -> None:
    mirror = Witness()
    with mirror.opened(run_info(tmp_path)) as summary:
        summary["num_solved"] = 2
    assert mirror.closed == [("finished", {"num_solved": 2})]


def test_opened_mirror_is_closed_as_failed_by_an_exception(tmp_path: Path) -> None:
    mirror = Witness()
    with pytest.raises(RuntimeError, match="loss"), mirror.opened(run_info(tmp_path)):
        raise RuntimeError("loss is lost")
    assert mirror.closed == [("failed", {})]
