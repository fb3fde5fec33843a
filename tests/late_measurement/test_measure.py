"""Measuring finished runs: the numbers of a measurement that was on from the start, and nothing overwritten."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock

from gradhorizon.late_measurement.command import find_runs, main
from gradhorizon.machine import gpus
from gradhorizon.measurements.recurrent_weights import RecurrentWeights
from gradhorizon.records.files import read_json, write_json
from gradhorizon.runs.identity import RESULTS_VERSION
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.training.ensemble import Ensemble, Member
from tests.records_on_disk import rewrite_config, without_listing
from tests.runs_on_disk import all_tables, run

TABLES = ("lyapunov_spectrum", "state_jacobians", "temporal_contributions", "recurrent_weights", "gates")
CHOSEN = (
    f"measurement=[{','.join(TABLES)}]",
    "measurement.lyapunov_spectrum.num_exponents=3",
    "measurement.lyapunov_spectrum.num_samples=2",
    "measurement.state_jacobians.num_samples=2",
    "measurement.temporal_contributions.num_bins=3",
)
CHEAP = ("measurement=[recurrent_weights,gates]",)
SMALL = ("model=lstm", "hidden_size=3", "seq_len=5", "num_steps=10", "num_seeds=1", "val_size=5")


def trained(runs_dir: Path, chosen: tuple[str, ...], *overrides: str) -> Path:
    """A small run with the chosen measurements alone; those of the default that TINY speaks of are left out."""
    return run(runs_dir, *SMALL, *_without_defaults(chosen), *overrides)


def _without_defaults(chosen: tuple[str, ...]) -> tuple[str, ...]:
    # TINY sets the schedule of parameter_gradients, which must therefore be selected before it is removed.
    first = chosen[0].replace("measurement=[", "measurement=[parameter_gradients,")
    return (first, *chosen[1:], "~measurement.parameter_gradients")


def without_tables(folder: Path, tmp_path: Path) -> Path:
    """A copy of a run as if it had been trained without the tables."""
    copy = tmp_path / folder.parent.name / folder.name
    shutil.copytree(folder, copy)
    for table in TABLES:
        for path in copy.glob(f"seed-*/records/{table}.parquet"):
            path.unlink()
    return copy


def assert_same_tables(
    expected: Path, found: Path, names: tuple[str, ...] = TABLES, *, has_train_phase: bool = True
) -> None:
    """Fail unless every bit of the named tables is the same, lead columns included."""
    members = sorted(path.name for path in expected.glob("seed-*"))
    assert members
    for member in members:
        seed = int(member.removeprefix("seed-"))
        one, other = all_tables(expected, seed), all_tables(found, seed)
        assert set(names) <= one.keys()
        for name in names:
            table = one[name] if has_train_phase else one[name].query("phase != 'train'").reset_index(drop=True)
            pd.testing.assert_frame_equal(table, other[name], check_exact=True)


def phases(folder: Path, table: str = "lyapunov_spectrum") -> list[tuple[str, int]]:
    rows = all_tables(folder, 0)[table][["phase", "step"]].drop_duplicates()
    return list(rows.itertuples(index=False, name=None))


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def from_the_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    return trained(folder, CHOSEN, "trainer.keep_probe_checkpoints=true")


@pytest.fixture(scope="module")
def ends_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one cheap measurement, which kept the checkpoints of its ends alone."""
    return trained(tmp_path_factory.mktemp("ends"), ("measurement=[input_gradients]",), "num_seeds=2")


@pytest.fixture
def finished(ends_alone: Path, tmp_path: Path) -> Path:
    """A copy of `ends_alone` that a test may spoil."""
    copy = tmp_path / ends_alone.parent.name / ends_alone.name
    shutil.copytree(ends_alone, copy)
    return copy


def test_tables_measured_later_are_those_of_a_run_that_measured_from_the_start(
    from_the_start: Path, tmp_path: Path
) -> None:
    later = trained(tmp_path, ("measurement=[input_gradients]",), "trainer.keep_probe_checkpoints=true")
    assert main([str(tmp_path), *CHOSEN]) == 0
    assert {phase for phase, _ in phases(later)} == {"init", "train", "last"}
    assert_same_tables(from_the_start, later)


