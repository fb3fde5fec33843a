"""Asked to stop, training commits between two optimizer steps, leaves, and later goes on to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradhorizon import stopping
from gradhorizon.records import read_json
from gradhorizon.training import EnsembleModule
from tests.runs_on_disk import assert_same_records, run

MOMENTUM = ("optimizer=sgd", "optimizer.momentum=0.9", "clip_norm=0.05")


def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, *overrides: str) -> Path:
    """A run that was asked to stop while it took optimizer step `at_step` (from 1); returns its folder."""
    asked: list[int] = []
    original = EnsembleModule.training_step

    def asking(self: EnsembleModule, batch: object, batch_idx: int) -> None:
        if self.first_step + batch_idx + 1 == at_step:
            asked.append(at_step)
        original(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(EnsembleModule, "training_step", asking)
    monkeypatch.setattr(stopping, "is_requested", lambda: bool(asked))
    with pytest.raises(stopping.Stopped) as caught:
        run(tmp_path, *overrides)
    assert caught.value.code == stopping.EXIT_CODE
    monkeypatch.undo()
    return next(path for path in (tmp_path / "default").iterdir() if path.is_dir())


@pytest.mark.parametrize(("at_step", "overrides"), [(7, ()), (10, MOMENTUM), (19, MOMENTUM)])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, overrides: tuple[str, ...]
) -> None:
    whole = run(tmp_path / "whole", *overrides)
    folder = stopped(tmp_path, monkeypatch, at_step, *overrides)
    assert run(tmp_path, *overrides) == folder
    for seed in (0, 1):
        assert_same_records(whole, folder, seed)
    final = [torch.load(path / "seed-1" / "checkpoint.pt", weights_only=True) for path in (whole, folder)]
    networks = [checkpoint["member"]["network"] for checkpoint in final]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_a_stopped_run_has_committed_every_step_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stopped(tmp_path, monkeypatch, 7)
    assert read_json(folder / "run.json")["status"] == "running"
    for seed in (0, 1):
        assert torch.load(folder / f"seed-{seed}" / "checkpoint.pt", weights_only=True)["step"] == 7
        assert {path.name for path in folder.glob(f"seed-{seed}/records/*/*")} == {"00000000-00000007.parquet"}


def test_a_run_stopped_at_its_last_step_has_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "is_requested", lambda: True)
    folder = run(tmp_path, "num_steps=1", "val_every_steps=1")
    assert read_json(folder / "run.json")["status"] == "finished"
