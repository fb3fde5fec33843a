"""A run from its configuration to its records: members, resuming, outcomes, refusals."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from gradhorizon.config import ConfigError
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.reading import read_runs
from gradhorizon.records.seals import Entry
from gradhorizon.records.writing import MemberRecords
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.terminal.reasons import RunFailedError
from gradhorizon.training import recorder
from gradhorizon.training.ensemble import Ensemble, Member
from gradhorizon.training.module import EnsembleModule
from tests.noisy_readout import NoisyReadout, is_noisy
from tests.runs_on_disk import all_tables, assert_same_records, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("finished"))


def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of a run that a test may spoil; its runs_dir is ``tmp_path``."""
    copy = tmp_path / folder.parent.name / folder.name
    shutil.copytree(folder, copy)
    return copy


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_run_records_every_measurement_of_every_member(finished: Path) -> None:
    runs = read_runs([finished.parent])
    assert sorted(runs.members["seed"]) == [0, 1]
    assert set(runs.members["status"]) == {"finished"}
    for name in ("metrics", "input_gradients", "state_gradients", "parameter_gradients"):
        table = runs.table(name)
        assert set(table["seed"]) == {0, 1}
        assert {"init", "last"} <= set(table["phase"])


def test_probes_fire_at_first_log_spaced_and_last_steps(finished: Path) -> None:
    steps = all_tables(finished, 0)["input_gradients"].groupby("phase")["step"].unique()
    assert list(steps["init"]) == [0]
    assert list(steps["last"]) == [20]
    assert set(steps["train"]) <= set(range(1, 20))


def test_validation_covers_the_first_and_the_last_step(finished: Path) -> None:
    metrics = all_tables(finished, 0)["metrics"]
    assert sorted(set(metrics.loc[metrics["split"] == "validation", "step"])) == [0, 5, 10, 15, 20]


def test_a_member_of_an_ensemble_gives_the_numbers_of_a_run_of_one(finished: Path, tmp_path: Path) -> None:
    alone = run(tmp_path, "seed=1", "num_seeds=1")
    assert_same_records(finished, alone, seed=1)


