"""The W&B mirror online, against a server on the loopback: healthy, absent, dying, hanging, refusing."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import wandb

from gradhorizon.mirrors.mirror import RunInfo
from gradhorizon.mirrors.weights_and_biases import LoginError, WandbMirror
from tests.mirrors.conftest import warnings_in
from tests.mirrors.rows import input_gradient_rows
from tests.mirrors.test_mirror import run_info
from tests.mirrors.test_weights_and_biases import read_back
from tests.wandb_stub import WandbStub

ADVICE = "Training is not affected, and all is recorded: `gradhorizon-wandb-push '{}'` sends it"

PATIENCE_S = 60.0
"""What no loaded machine needs for a moment's work, and what waits for a lost server exceeds."""


def mirror(init_timeout_s: float = PATIENCE_S, finish_timeout_s: float = PATIENCE_S) -> WandbMirror:
    return WandbMirror(mode="online", init_timeout_s=init_timeout_s, finish_timeout_s=finish_timeout_s)


@pytest.fixture
def info(tmp_path: Path) -> RunInfo:
    folder = tmp_path / "runs" / "lstm T=4 é"
    folder.mkdir(parents=True)
    return run_info(folder)


def log_loss(own: WandbMirror, steps: range) -> None:
    for step in steps:
        own.log_scalars(step, {"train/loss": {0: 1 / (step + 1)}})


def test_values_reach_the_server_bit_for_bit(stub: WandbStub, info: RunInfo, generator: np.random.Generator) -> None:
    values = [float(value) for value in 10.0 ** generator.uniform(-300, 300, 40)]
    values += [0.0, -0.0, 5e-324, 1 / 3, math.inf, -math.inf]
    own = mirror()
    with own.opened(info):
        for step, value in enumerate(values):
            own.log_scalars(10 * step, {"train/loss": {0: value, 1: math.nan}})
    assert stub.run.curve("train/loss/seed_0") == [(10 * step, value) for step, value in enumerate(values)]
    assert stub.run.curve("train/loss/median") == stub.run.curve("train/loss/seed_0")
    assert all(math.isnan(value) for _, value in stub.run.curve("train/loss/seed_1"))


def test_run_is_named_grouped_configured_and_summed_up_at_the_server(stub: WandbStub, info: RunInfo) -> None:
    own = WandbMirror(project="horizons", entity="lab", mode="online", finish_timeout_s=PATIENCE_S)
    with own.opened(run_info(info.folder, config={"hidden_size": 8})) as summary:
        own.log_scalars(0, {"train/loss": {0: 1.0}})
        own.log_table("input_gradients", input_gradient_rows(0, 0, "init", [1.0, 0.1]))
        summary["0"] = {"outcome": "solved", "outcome_step": 5}
    run = stub.run
    assert (run.name, run.project, run.entity, run.fields["displayName"]) == (
        "abc-0-1-2",
        "horizons",
        "lab",
        "lstm-abc",
    )
    assert (run.fields["groupName"], run.fields["jobType"], run.exit_code) == ("study", "lstm", 0)
    assert run.fields["tags"] == ["lstm", "adding", "T=100"]
    assert (run.config["hidden_size"], run.config["model"], run.config["seeds"]) == (8, "lstm", [0, 1, 2])
    assert (run.summary["status"], run.summary["seed_0/outcome_step"]) == ("finished", 5)
    assert run.x_axes == {"train/*": "step", "probe/*": "step", "profile/*": "lag"}
    ((step, image),) = run.curve("probe/input_gradient_heat_map")
    assert step == 0
    assert run.files[image["path"]].startswith(b"\x89PNG")


def test_step_is_one_row_of_all_that_was_measured_then(stub: WandbStub, info: RunInfo) -> None:
    own = mirror()
    with own.opened(info):
        for step in (0, 5):
            own.log_scalars(step, {"train/loss": {0: 1.0, 1: 2.0}})
            for seed in (0, 1):
                own.log_table("my_table", input_gradient_rows(seed, step, "train", [1.0, 0.5]))
            own.log_scalars(step, {"validation/loss": {0: 3.0, 1: 5.0}})
    assert [row["step"] for row in stub.run.rows] == [0, 5]
    assert stub.run.rows[1]["validation/loss/median"] == 4.0
    assert {key.split("/")[0] for key in stub.run.rows[1]} == {"step", "train", "validation", "probe"}


def test_absent_server_is_named_once_and_the_run_goes_offline(
    stub: WandbStub, info: RunInfo, caplog: pytest.LogCaptureFixture
) -> None:
    stub.die()
    own = mirror(init_timeout_s=1.0)
    with own.opened(info):
        log_loss(own, range(3))
    (said,) = warnings_in(caplog)
    assert said.startswith("W&B: the server gave no usable answer (")
    assert "this run is written offline" in said
    assert said.endswith(ADVICE.format(info.folder))
    assert read_back(info.folder).curve("train/loss/seed_0") == [(0, 1.0), (1, 1 / 2), (2, 1 / 3)]


@pytest.mark.parametrize("fault", ["die", "hang", "refuse"])
def test_server_lost_while_training_is_named_once_and_holds_nothing_up(
    stub: WandbStub, info: RunInfo, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    own = mirror(finish_timeout_s=1.0)
    with own.opened(info):
        log_loss(own, range(3))
        {"die": stub.die, "hang": stub.hang, "refuse": lambda: setattr(stub, "status", 403)}[fault]()
        start = time.monotonic()
        log_loss(own, range(3, 50))
    assert time.monotonic() - start < PATIENCE_S
    (said,) = warnings_in(caplog)
    assert said.endswith(ADVICE.format(info.folder))
    assert wandb.run is None


def test_refused_key_is_an_error_before_training(stub: WandbStub, info: RunInfo) -> None:
    stub.status = 401
    with pytest.raises(LoginError, match="got: an API key that the server refuses"):
        mirror().open(info)


def test_run_of_which_nothing_is_recorded_is_overwritten(stub: WandbStub, info: RunInfo) -> None:
    for num_steps in (5, 2):
        own = mirror()
        with own.opened(info):
            log_loss(own, range(num_steps))
    assert stub.run.curve("train/loss/seed_0") == [(0, 1.0), (1, 1 / 2)]


def test_two_runs_in_a_row_are_two_runs_at_the_server(stub: WandbStub, tmp_path: Path) -> None:
    own = mirror()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with own.opened(run_info(tmp_path / name, resume_id=name)):
            log_loss(own, range(2))
    assert {name: len(run.lines) for name, run in stub.runs.items()} == {"first": 2, "second": 2}
