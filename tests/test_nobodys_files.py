"""What somebody else has put where a run will write: nothing of it is followed, waited for, or written over."""

from __future__ import annotations

import getpass
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from gradhorizon.config import ConfigError
from gradhorizon.machine.compiled_code import keep_private
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.records import safely
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import write_atomically, write_json
from gradhorizon.records.layout import own_folders, temporary_path
from gradhorizon.runs.claims import latest_claim, take
from gradhorizon.runs.failures import last_lines, read_failure
from gradhorizon.runs.folders import create
from gradhorizon.runs.locks import members_locked
from gradhorizon.runs.log import log_file
from gradhorizon.status.run import read_run
from gradhorizon.sweeps import hydra_folder
from gradhorizon.sweeps.launch import launch
from gradhorizon.sweeps.launcher.process import _unwritable
from gradhorizon.training.repairs import mended
from tests import runs_on_disk
from tests.runs_on_disk import TINY
from tests.status_runs import finished

FEW = (
    *(item for item in TINY if not item.startswith("measurement.")),
    "num_seeds=1",
    "num_steps=1",
    "measurement=[input_gradients]",
)
VICTIM = "mine, and dear to me\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "mine" / "lstm-copy-T5-0123456789"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim" / "thesis.txt"
    path.parent.mkdir()
    path.write_text(VICTIM)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def names_that_can_be_guessed(shared: Path) -> list[Path]:
    users = {getpass.getuser(), "user", "root", os.environ.get("USER", "user")}
    return [shared / f"{start}{user}" for start in ("gradhorizon-hydra-", "torchinductor_") for user in users]


