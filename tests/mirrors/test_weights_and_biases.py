"""The W&B mirror: every value is read back from the offline file by an independent reader."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import wandb

from gradhorizon.mirrors.mirror import RunInfo
from gradhorizon.mirrors.weights_and_biases import LoginError, WandbMirror, run_config
from tests.mirrors.conftest import warnings_in
from tests.mirrors.offline_reader import OfflineRun, read_offline_run
from tests.mirrors.rows import input_gradient_rows, parameter_gradient_rows
from tests.mirrors.test_mirror import run_info

pytestmark = pytest.mark.usefixtures("no_account")

PROFILE = "profile/log10_relative_input_gradient"
SCALARS = {"train/loss": {0: 2.0, 1: 4.0, 2: 3.0}, "train/accuracy": {0: 0.5, 1: 0.25, 2: 0.75}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "lstm T=4 é"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def info(folder: Path) -> RunInfo:
    return run_info(folder)


def offline_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def read_back(folder: Path) -> OfflineRun:
    """The folder's only run, once wandb's own process has written its end, a few milliseconds after `finish`."""
    (file,) = offline_files(folder)
    deadline = time.monotonic() + 60.0
    while (run := read_offline_run(file)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return run


def fail_in_training(mirror: WandbMirror, info: RunInfo) -> None:
    with mirror.opened(info):
        mirror.log_scalars(3, SCALARS)
        raise ZeroDivisionError


def log_probes(mirror: WandbMirror) -> None:
    """Three members; the first is solved, and frozen, at step 5."""
    for seed, norm in enumerate([1e-2, 1e-4, 0.0]):
        mirror.log_table("input_gradients", input_gradient_rows(seed, 0, "init", [1.0, norm]))
    mirror.log_table("input_gradients", input_gradient_rows(0, 5, "solved", [1.0, 1e-1]))
    for seed in (1, 2):
        mirror.log_table("input_gradients", input_gradient_rows(seed, 9, "last", [1.0, 1e-3]))


def test_every_scalar_is_written_against_its_step(info: RunInfo) -> None:
    mirror = WandbMirror()
    with mirror.opened(info):
        mirror.log_scalars(0, SCALARS)
        mirror.log_scalars(50, {"train/loss": {0: 1.0, 1: math.nan, 2: math.inf}})
    run = read_back(info.folder)
    assert run.curve("train/loss/seed_0") == [(0, 2.0), (50, 1.0)]
    assert run.curve("train/loss/seed_2") == [(0, 3.0), (50, math.inf)]
    assert math.isnan(run.curve("train/loss/seed_1")[1][1])
    assert run.curve("train/loss/median") == [(0, 3.0), (50, math.inf)]
    assert run.curve("train/accuracy/median") == [(0, 0.5)]


def test_curves_are_drawn_against_steps_and_profiles_against_lag(info: RunInfo) -> None:
    mirror = WandbMirror()
    with mirror.opened(info):
        mirror.log_scalars(0, {**SCALARS, "validation/loss": {0: 1.0}})
        log_probes(mirror)
    axes = read_back(info.folder).x_axes
    expected = {"train/*": "step", "validation/*": "step", "probe/*": "step", "profile/*": "lag"}
    assert {glob: axis for glob, axis in axes.items() if axis} == expected


def test_run_is_named_grouped_and_tagged(info: RunInfo) -> None:
    mirror = WandbMirror(project="horizons", entity="lab")
    with mirror.opened(run_info(info.folder, tags=("pilot", "x" * 80, "lstm"))):
        pass
    run = read_back(info.folder).run
    assert (run.project, run.entity, run.display_name) == ("horizons", "lab", "lstm-abc")
    assert (run.run_group, run.job_type, run.run_id) == ("study", "lstm", "abc-0-1-2")
    assert sorted(run.tags) == sorted(["lstm", "adding", "T=100", "pilot", "x" * 64])


def test_config_groups_by_words_and_keeps_the_nodes(info: RunInfo) -> None:
    config = {"model": {"label": "lstm"}, "task": {"seq_len": 100}, "hidden_size": 8, "seq_len": 100}
    mirror = WandbMirror()
    with mirror.opened(run_info(info.folder, config=config)):
        pass
    read = read_back(info.folder).config
    expected = {
        "model": "lstm",
        "task": "adding",
        "seq_len": 100,
        "hidden_size": 8,
        "experiment": "study",
        "run": "lstm-abc",
        "seeds": [0, 1, 2],
        "model_config": {"label": "lstm"},
        "task_config": {"seq_len": 100},
    }
    assert {key: value for key, value in read.items() if not key.startswith("_")} == expected


def test_run_config_leaves_the_given_one_alone() -> None:
    config: dict[str, Any] = {"model": {"label": "gru"}}
    run_config(run_info(Path(), config=config))
    assert config == {"model": {"label": "gru"}}


def test_profiles_are_lines_over_lag_at_init_solved_and_last(info: RunInfo) -> None:
    mirror = WandbMirror()
    with mirror.opened(info):
        log_probes(mirror)
    run = read_back(info.folder)
    assert run.curve(f"{PROFILE}_init/seed_1", "lag") == [(0, 0.0), (1, pytest.approx(-4.0, rel=1e-12))]
    assert run.curve(f"{PROFILE}_init/median", "lag")[1] == (1, pytest.approx(-4.0, rel=1e-12))
    assert run.curve(f"{PROFILE}_solved/median", "lag")[1] == (1, pytest.approx(-1.0, rel=1e-12))
    assert run.curve(f"{PROFILE}_last/median", "lag")[1] == (1, pytest.approx(-3.0, rel=1e-12))


def test_true_zero_has_no_point_and_is_named_in_the_summary(info: RunInfo) -> None:
    mirror = WandbMirror()
    with mirror.opened(info):
        log_probes(mirror)
    run = read_back(info.folder)
    assert run.curve(f"{PROFILE}_init/seed_2", "lag") == [(0, 0.0)]
    assert run.summary[f"{PROFILE}_init/seed_2_first_zero_lag"] == 1


def test_heat_map_is_an_image_below_the_run_folder(info: RunInfo) -> None:
    mirror = WandbMirror()
    with mirror.opened(info):
        log_probes(mirror)
    run = read_back(info.folder)
    ((step, image),) = run.curve("probe/input_gradient_heat_map")
    pixels = matplotlib.image.imread(run.media(image["path"]))
    assert step == 9
    assert pixels.shape[:2] == (image["height"], image["width"])
    assert info.folder in run.media(image["path"]).parents


def test_digest_of_a_step_is_one_row_with_the_median_of_all_members(info: RunInfo) -> None:
    mirror = WandbMirror()
    with mirror.opened(info):
        for step, totals in ((0, [1.0, 2.0, 6.0]), (50, [3.0, 9.0])):
            for seed, total in enumerate(totals):
                mirror.log_table("parameter_gradients", parameter_gradient_rows(seed, step, total))
    run = read_back(info.folder)
    key = "train/parameter_gradient_norm/total_unclipped"
    assert run.curve(f"{key}/median") == [(0, 2.0), (50, 6.0)]
    assert run.curve(f"{key}/seed_2") == [(0, 6.0)]
    assert [row["step"] for row in run.rows] == [0, 50]


@pytest.mark.parametrize(("status", "exit_code"), [("finished", 0), ("failed", 1)])
def test_close_writes_status_summary_and_exit_code(info: RunInfo, status: str, exit_code: int) -> None:
    mirror = WandbMirror()
    mirror.open(info)
    mirror.close(status, {"num_solved": 1, "outcome": {0: "solved", 1: None}, "2": {"step": 7}})
    run = read_back(info.folder)
    assert run.exit_code == exit_code
    expected = {"status": status, "num_solved": 1, "outcome/seed_0": "solved", "outcome/seed_1": None, "seed_2/step": 7}
    assert {key: run.summary[key] for key in expected} == expected


def test_exception_in_training_closes_the_run_with_all_rows(info: RunInfo) -> None:
    mirror = WandbMirror()
    with pytest.raises(ZeroDivisionError):
        fail_in_training(mirror, info)
    run = read_back(info.folder)
    assert (run.exit_code, run.curve("train/loss/seed_1")) == (1, [(3, 4.0)])
    assert wandb.run is None


def test_steps_that_a_broken_run_may_not_have_completed_have_no_median_and_no_profile(info: RunInfo) -> None:
    mirror = WandbMirror()
    mirror.open(info)
    mirror.log_table("input_gradients", input_gradient_rows(0, 0, "init", [1.0, 1e-2]))
    for step in (0, 3):
        mirror.log_scalars(step, {"train/loss": {0: 1.0}})
    mirror.close("failed", {})
    run = read_back(info.folder)
    assert run.curve("train/loss/seed_0") == [(0, 1.0), (3, 1.0)]
    assert run.curve("train/loss/median") == [(0, 1.0)]
    assert not any(key.startswith(PROFILE) for row in run.rows for key in row)


def test_two_runs_in_a_row_are_two_runs(tmp_path: Path) -> None:
    mirror = WandbMirror()
    for name, loss in (("first", 1.0), ("second", 2.0)):
        (tmp_path / name).mkdir()
        with mirror.opened(run_info(tmp_path / name, name=name, resume_id=name)):
            mirror.log_scalars(0, {"train/loss": {0: loss}})
    runs = [read_back(tmp_path / name) for name in ("first", "second")]
    assert [run.run.run_id for run in runs] == ["first", "second"]
    assert [run.curve("train/loss/seed_0") for run in runs] == [[(0, 1.0)], [(0, 2.0)]]


def test_run_left_open_by_an_earlier_job_is_finished_first(tmp_path: Path) -> None:
    for name in ("left", "next"):
        (tmp_path / name).mkdir()
    left = WandbMirror()
    left.open(run_info(tmp_path / "left", resume_id="left"))
    with WandbMirror().opened(run_info(tmp_path / "next", resume_id="next")):
        assert read_back(tmp_path / "left").exit_code is not None
    assert read_back(tmp_path / "next").run.run_id == "next"
    left.close("failed", {})


def test_run_id_holds_allowed_characters_alone(info: RunInfo) -> None:
    mirror = WandbMirror()
    with mirror.opened(run_info(info.folder, resume_id="a/b: ü?" + "z" * 100)):
        pass
    run_id = read_back(info.folder).run.run_id
    assert len(run_id) == 64
    assert set(run_id) <= set("z-ab")


def test_offline_run_prints_nothing(info: RunInfo, capfd: pytest.CaptureFixture[str]) -> None:
    mirror = WandbMirror()
    with mirror.opened(info):
        mirror.log_scalars(0, SCALARS)
        log_probes(mirror)
    assert capfd.readouterr() == ("", "")


def test_online_without_a_key_is_refused_before_training(info: RunInfo) -> None:
    with pytest.raises(
        LoginError, match=r"needs a login, got: No API key configured; run `wandb login`, or set logger=wandb"
    ):
        WandbMirror(mode="online").open(info)
    assert wandb.run is None


def test_malformed_key_is_refused_before_training(info: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(LoginError, match="40\\+ characters"):
        WandbMirror(mode="online").open(info)


def test_failing_mirror_is_named_once_and_stops_nothing(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    mirror = WandbMirror()
    with mirror.opened(info):
        monkeypatch.setattr(wandb.Run, "log", refuse)
        for step in range(5):
            mirror.log_scalars(step, SCALARS)
    assert caplog.text.count("disk full") == 1
    assert read_back(info.folder).exit_code == 0


def test_mirror_that_cannot_start_stops_nothing(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(wandb, "init", refuse)
    mirror = WandbMirror()
    with mirror.opened(info):
        mirror.log_scalars(0, SCALARS)
        log_probes(mirror)
    (said,) = warnings_in(caplog)
    assert said == (
        "W&B: could not start (OSError: no space left). Training is not affected, and all is recorded: "
        f"`gradhorizon-wandb-push '{info.folder}'` sends it"
    )


def test_close_without_open_is_harmless() -> None:
    WandbMirror().close("finished", {})


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="`mode` must be offline or online, got 'shared'"):
        WandbMirror(mode="shared")