def test_a_second_launch_skips_what_is_finished_and_touches_nothing(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(finished, tmp_path)
    before = stamps(folder)
    caplog.set_level(logging.INFO)
    assert run(tmp_path) == folder
    assert "finished, skipped: seeds 0, 1" in caplog.text
    assert stamps(folder) == before


def test_more_seeds_train_only_the_missing_members(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    before = stamps(folder / "seed-0") | stamps(folder / "seed-1")
    run(tmp_path, "num_seeds=3")
    assert stamps(folder / "seed-0") | stamps(folder / "seed-1") == before
    alone = run(tmp_path / "alone", "seed=2", "num_seeds=1")
    assert_same_records(alone, folder, seed=2)
    assert set(read_json(folder / "run.json")["outcomes"]) == {"0", "1", "2"}


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int, *overrides: str) -> Path:
    """A run that broke in the middle of optimizer step `at_step`, with commits at every validation."""
    original = EnsembleModule.training_step

    def breaking(self: EnsembleModule, batch: object, batch_idx: int) -> None:
        if self.first_step + batch_idx == at_step:
            raise OSError("the power went out")
        original(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(EnsembleModule, "training_step", breaking)
    with pytest.raises(RunFailedError, match="the power went out"):
        run(tmp_path, "trainer.checkpoint_every_s=0", *overrides)
    monkeypatch.undo()
    return next(path for path in (tmp_path / "default").iterdir() if path.is_dir())


@pytest.mark.parametrize("at_step", [3, 7, 18])
def test_an_interrupted_run_continues_to_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int
) -> None:
    broken = interrupted(tmp_path, monkeypatch, at_step)
    assert read_json(broken / "run.json")["status"] == "failed"
    assert "the power went out" in (broken / "log.txt").read_text()
    assert run(tmp_path, "trainer.checkpoint_every_s=0") == broken
    for seed in (0, 1):
        assert_same_records(finished, broken, seed)
    assert read_json(broken / "run.json")["status"] == "finished"


def test_an_interrupted_run_with_momentum_and_clipping_continues_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("optimizer=sgd", "optimizer.momentum=0.9", "clip_norm=0.5", "model=lstm")
    whole = run(tmp_path / "whole", *options)
    broken = interrupted(tmp_path / "broken", monkeypatch, 13, *options)
    run(tmp_path / "broken", *options)
    assert_same_records(whole, broken, seed=0)


@pytest.mark.parametrize("option", ["precision=64-true", "model.readout._target_=tests.noisy_readout.NoisyReadout"])
def test_float64_weights_and_noise_survive_an_interruption_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    whole = run(tmp_path / "whole", option)
    broken = interrupted(tmp_path / "broken", monkeypatch, 13, option)
    run(tmp_path / "broken", option)
    for seed in (0, 1):
        assert_same_records(whole, broken, seed)


def test_noise_of_a_member_does_not_depend_on_its_company(tmp_path: Path) -> None:
    option = "model.readout._target_=tests.noisy_readout.NoisyReadout"
    assert is_noisy(NoisyReadout(3, 2))
    together, alone = run(tmp_path / "together", option), run(tmp_path / "alone", option, "seed=1", "num_seeds=1")
    assert_same_records(together, alone, seed=1)


def test_a_crash_between_records_and_their_checkpoint_neither_loses_nor_doubles_a_row(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, saved = recorder.save_atomically, []

    def crash_at_the_second_commit(content: dict[str, Any], path: Path) -> Entry:
        saved.append(path.name)
        if saved.count("checkpoint.pt") == 3:
            raise OSError("the power went out")
        return original(content, path)

    monkeypatch.setattr(recorder, "save_atomically", crash_at_the_second_commit)
    with pytest.raises(RunFailedError, match="the power went out"):
        run(tmp_path, "trainer.checkpoint_every_s=0")
    monkeypatch.undo()
    folder = run(tmp_path, "trainer.checkpoint_every_s=0")
    for seed in (0, 1):
        assert_same_records(finished, folder, seed)
    assert list(folder.rglob("*.aside"))


def test_parts_written_after_the_last_checkpoint_are_set_aside_and_not_counted_twice(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = interrupted(tmp_path, monkeypatch, 13)
    parts = broken / "seed-0" / "records" / "metrics"
    shutil.copy(next(parts.glob("*-00000010.parquet")), parts / "00000010-00000015.parquet")
    run(tmp_path)
    assert_same_records(finished, broken, seed=0)
    assert [path.name for path in parts.iterdir()] == ["00000010-00000015.parquet.aside"]


def test_members_at_different_checkpoints_each_continue_from_their_own(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = interrupted(tmp_path, monkeypatch, 13)
    shutil.rmtree(broken / "seed-1")
    run(tmp_path)
    for seed in (0, 1):
        assert_same_records(finished, broken, seed)


def test_a_solved_member_is_frozen_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = run(tmp_path / "baseline")
    losses = {
        seed: all_tables(baseline, seed)["metrics"].query("split == 'validation' and metric == 'loss' and step == 10")
        for seed in (0, 1)
    }
    values = {seed: float(table["value"].iloc[0]) for seed, table in losses.items()}
    first, second = sorted(values, key=lambda seed: values[seed])
    monkeypatch.setattr(
        AddingArjovsky2016, "is_solved", lambda _, metrics: abs(metrics["loss"] - values[first]) < 1e-12
    )
    folder = run(tmp_path / "solved")
    members = read_runs([folder]).members.set_index("seed")
    assert (members.loc[first, "outcome"], members.loc[first, "outcome_step"]) == ("solved", 10)
    assert members.loc[second, "outcome"] == "budget exhausted"
    frozen = all_tables(folder, first)["input_gradients"]
    assert frozen["step"].max() == 10
    assert set(frozen.loc[frozen["step"] == 10, "phase"]) >= {"solved"}
    assert_same_records(baseline, folder, second)
    assert (folder / f"seed-{first}" / "checkpoints" / "solved.pt").is_file()


def test_a_solved_member_goes_on_when_it_is_not_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AddingArjovsky2016, "is_solved", lambda *_: True)
    folder = run(tmp_path, "stop_when_solved=false", "num_seeds=1")
    member = read_runs([folder]).members.iloc[0]
    assert (member["outcome"], member["outcome_step"]) == ("solved", 0)
    table = all_tables(folder, 0)["input_gradients"]
    assert set(table["phase"]) == {"init", "train", "solved", "last"}


def test_a_diverged_member_is_an_outcome_and_harms_no_other(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Ensemble.training_loss

    def poisoned(self: Ensemble, member: Member, *rest: object) -> torch.Tensor:
        loss = original(self, member, *rest)  # type: ignore[arg-type]
        poisoned.calls += member.seed == 0  # type: ignore[attr-defined]
        return loss * float("inf") if member.seed == 0 and poisoned.calls == 8 else loss  # type: ignore[attr-defined]

    poisoned.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(Ensemble, "training_loss", poisoned)
    folder = run(tmp_path)
    members = read_runs([folder]).members.set_index("seed")
    assert (members.loc[0, "outcome"], members.loc[0, "outcome_step"]) == ("diverged", 7)
    assert members.loc[0, "status"] == "finished"
    assert "diverged" in set(all_tables(folder, 0)["input_gradients"]["phase"])
    assert_same_records(finished, folder, seed=1)


def test_a_network_of_nan_parameters_is_measured_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ensemble.training_loss

    def spoiling(self: Ensemble, member: Member, *rest: object) -> torch.Tensor:
        with torch.no_grad():
            next(iter(member.network.cells()[0].parameters())).fill_(float("nan"))
        return original(self, member, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Ensemble, "training_loss", spoiling)
    folder = run(tmp_path, "num_seeds=1")
    member = read_runs([folder]).members.iloc[0]
    assert (member["outcome"], member["outcome_step"]) == ("diverged", 0)


def test_solving_stops_the_run_before_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AddingArjovsky2016, "is_solved", lambda *_: True)
    folder = run(tmp_path)
    assert all_tables(folder, 0)["metrics"]["step"].max() == 0


def test_kept_checkpoints_load_without_pickled_code(finished: Path) -> None:
    names = sorted(path.name for path in (finished / "seed-0" / "checkpoints").iterdir())
    assert names == ["init.pt", "last.pt"]
    for name in names:
        content = torch.load(finished / "seed-0" / "checkpoints" / name, weights_only=True)
        assert content["step"] == {"init.pt": 0, "last.pt": 20}[name]


def test_checkpoints_are_kept_at_every_probe_if_asked(tmp_path: Path) -> None:
    folder = run(tmp_path, "trainer.keep_probe_checkpoints=true", "num_seeds=1")
    kept = {path.stem for path in (folder / "seed-0" / "checkpoints").iterdir()}
    probed = set(all_tables(folder, 0)["input_gradients"].query("phase == 'train'")["step"])
    assert kept == {"init", "last", *(f"step-{step:08d}" for step in probed)}


def test_a_truncated_records_file_is_named_by_the_reader(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path)
    path = folder / "seed-0" / "records" / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordsError, match=r"metrics.parquet has \d+ bytes, and \d+ were committed"):
        read_runs([folder]).table("metrics")


def test_a_measurement_that_was_not_recorded_is_listed_as_absent_and_not_rerun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run(tmp_path, "~measurement.gates")
    before = stamps(folder / "seed-0")
    caplog.set_level(logging.INFO)
    run(tmp_path, "model=rnn_tanh")
    assert stamps(folder / "seed-0") == before


def test_a_measurement_without_rows_is_not_called_absent(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied(finished, tmp_path)
    run(tmp_path)
    assert "is finished without" not in caplog.text


def test_a_finished_member_without_a_measurement_that_is_now_asked_for_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, "~measurement.state_gradients", "num_seeds=1")
    run(tmp_path, "num_seeds=1")
    assert "seed 0 is finished without state_gradients: `gradhorizon-measure " in caplog.text
    assert caplog.text.count("state_gradients") == 3


def test_finished_members_without_a_step_measurement_are_not_sent_to_measure_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, "~measurement.parameter_gradients")
    run(tmp_path)
    assert "seeds 0, 1 are finished without parameter_gradients: parameter_gradients is read while" in caplog.text
    assert "under another experiment_name with measurement=[…,parameter_gradients]" in caplog.text
    assert "gradhorizon-measure" not in caplog.text


def test_scheduler_on_the_path_is_no_reason_to_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n", encoding="utf-8")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    warnings.simplefilter("always")
    run(tmp_path / "runs", "num_seeds=1")
    assert [str(one.message) for one in recwarn if "srun" in str(one.message)] == []


def test_a_member_that_another_process_trains_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = run(tmp_path, "num_seeds=1")
    lock = folder / "seed-1" / ".lock"
    lock.parent.mkdir()
    with FileLock(lock), pytest.raises(ConfigError, match=r"seed 1 .* must be trained by one process at a time"):
        run(tmp_path, "num_seeds=2")
    assert not (folder / "seed-1" / "records").exists()
    run(tmp_path, "num_seeds=2")
    assert set(read_runs([folder]).members["status"]) == {"finished"}


def test_a_run_is_finished_when_all_members_that_ever_started_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = interrupted(tmp_path, monkeypatch, 13)
    run(tmp_path, "seed=2", "num_seeds=1")
    assert read_json(broken / "run.json")["status"] == "running"
    run(tmp_path)
    assert read_json(broken / "run.json")["status"] == "finished"


def test_a_member_that_ends_in_a_loss_that_is_no_number_has_diverged(tmp_path: Path) -> None:
    folder = run(tmp_path, "num_steps=1", "optimizer=sgd", "learning_rate=1e20", "num_seeds=1", "model=rnn_relu")
    member = read_runs([folder]).members.iloc[0]
    assert (member["outcome"], member["outcome_step"]) == ("diverged", 1)


def test_a_crash_between_the_last_checkpoint_and_the_finish_keeps_every_row(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = vars(recorder)["write_json"]

    def crash(content: dict[str, Any], path: Path) -> None:
        if content["status"] == "finished":
            raise OSError("the power went out")
        original(content, path)

    monkeypatch.setattr(recorder, "write_json", crash)
    with pytest.raises(RunFailedError, match="the power went out"):
        run(tmp_path)
    monkeypatch.undo()
    folder = run(tmp_path)
    for seed in (0, 1):
        assert_same_records(finished, folder, seed)


def test_a_member_is_called_finished_only_once_what_was_merged_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = MemberRecords.remove_superseded

    def remove(self: MemberRecords) -> None:
        seen.append((len(self.listing.superseded), read_json(self.member / "member.json")["status"]))
        original(self)

    monkeypatch.setattr(MemberRecords, "remove_superseded", remove)
    folder = run(tmp_path, "num_seeds=1", "trainer.checkpoint_every_s=0")
    assert max(count for count, _ in seen) > 0
    assert {status for _, status in seen} == {"running"}
    assert read_json(folder / "seed-0" / "member.json")["status"] == "finished"
    assert not [path for path in (folder / "seed-0" / "records").iterdir() if path.is_dir()]


def test_a_plan_trains_nothing_and_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(tmp_path, "plan=true")
    assert "plan: trains seeds 0, 1" in caplog.text
    assert "MiB" in caplog.text
    assert not list(tmp_path.rglob("*.json"))


def test_a_plan_of_a_finished_run_says_so(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(finished.parents[1], "plan=true")
    assert "nothing to train" in caplog.text


def test_a_commit_other_than_the_recorded_one_is_said(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(finished, tmp_path)
    path = folder / "seed-0" / "member.json"
    member = read_json(path)
    member["launch"]["commit"] = "0123456789ab"
    write_json(member, path)
    run(tmp_path)
    run(tmp_path)
    assert caplog.text.count("another commit (0123456789ab") == 1  # however many runs of a sweep it concerns


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seq_len=1"], "seq_len"),
        (["hidden_size=0"], "`hidden_size` must be at least 1, got 0"),
        (["clip_norm=-1"], "`clip_norm` must be positive, or null, got -1"),
        (["learning_rate=0"], "`learning_rate` must be positive"),
        (["seed=-1"], "`seed` must not be negative"),
        (["num_seeds=0"], "`num_seeds` must be at least 1"),
        (["device=cuda:99"], "is not on this machine"),
        (["device=tpu"], "`device` must be auto"),
        (["precision=8"], "`precision` must be one of"),
        (["experiment_name=../elsewhere"], "`experiment_name`"),
        (["model=external", "model.label=lstm", "model.cell._target_=a.B"], "belongs to gradhorizon.cells.lstm.LSTM"),
        (["model=external", "model.label=mine", "model.cell._target_=no_such_package.Cell"], "no_such_package"),
        (["model=external"], "`model.cell._target_` must be the import path of a cell or layer"),
        (["model=external", "model.cell._target_=hydra.utils.log"], "model"),
        (["model=external", "model.cell._target_=torch.nn.MultiheadAttention"], "must be given `embed_dim`"),
        (["model=external", "model.cell._target_=torch.nn.Bilinear", "+model.cell.in1_features=2"], "`in2_features`"),
        (["optimizer.lr=-1"], "Invalid learning rate"),
        (["+optimizer.beta=3"], "beta"),
        (["+task.colour=red"], "colour"),
        (["trainer.log_every_steps=0"], "log_every_steps"),
        (
            [
                "measurement.gates.schedule.num_points=0",
                *(f"+measurement.gates.schedule.{phase}=false" for phase in ("at_init", "at_solved", "at_last")),
            ],
            "never does",
        ),
    ],
)
def test_a_configuration_that_cannot_run_is_refused_before_training(
    tmp_path: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        run(tmp_path, *overrides)
    assert not list(tmp_path.rglob("seed-*"))


def test_a_runs_dir_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="must be a folder that can be written"):
        run(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_bidirectional_deep_network_runs_through_all_measurements(tmp_path: Path) -> None:
    folder = run(tmp_path, "model=bigru", "num_layers=2", "num_seeds=1", "num_steps=5")
    table = all_tables(folder, 0)["state_gradients"]
    assert set(table["layer"]) == {0, 1}
    assert set(table["direction"]) == {"forward", "backward"}


def test_recomputed_segments_give_the_same_losses(finished: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, "recompute_every=3")
    expected, found = all_tables(finished, 0)["metrics"], all_tables(folder, 0)["metrics"]
    torch.testing.assert_close(torch.tensor(found["value"]), torch.tensor(expected["value"]), rtol=1e-4, atol=0)


def test_float64_training_runs(tmp_path: Path) -> None:
    folder = run(tmp_path, "precision=64-true", "num_seeds=1")
    content = torch.load(folder / "seed-0" / "checkpoint.pt", weights_only=True)
    assert {value.dtype for value in content["member"]["network"].values()} == {torch.float64}


def test_bf16_training_runs(tmp_path: Path) -> None:
    folder = run(tmp_path, "precision=bf16-mixed", "num_seeds=1", "num_steps=5")
    assert read_runs([folder]).members["status"].tolist() == ["finished"]


def test_no_gradient_norm_is_shown_where_nothing_measures_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(tmp_path, "~measurement.parameter_gradients", "trainer.progress_every_s=1e-9")
    assert "solved 0/2" in caplog.text
    assert "gradient norm" not in caplog.text
