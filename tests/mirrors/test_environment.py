"""W&B's environment switches do what its users expect, and what wins is said once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from gradhorizon.composition.arguments import check_arguments
from gradhorizon.config import ConfigError
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.mirrors import push
from gradhorizon.mirrors.mirror import RunInfo
from gradhorizon.mirrors.weights_and_biases import LoginError, WandbMirror
from gradhorizon.records.reading import read_member_table
from gradhorizon.terminal.once import say_once
from tests.mirrors.test_mirror import run_info
from tests.mirrors.test_weights_and_biases import offline_files, read_back
from tests.runs_on_disk import run
from tests.wandb_stub import WandbStub

pytestmark = pytest.mark.usefixtures("no_account")
OFF = [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true"), ("WANDB_DISABLED", "1"), ("WANDB_DISABLED", "TRUE")]


@pytest.fixture(autouse=True)
def unsaid() -> None:
    say_once.cache_clear()


@pytest.fixture
def info(tmp_path: Path) -> RunInfo:
    folder = tmp_path / "runs" / "lstm"
    folder.mkdir(parents=True)
    return run_info(folder)


def built(choice: str, *overrides: str) -> WandbMirror:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        node = compose("train", overrides=[f"logger={choice}", *overrides]).logger
    mirror = instantiate(node)
    assert isinstance(mirror, WandbMirror)
    return mirror


@pytest.mark.parametrize("choice", ["wandb", "wandb_online"])
@pytest.mark.parametrize(("name", "value"), OFF)
def test_switched_off_writes_no_run_but_all_records(
    name: str,
    value: str,
    choice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(name, value)
    folder = run(tmp_path, f"logger={choice}", "num_seeds=1")
    assert not list(tmp_path.rglob("*wandb*"))
    assert read_member_table(folder / "seed-0", "metrics") is not None
    run(tmp_path, f"logger={choice}", "num_seeds=1", "learning_rate=0.1")
    assert caplog.text.count(f"W&B: {name}={value}, so nothing is written for it") == 1


@pytest.mark.parametrize(
    ("configured", "variables", "mode"),
    [
        ("offline", {}, "offline"),
        ("online", {}, "online"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("online", {"WANDB_MODE": "dryrun"}, "offline"),
        ("offline", {"WANDB_MODE": "online"}, "online"),
        ("offline", {"WANDB_MODE": "run"}, "online"),
        ("offline", {"WANDB_MODE": "Disabled"}, "disabled"),
        ("offline", {"WANDB_MODE": "online", "WANDB_DISABLED": "true"}, "disabled"),
        ("online", {"WANDB_DISABLED": "false"}, "online"),
        ("online", {"WANDB_MODE": "", "WANDB_DISABLED": ""}, "online"),
    ],
)
def test_environment_wins_over_the_configuration(
    configured: str, variables: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert WandbMirror(mode=configured).effective_mode == mode


def test_a_run_that_was_to_be_online_is_offline_and_says_so_once(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        with WandbMirror(mode="online").opened(info):
            pass
    assert len(offline_files(info.folder)) == 2
    assert caplog.text.count("W&B: WANDB_MODE=offline wins over logger.mode=online: the run is written offline") == 1


def test_a_run_that_was_to_be_offline_asks_for_a_login_once_it_is_online(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(LoginError, match="needs a login"):
        WandbMirror().open(info)


def test_an_unknown_mode_is_refused_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ConfigError, match="`WANDB_MODE` must be online, offline or disabled, got 'sometimes'"):
        run(tmp_path, "logger=wandb")


def test_nothing_is_said_with_wandb_silent(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with WandbMirror().opened(info):
        pass
    assert "W&B" not in caplog.text


VARIABLES = {
    "WANDB_PROJECT": "horizons",
    "WANDB_ENTITY": "lab",
    "WANDB_RUN_GROUP": "pilot",
    "WANDB_JOB_TYPE": "sweep",
    "WANDB_NOTES": "first try: a=b",
    "WANDB_TAGS": "one, two",
}
KEYS = (
    "logger.project=horizons",
    "logger.entity=lab",
    "logger.group=pilot",
    "logger.job_type=sweep",
    "logger.notes='first try: a=b'",
    "logger.tags=[one,two]",
)


def shown(info: RunInfo) -> tuple[Any, ...]:
    read = read_back(info.folder).run
    return (read.project, read.entity, read.run_group, read.job_type, read.notes, sorted(read.tags))


@pytest.mark.parametrize("way", ["configuration", "environment", "both"])
def test_project_group_tags_and_notes_come_from_either(
    way: str, info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VARIABLES.items() if way != "configuration" else ():
        monkeypatch.setenv(name, value if way == "environment" or name == "WANDB_TAGS" else "another")
    with built("wandb", *(KEYS if way != "environment" else ())).opened(info):
        pass
    expected = sorted(["lstm", "adding", "T=100", "one", "two"])
    assert shown(info) == ("horizons", "lab", "pilot", "sweep", "first try: a=b", expected)


def test_without_either_a_run_is_grouped_by_its_experiment(info: RunInfo) -> None:
    with built("wandb").opened(info):
        pass
    assert shown(info) == ("gradhorizon", "", "study", "lstm", "", sorted(["lstm", "adding", "T=100"]))


def test_files_lie_where_the_environment_says(info: RunInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    with WandbMirror().opened(info):
        pass
    assert offline_files(info.folder) == []
    assert len(offline_files(tmp_path / "elsewhere")) == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("logger.tags=[a,'']", "`tags` must be words of 1 to 64 characters, got one of 0"),
        (f"logger.tags=[{'x' * 65}]", "`tags` must be words of 1 to 64 characters, got one of 65"),
        ("logger.tags=pilot", r"`tags` must be a list of words, such as \[pilot,paper\], got 'pilot'"),
        (f"logger.group={'x' * 129}", "`group` must be 1 to 128 characters, got 129"),
        (f"logger.job_type={'x' * 129}", "`job_type` must be 1 to 128 characters, got 129"),
        ("logger.project='a/b'", "`project` must be 1 to 128 characters without"),
    ],
)
def test_what_wandb_would_refuse_is_refused_before_any_training(overrides: str, words: str) -> None:
    with pytest.raises(InstantiationException, match=words):
        built("wandb", overrides)


@pytest.mark.parametrize("override", ["logger.group=3", "logger.tags=[1]", "logger.notes=[a]"])
def test_names_that_are_no_text_are_refused(override: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=["logger=wandb", override])
    node = OmegaConf.to_container(cfg.logger, resolve=True)
    with pytest.raises(TypeError, match=r"`logger\.(group|tags|notes)` must be"):
        check_arguments(node, "logger")


def test_push_shows_runs_as_asked(stub: WandbStub, tmp_path: Path) -> None:
    folder = run(tmp_path, "logger=wandb", "logger.group=pilot", "logger.tags=[one]", "logger.notes=try", "num_seeds=1")
    assert push.main([str(folder)]) == 0
    fields = stub.run.fields
    assert (fields["groupName"], fields["notes"], "one" in fields["tags"]) == ("pilot", "try", True)
    own = ["--group", "final", "--tags", "two,three", "--notes", "kept", "--job-type", "table", "--id-suffix", "again"]
    assert push.main([str(folder), *own]) == 0
    fields = list(stub.runs.values())[-1].fields
    assert (fields["groupName"], fields["notes"], fields["jobType"]) == ("final", "kept", "table")
    assert {"two", "three"} <= set(fields["tags"])


def test_push_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = run(tmp_path, "num_seeds=1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert push.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").rglob("*.wandb"))) == 1
    assert "WANDB_MODE=offline wins" in caplog.text
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert push.main([str(folder)]) == 1
    assert "nothing is pushed while W&B is switched off, got WANDB_DISABLED=true; unset it" in caplog.text


def test_offline_push_stays_offline_whatever_the_environment_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tmp_path, "num_seeds=1")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert push.main([str(folder), "--offline", "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").rglob("*.wandb"))) == 1