def planted_link_to_file(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def planted_link_to_folder(place: Path, victim: Path) -> None:
    place.symlink_to(victim.parent)


def planted_folder(place: Path, victim: Path) -> None:
    place.mkdir()
    (place / "multirun.yaml").symlink_to(victim)


def planted_file(place: Path, victim: Path) -> None:
    del victim
    place.write_text("not yours")


PLANTED = [planted_link_to_file, planted_link_to_folder, planted_folder, planted_file]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A temporary folder with a short name: the path of a socket may be no longer than about a hundred characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def sweep(folder: Path, shared: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{key: value for key, value in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"},
        "TMPDIR": str(shared),
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "gradhorizon.application", "-m", *FEW, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("launcher", "planted"),
    [
        *(pytest.param("basic", one, marks=pytest.mark.slow) for one in PLANTED),
        pytest.param("joblib", planted_folder, marks=pytest.mark.slow),
        ("local", planted_link_to_file),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_whatever_lies_in_the_shared_temporary_folder_a_sweep_works_and_touches_none_of_it(
    tmp_path: Path, shared: Path, victim: Path, launcher: str, planted: Callable[[Path, Path], None]
) -> None:
    for place in names_that_can_be_guessed(shared):
        if not os.path.lexists(place):
            planted(place, victim)
    before = {path: path.lstat().st_mtime_ns for path in (*shared.rglob("*"), victim, victim.parent)}
    # Under the basic launcher, which needs no process more, the plan too.
    for plan in (["plan=true"], ["plan=false"]) if launcher == "basic" else (["plan=false"],):
        done = sweep(tmp_path, shared, f"hydra/launcher={launcher}", "model=rnn_tanh,gru", *plan)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "runs").exists() == (plan == ["plan=false"])
    assert len(list(tmp_path.glob("runs/default/*/run.json"))) == 2
    assert [path.suffix for path in tmp_path.glob("runs/default/sweeps/*")] == [".json"]
    assert victim.read_text() == VICTIM
    assert {path: path.lstat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("launcher", ["joblib", "local"])
def test_a_plan_leaves_nothing_behind(tmp_path: Path, shared: Path, launcher: str) -> None:
    done = sweep(tmp_path, shared, f"hydra/launcher={launcher}", "model=rnn_tanh,gru", "plan=true")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs").exists()
    assert [path for path in shared.iterdir() if "gradhorizon" in path.name] == []


def own_sweep(folder: Path, **changes: object) -> DictConfig:
    own = OmegaConf.load(CONF_DIR / "train.yaml")
    content = {
        "runs_dir": str(folder),
        "experiment_name": "mine",
        "plan": False,
        "hydra": {"sweep": OmegaConf.to_container(own.hydra.sweep, resolve=False), "overrides": {"hydra": []}},
    } | changes
    return OmegaConf.create(content)


def test_what_stands_in_the_configuration_is_what_is_replaced() -> None:
    own: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "train.yaml"), resolve=False)
    assert own["hydra"]["sweep"]["dir"] == hydra_folder.DEFAULT


@pytest.mark.parametrize("name", ["plain", "it's", "a b=c,d", "\N{SNOWMAN}", "a$b", "${b}"])
def test_hydras_folder_is_private_told_as_a_path_and_removed(tmp_path: Path, name: str) -> None:
    config = own_sweep(tmp_path / "runs", experiment_name=name.replace("${", "\\${"))
    with hydra_folder.own_hydra_folder(config):
        folder = Path(config.hydra.sweep.dir)
        told: Any = OmegaConf.to_container(config.hydra.overrides.hydra)  # as Hydra takes it, escaped
        value = OverridesParser.create().parse_override(told[0]).value()
        assert OmegaConf.create({"dir": value})["dir"] == str(folder)
        assert folder.parent == tmp_path / "runs" / name / "sweeps"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not (tmp_path / "runs").exists()


def test_what_a_launcher_has_put_into_hydras_folder_stays(tmp_path: Path) -> None:
    config = own_sweep(tmp_path / "runs")
    with hydra_folder.own_hydra_folder(config):
        folder = Path(config.hydra.sweep.dir)
        (folder / "log").write_text("of a job")
    assert (folder / "log").read_text() == "of a job"


def test_hydras_folder_is_a_temporary_one_where_no_runs_can_lie(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    config = own_sweep(tmp_path / "runs")
    with hydra_folder.own_hydra_folder(config):
        folder = Path(config.hydra.sweep.dir)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_a_sweeps_folder_that_is_a_link_holds_none_of_hydras_files(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "sweeps").symlink_to(victim.parent)
    config = own_sweep(tmp_path / "runs")
    with hydra_folder.own_hydra_folder(config):
        assert names_in(victim.parent) == [victim.name]


def test_a_folder_that_the_user_names_is_the_users(tmp_path: Path) -> None:
    config = own_sweep(tmp_path / "runs", hydra={"sweep": {"dir": "theirs"}, "overrides": {"hydra": []}})
    with hydra_folder.own_hydra_folder(config):
        assert config.hydra.sweep.dir == "theirs"


@pytest.mark.parametrize("is_writable", [True, False])
def test_compiled_code_is_kept_where_nobody_else_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_writable: bool
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if not is_writable:
        (tmp_path / "cache").write_text("a file")
    keep_private()
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder.is_relative_to(tmp_path / "cache") == is_writable
    if not is_writable:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "theirs")
    keep_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "theirs"


PLACES = [
    "run.json",
    "failed.json",
    "config.yaml",
    "seed-0/member.json",
    "seed-0/checkpoint.pt",
    "seed-0/records/metrics.parquet",
    "seed-0/records/metrics/00000000-00000005.parquet",
    "seed-0/checkpoints/init.pt",
    "../sweeps/0123.json",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_file_is_written_over_no_link_in_its_place_or_in_that_of_its_beginning(
    run: Path, victim: Path, place: str
) -> None:
    path = run.parent / place.removeprefix("../") if place.startswith("..") else run / place
    path.parent.mkdir(parents=True, exist_ok=True)
    for planted in (path, temporary_path(path)):
        planted.symlink_to(victim)
    write_atomically(b"new", path)
    assert (path.read_bytes(), path.is_symlink()) == (b"new", False)
    assert victim.read_text() == VICTIM
    assert names_in(path.parent) == [path.name]


@pytest.mark.parametrize("place", PLACES)
def test_no_folder_from_the_runs_own_on_is_a_link(run: Path, victim: Path, place: str) -> None:
    path = run.parent / place.removeprefix("../") if place.startswith("..") else run / place
    for folder in own_folders(path.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rmdir()
        folder.symlink_to(victim.parent)
        with pytest.raises(RecordsError, match=rf"{folder} is a link, which nothing at or below a run's folder may be"):
            write_atomically(b"new", path)
        folder.unlink()
    assert names_in(victim.parent) == [victim.name]


def test_links_above_a_run_are_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "big")
    (tmp_path / "disk").mkdir()
    (tmp_path / "big" / "mine").symlink_to(tmp_path / "disk")
    folder = runs_on_disk.run(tmp_path / "runs", "experiment_name=mine", "num_seeds=1", "num_steps=1")
    assert (tmp_path / "disk" / folder.name / "run.json").is_file()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_log_that_is_no_plain_file_is_refused_in_one_line(run: Path, victim: Path, kind: str) -> None:
    path = run / "log.txt"
    {"link": lambda: path.symlink_to(victim), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with pytest.raises(ConfigError) as refused, log_file(path):
        pass
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert victim.read_text() == VICTIM


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_an_output_that_is_no_plain_file_fails_the_run_in_one_line(run: Path, victim: Path, kind: str) -> None:
    path = run / "output.txt"
    path.symlink_to(victim) if kind == "link" else os.mkfifo(path)
    report = _unwritable(path)
    assert report is not None
    assert (report.status, report.is_final) == ("failed", True)
    assert str(path) in report.reason
    assert victim.read_text() == VICTIM


@pytest.mark.parametrize("place", ["", "seed-0"])
def test_a_member_is_not_locked_through_a_link(run: Path, victim: Path, place: str) -> None:
    path = run / place if place else run
    if path == run:
        run.rmdir()
    path.symlink_to(victim.parent)
    with pytest.raises(ConfigError, match="is a link"), members_locked(run, [0]):
        pass
    assert names_in(victim.parent) == [victim.name]


def test_a_lock_that_is_a_link_is_refused(run: Path, victim: Path) -> None:
    (run / "seed-0").mkdir()
    (run / "seed-0" / ".lock").symlink_to(victim)
    with pytest.raises(ConfigError, match=r"\.lock"), members_locked(run, [0]):
        pass
    assert victim.read_text() == VICTIM


def test_a_claim_is_never_a_link(run: Path, victim: Path) -> None:
    (run / "seed-0").mkdir()
    (run / "seed-0" / ".owner-000001.json").symlink_to(victim)
    before = victim.stat().st_mtime_ns
    assert take(run / "seed-0", None) is None
    claim = latest_claim(run / "seed-0")
    assert claim is not None
    claim.beat()
    assert (victim.read_text(), victim.stat().st_mtime_ns) == (VICTIM, before)


@pytest.mark.parametrize("place", ["records", "records/metrics", "checkpoints", "records/metrics.parquet"])
def test_a_member_with_a_link_in_it_is_not_mended(run: Path, victim: Path, place: str) -> None:
    path = run / "seed-0" / place
    path.parent.mkdir(parents=True)
    path.symlink_to(victim.parent)
    with pytest.raises(RecordsError, match=rf"{path} is a link"):
        mended(run / "seed-0", "0123456789", {}, [])
    assert names_in(victim.parent) == [victim.name]


def test_a_folder_is_probed_without_touching_what_a_link_leads_to(run: Path, victim: Path) -> None:
    before = victim.stat().st_mtime_ns
    (run / f".writable.{os.getpid()}.tmp").symlink_to(victim)
    create(run)
    assert victim.stat().st_mtime_ns == before
    assert names_in(run) == []


def test_a_launch_into_a_run_that_is_a_link_is_refused_in_one_line(tmp_path: Path, victim: Path) -> None:
    cfg = runs_on_disk.composed(f"runs_dir={tmp_path / 'runs'}", "num_seeds=1", "num_steps=1")
    trained = launch(cfg).folder
    for path in sorted(trained.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    trained.rmdir()
    trained.symlink_to(victim.parent)
    with pytest.raises((ConfigError, RecordsError), match=f"{trained.name} is a link"):
        launch(cfg)
    assert names_in(victim.parent) == [victim.name]


@pytest.mark.parametrize("name", ["run.json", "seed-0/member.json", "failed.json"])
def test_nobody_waits_at_a_pipe_in_place_of_a_file(tmp_path: Path, name: str) -> None:
    folder = finished(tmp_path)
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()) | {"status": "running"}))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert read_run(folder, 0.0).status in ("unreadable", "failed", "finished")
    assert read_failure(folder / name).reason
    assert last_lines(folder / name) == []
    assert latest_claim(folder / "seed-0") is None


def test_a_planted_folder_in_place_of_a_files_beginning_is_one_message(run: Path) -> None:
    temporary_path(run / "run.json").mkdir()
    with pytest.raises(RecordsError, match=r"run\.json cannot be written"):
        write_json({}, run / "run.json")


def test_a_file_of_ones_own_is_emptied_and_no_others(run: Path, victim: Path) -> None:
    (run / "link").symlink_to(victim)
    with pytest.raises(safely.MisplacedError):
        safely.empty(run / "link")
    (run / "own").write_text("something")
    safely.empty(run / "own")
    assert ((run / "own").read_text(), victim.read_text()) == ("", VICTIM)