def test_without_kept_inner_steps_all_other_rows_are_the_same(
    from_the_start: Path, ends_alone: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert main([str(finished), *CHOSEN]) == 0
    assert phases(finished) == [("init", 0), ("last", 10)]
    assert_same_tables(from_the_start, finished, has_train_phase=False)
    # Twelve log-spaced points up to 10 round to the inner steps 1, 2, 3, 4, 5, 7 and 8, of two members.
    assert "no checkpoint at 14 of 14 inner steps of lyapunov_spectrum, temporal_contributions, " in caplog.text
    assert caplog.text.count("keep_probe_checkpoints=true keeps") == 1
    assert (finished / "config.yaml").read_bytes() == (ends_alone / "config.yaml").read_bytes()
    assert (finished / "run.json").read_bytes() == (ends_alone / "run.json").read_bytes()


def solved_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let validation number `number` and all later ones find the member solved."""
    validations = itertools.count(1)
    monkeypatch.setattr(AddingArjovsky2016, "is_solved", lambda *_: next(validations) >= number)


def diverging_after(monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    original, calls = Ensemble.training_loss, []

    def poisoned(self: Ensemble, member: Member, *rest: Any) -> torch.Tensor:
        calls.append(0)
        return original(self, member, *rest) * (float("inf") if len(calls) > num_steps else 1)

    monkeypatch.setattr(Ensemble, "training_loss", poisoned)


@pytest.mark.parametrize(
    ("fate", "does_stop", "ends"),
    [
        pytest.param("solved at step 0", True, [("init", 0), ("solved", 0)], marks=pytest.mark.slow),
        pytest.param("solved at step 0", False, [("init", 0), ("solved", 0), ("last", 10)], marks=pytest.mark.slow),
        ("solved", True, [("init", 0), ("solved", 5)]),
        ("solved", False, [("init", 0), ("solved", 5), ("last", 10)]),
        pytest.param("diverged", True, [("init", 0), ("diverged", 7)], marks=pytest.mark.slow),
        pytest.param("diverged", False, [("init", 0), ("diverged", 7)], marks=pytest.mark.slow),
        ("solved, then diverged", False, [("init", 0), ("solved", 5), ("diverged", 7)]),
    ],
)
def test_every_fate_gives_the_rows_of_its_own_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str, does_stop: bool, ends: list[tuple[str, int]]
) -> None:
    if fate.startswith("solved"):
        solved_at(monkeypatch, 1 if fate.endswith("0") else 2)
    if fate.endswith("diverged"):
        diverging_after(monkeypatch, 7)
    options = (f"stop_when_solved={str(does_stop).lower()}", "trainer.keep_probe_checkpoints=true")
    folder = trained(tmp_path / "start", CHEAP, *options)
    monkeypatch.undo()
    later = without_tables(folder, tmp_path / "later")
    assert main([str(later), *CHEAP]) == 0
    assert_same_tables(folder, later, ("recurrent_weights", "gates"))
    assert [moment for moment in phases(later, "gates") if moment[0] != "train"] == ends


def test_inner_steps_of_another_schedule_than_the_one_that_kept_them_are_told_apart(
    from_the_start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = without_tables(from_the_start, tmp_path)
    schedule = (
        "measurement.gates.schedule._target_=gradhorizon.measurements.schedule.Every",
        "~measurement.gates.schedule.num_points",
        "+measurement.gates.schedule.every_steps=3",
    )
    assert main([str(later), "measurement=gates", *schedule]) == 0
    assert phases(later, "gates") == [("init", 0), ("train", 3), ("last", 10)]
    assert "no checkpoint at 2 of 3 inner steps of gates" in caplog.text


@pytest.mark.slow
def test_float64_parameters_are_not_rounded(tmp_path: Path) -> None:
    folder = trained(tmp_path / "start", CHEAP, "precision=64-true")
    later = without_tables(folder, tmp_path / "later")
    assert main([str(later), *CHEAP]) == 0
    assert_same_tables(folder, later, ("recurrent_weights", "gates"), has_train_phase=False)


def test_an_external_cell_is_measured(tmp_path: Path) -> None:
    cell = ("model=external", "model.label=linear", "model.cell._target_=tests.synthetic_cells.LinearRecurrence")
    folder = trained(tmp_path, ("measurement=[input_gradients]",), *cell)
    chosen = ("measurement=lyapunov_spectrum", CHOSEN[1])
    assert main([str(folder), *chosen, "--trust", "tests.synthetic_cells"]) == 0
    assert set(all_tables(folder, 0)["lyapunov_spectrum"]["model"]) == {"linear"}
    assert read_json(folder / "seed-0" / "member.json")["measured_later"]["lyapunov_spectrum"]["cell_source"]


def test_a_recorded_table_is_never_overwritten(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = stamps(finished)
    assert main([str(finished), "measurement=input_gradients", "measurement.input_gradients.max_lags=2"]) == 0
    assert "already recorded, kept: input_gradients of seeds 0, 1" in caplog.text
    assert "note: input_gradients was recorded with max_lags 1024, now 2" in caplog.text
    assert "members: 0 measured, 2 already recorded" in caplog.text
    assert stamps(finished) == before


def test_settings_of_a_table_measured_later_are_compared_too(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chosen = [str(finished), "measurement=lyapunov_spectrum", "measurement.lyapunov_spectrum.num_samples=1"]
    assert main([*chosen, "measurement.lyapunov_spectrum.num_exponents=2"]) == 0
    assert main([*chosen, "measurement.lyapunov_spectrum.num_exponents=2"]) == 0
    assert "was recorded with" not in caplog.text
    assert main([*chosen, "measurement.lyapunov_spectrum.num_exponents=3"]) == 0
    assert "note: lyapunov_spectrum was recorded with num_exponents 2, now 3" in caplog.text


def test_a_second_launch_completes_what_the_first_left_and_touches_nothing_else(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([str(finished), "measurement=recurrent_weights"]) == 0
    (finished / "seed-1" / "records" / "recurrent_weights.parquet").unlink()
    before = stamps(finished / "seed-0")
    caplog.set_level(logging.INFO)
    assert main([str(finished), "measurement=recurrent_weights"]) == 0
    assert "already recorded, kept: recurrent_weights of seed 0" in caplog.text
    assert "members: 1 measured, 1 already recorded" in caplog.text
    assert stamps(finished / "seed-0") == before
    assert "recurrent_weights" in all_tables(finished, 1)


def test_an_interruption_leaves_no_half_a_table(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = RecurrentWeights.read, []

    def interrupted(self: RecurrentWeights, *rest: Any) -> pd.DataFrame:
        calls.append(0)
        if len(calls) == 4:  # the last checkpoint of the second member
            raise KeyboardInterrupt
        return original(self, *rest)

    monkeypatch.setattr(RecurrentWeights, "read", interrupted)
    assert main([str(finished), "measurement=recurrent_weights"]) == 130
    monkeypatch.undo()
    assert "recurrent_weights" in all_tables(finished, 0)
    assert "recurrent_weights" not in all_tables(finished, 1)
    assert main([str(finished), "measurement=recurrent_weights"]) == 0
    assert "recurrent_weights" in all_tables(finished, 1)


def test_where_the_numbers_come_from_is_kept_and_training_calls_nothing_absent(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([str(finished), "measurement=recurrent_weights"]) == 0
    member = read_json(finished / "seed-0" / "member.json")
    facts = member["measured_later"]["recurrent_weights"]
    assert facts["device"] == "cpu"
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["checkpoints"] == [["init", 0], ["last", 10]]
    assert facts["num_rows"] == len(all_tables(finished, 0)["recurrent_weights"])
    assert facts["settings"]["_target_"].endswith("RecurrentWeights")
    assert member["launch"]["measurements"] == ["input_gradients", "recurrent_weights"]
    caplog.clear()
    asked = trained(finished.parents[1], ("measurement=[input_gradients,recurrent_weights]",), "num_seeds=2")
    assert asked == finished
    assert "is finished without" not in caplog.text


def test_a_quantity_without_rows_is_not_measured_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = trained(tmp_path, ("measurement=[input_gradients]",), "model=rnn_tanh")  # has no gates
    caplog.set_level(logging.INFO)
    assert main([str(folder), "measurement=gates"]) == 0
    assert "seed 0: gates (0 rows)" in caplog.text
    assert main([str(folder), "measurement=gates"]) == 0
    assert "already recorded, kept: gates of seed 0" in caplog.text


def test_a_cost_is_measured_now_and_said_to_be(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(finished), "measurement=cost"]) == 0
    assert "cost is that of this machine, now" in caplog.text
    assert len(all_tables(finished, 0)["cost"])


def test_an_unfinished_member_is_skipped_and_said(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(finished / "seed-1" / "member.json", status="running")
    caplog.set_level(logging.INFO)
    assert main([str(finished), "measurement=recurrent_weights"]) == 0
    assert "unfinished, skipped: seed 1" in caplog.text
    assert "recurrent_weights" not in all_tables(finished, 1)


def edit(path: Path, **changes: Any) -> None:
    write_json({**read_json(path), **changes}, path)


def unlisted(spoil: Callable[[Path], object]) -> Callable[[Path], None]:
    """`spoil`, on a member that was recorded before its files were listed."""

    def spoil_and_forget(path: Path) -> None:
        spoil(path)
        without_listing(path.parents[1])

    return spoil_and_forget


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "init.pt has 100 bytes, and "),
        (lambda path: path.unlink(), "init.pt is missing"),
        (lambda path: shutil.copy(path.with_name("last.pt"), path), "init.pt is not what was committed"),
        (unlisted(lambda path: path.write_bytes(path.read_bytes()[:100])), "init.pt cannot be read"),
        (
            unlisted(lambda path: shutil.copy(path.with_name("last.pt"), path)),
            r"must hold \(0, 'init'\), got \(10, 'last'\)",
        ),
        (
            unlisted(lambda path: torch.save({"network": {}, "step": 0, "phase": "init"}, path)),
            "does not fit the network",
        ),
        (unlisted(lambda path: torch.save([1], path)), "holds list, expected a dictionary"),
    ],
)
def test_a_bad_checkpoint_is_named_and_the_other_members_are_measured(
    finished: Path, caplog: pytest.LogCaptureFixture, spoil: Any, words: str
) -> None:
    spoil(finished / "seed-0" / "checkpoints" / "init.pt")
    before = (finished / "seed-0" / "member.json").read_bytes()
    caplog.set_level(logging.INFO)
    assert main([str(finished), "measurement=recurrent_weights"]) == 1
    messages = "\n".join(record.getMessage() for record in caplog.records)
    assert pd.Series([messages]).str.contains(words).all(), messages
    assert "members: 1 measured, 1 failed" in messages
    assert "recurrent_weights" not in all_tables(finished, 0)
    assert "recurrent_weights" in all_tables(finished, 1)
    assert (finished / "seed-0" / "member.json").read_bytes() == before


def test_a_measurement_that_breaks_on_one_member_leaves_its_traceback_in_the_log(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("somewhere inside")

    monkeypatch.setattr(RecurrentWeights, "read", broken)
    assert main([str(finished), "measurement=recurrent_weights"]) == 1
    assert "seed 1: Error: ZeroDivisionError: somewhere inside; its traceback is in" in caplog.text
    assert "in broken" in (finished / "log.txt").read_text()


def test_a_member_that_another_process_is_at_is_left_alone(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FileLock(finished / "seed-0" / ".lock"):
        assert main([str(finished), "measurement=recurrent_weights"]) == 1
    assert "must be measured by one process at a time" in caplog.text
    assert "recurrent_weights" not in all_tables(finished, 0)
    assert "recurrent_weights" in all_tables(finished, 1)


def test_results_of_another_version_are_refused_and_other_runs_go_on(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = finished.with_name(f"a-{finished.name}")
    shutil.copytree(finished, other)
    edit(other / "run.json", results_version=RESULTS_VERSION + 1)
    caplog.set_level(logging.INFO)
    assert main([str(finished.parent), "measurement=recurrent_weights"]) == 1
    assert f"`results_version` must be {RESULTS_VERSION}" in caplog.text
    assert "members: 2 measured; runs refused: 1" in caplog.text
    assert "recurrent_weights" not in all_tables(other, 0)


def test_a_commit_other_than_that_of_the_training_is_said(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    launch = read_json(finished / "seed-0" / "member.json")["launch"]
    edit(finished / "seed-0" / "member.json", launch={**launch, "commit": "0123456789ab"})
    assert main([str(finished), "measurement=recurrent_weights"]) == 0
    assert "note: trained with commit 0123456789ab, now" in caplog.text


def test_an_absent_device_is_refused_unless_another_is_named(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 0)
    for member in ("seed-0", "seed-1"):
        path = finished / member / "member.json"
        edit(path, launch={**read_json(path)["launch"], "device": "cuda:1"})
    assert main([str(finished), "measurement=recurrent_weights"]) == 1
    assert "was trained on it, and --device cpu measures it here" in caplog.text
    assert main(["--device", "cpu", str(finished), "measurement=recurrent_weights"]) == 0
    assert "trained with device cuda:1, now cpu" in caplog.text


def test_a_schedule_whose_steps_were_not_kept_is_refused(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    never = [f"+measurement.recurrent_weights.schedule.at_{phase}=false" for phase in ("init", "solved", "last")]
    assert main([str(finished), "measurement=recurrent_weights", *never]) == 1
    assert "recurrent_weights is scheduled at inner steps alone, and none of their checkpoints" in caplog.text
    assert "recurrent_weights" not in all_tables(finished, 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "Name what to measure, such as measurement=lyapunov_spectrum. There are: "),
        (["measurement=parameter_gradients"], "read while a step is taken, and a finished run takes none"),
        (["measurement=no_such_quantity"], "`measurement`=no_such_quantity is not there; the nearest is"),
        (["measurement.gates.schedule.num_points=3"], "Name what to measure"),
        (["measurement=gates", "measurement.gates.color=3"], "`measurement.gates.color` is no argument of"),
        (["measurement=gates", "+measurement.gates.color=3"], "`measurement.gates.color` is no argument of"),
        (["measurement=[gates"], "no viable alternative"),
        (["measurement=gates", "seq_len=3"], "(what trained is fixed), got seq_len=3"),
        (["measurement=[]", "+measurement.mine._target_=no_such_package.Mine"], "measurement mine: "),
        (
            [
                "measurement=gates",
                "+measurement.two._target_=gradhorizon.measurements.gates.Gates",
                "+measurement.two.schedule=${measurement.gates.schedule}",
            ],
            "each table can be measured once at a time, got gates, two",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    finished: Path, caplog: pytest.LogCaptureFixture, overrides: list[str], words: str
) -> None:
    before = stamps(finished)
    assert main([str(finished), *overrides]) == 1
    assert f"Error: {words}" in caplog.text.replace("measurement: Error in call", "") or words in caplog.text
    assert stamps(finished) == before


def test_a_folder_without_runs_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path), "measurement=gates"]) == 1
    assert "no run found at or below" in caplog.text


def test_every_run_is_found_once_however_often_it_is_named(ends_alone: Path) -> None:
    assert find_runs([str(ends_alone), str(ends_alone.parent), str(ends_alone.parents[1])]).runs == [ends_alone]


def test_configuration_files_of_ones_own_are_found_on_the_search_path(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "own" / "measurement" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "# @package measurement.mine\n_target_: gradhorizon.measurements.recurrent_weights.RecurrentWeights\n"
        "schedule: {_target_: gradhorizon.measurements.schedule.LogSpaced, num_points: 0}\n"
    )
    search = f"hydra.searchpath=[file://{tmp_path / 'own'}]"
    assert main([str(finished), "measurement=mine", search]) == 0
    assert phases(finished, "recurrent_weights") == [("init", 0), ("last", 10)]


def test_settings_may_refer_to_what_the_run_was_trained_with(finished: Path) -> None:
    assert main([str(finished), "measurement=gates", "measurement.gates.schedule.num_points=${num_layers}"]) == 0
    settings = read_json(finished / "seed-0" / "member.json")["measured_later"]["gates"]["settings"]
    assert settings["schedule"]["num_points"] == 1


def test_help_shows_two_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert shown.count("gradhorizon-measure runs") == 2
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("content", ["no_such_key: 1\n", "- 1\n", "a: [\n"])
def test_an_unreadable_configuration_is_named(finished: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    rewrite_config(finished, content)
    assert main([str(finished), "measurement=gates"]) == 1
    assert "config.yaml cannot be read as a run's configuration" in caplog.text
