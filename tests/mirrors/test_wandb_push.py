"""W&B runs rebuilt from records: the same as those logged while training, by row; records left alone; clear errors."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gradhorizon.mirrors import push
from gradhorizon.mirrors.rebuilt import RebuiltMirror
from tests.mirrors.conftest import warnings_in
from tests.mirrors.offline_reader import read_offline_run
from tests.mirrors.recorded_points import points_of_records, points_of_server
from tests.mirrors.test_online_runs import ONLINE, train_and_break
from tests.records_on_disk import rewrite_config
from tests.runs_on_disk import run
from tests.shipped import shipped
from tests.wandb_stub import StubRun, WandbStub

MEASUREMENTS = shipped("measurement")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("finished"), "experiment_name=study")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def rows(server: StubRun) -> list[dict[str, Any]]:
    """Rows with images as their digests: paths of files carry a random part."""
    return [{key: _content(value) for key, value in row.items()} for row in server.rows]


def _content(value: Any) -> Any:
    if not isinstance(value, dict):
        return "nan" if value != value else value  # noqa: PLR0124
    return value["sha256"]


def remove_members(folder: Path) -> None:
    for member in folder.glob("seed-*"):
        shutil.rmtree(member)


def contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Files and what they hold, those of W&B and locks left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock" and "wandb" not in path.relative_to(folder).parts:
            yield str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()


def assert_pushing_gives_the_same(stub: WandbStub, folder: Path) -> None:
    live = stub.runs.pop(next(iter(stub.runs)))
    before = list(contents(folder))
    assert push.main([str(folder), "--timeout", "60"]) == 0
    pushed = stub.run
    assert rows(pushed) == rows(live)
    assert (pushed.name, pushed.project, pushed.entity) == (live.name, live.project, live.entity)
    for field in ("displayName", "groupName", "jobType", "tags"):
        assert pushed.fields[field] == live.fields[field]
    assert pushed.config == live.config
    assert pushed.x_axes == live.x_axes
    assert pushed.summary == live.summary
    assert pushed.exit_code == live.exit_code
    assert list(contents(folder)) == before


def test_pushed_run_is_the_live_run_row_by_row(stub: WandbStub, tmp_path: Path) -> None:
    folder = run(tmp_path, *ONLINE, "experiment_name=study", "logger.project=horizons")
    assert_pushing_gives_the_same(stub, folder)


@pytest.mark.slow
def test_pushed_run_is_the_live_run_with_every_measurement(stub: WandbStub, tmp_path: Path) -> None:
    folder = run(
        tmp_path, *ONLINE, "model=lstm", "hidden_size=8", "num_seeds=1", f"measurement=[{','.join(MEASUREMENTS)}]"
    )
    assert_pushing_gives_the_same(stub, folder)


def test_run_without_any_logger_is_pushed_whole(stub: WandbStub, finished: Path) -> None:
    assert push.main([str(finished.parent)]) == 0
    assert set(points_of_server(stub.run)) == points_of_records(finished, range(2))
    assert (stub.run.project, stub.run.fields["groupName"]) == ("gradhorizon", "study")


@pytest.mark.slow
def test_run_is_pushed_twice_and_beside_itself(stub: WandbStub, finished: Path) -> None:
    for options in ([], [], ["--id-suffix", "again", "--project", "other"]):
        assert push.main([str(finished), *options]) == 0
    first, second = stub.runs.values()
    assert second.name == f"{first.name}-again"
    assert (first.project, second.project) == ("gradhorizon", "other")
    assert rows(first) == rows(second)


def test_offline_push_needs_no_account_and_leaves_folders_to_sync(
    no_account: None, finished: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del no_account
    with caplog.at_level("INFO"):
        assert push.main([str(finished), "--offline", "--out", str(out)]) == 0
    (file,) = out.glob("wandb/offline-run-*/*.wandb")
    pushed = read_offline_run(file)
    expected = {x: value for axis, x, key, value in points_of_records(finished, range(2)) if key == "train/loss/median"}
    assert dict(pushed.curve("train/loss/median")) == expected
    assert f"`wandb sync {out}/wandb/offline-run-*` sends them" in caplog.text


@pytest.mark.slow
def test_interrupted_run_is_pushed_as_far_as_it_is_recorded_and_goes_on_later(
    stub: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_and_break(tmp_path, monkeypatch, 13, "trainer.checkpoint_every_s=0")
    assert push.main([str(folder)]) == 0
    assert (stub.run.summary["status"], stub.run.exit_code) == ("failed", 1)
    run(tmp_path, *ONLINE)
    assert set(points_of_server(stub.run)) == points_of_records(folder, range(2))
    assert stub.run.exit_code == 0


@pytest.mark.parametrize("fault", ["absent", "refuses"])
def test_server_that_takes_nothing_is_an_error(
    stub: WandbStub, finished: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(RebuiltMirror, "INIT_TIMEOUT_S", 1.0)
    if fault == "absent":
        stub.die()
    else:
        stub.status = 404
    assert push.main([str(finished)]) == 1
    (said,) = warnings_in(caplog)
    assert said.startswith("  Error: could not start (CommError: ")


def test_missing_login_is_an_error_before_anything_is_sent(
    no_account: None, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del no_account
    assert push.main([str(finished)]) == 1
    assert "Error: pushing to W&B needs a login, got: No API key configured" in caplog.text


def test_run_that_is_being_trained_is_left_out(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    with FileLock(folder / "seed-1" / ".lock"):
        assert push.main([str(folder), "--offline", "--out", str(tmp_path)]) == 1
    assert "is being trained or measured; push it when that has ended" in caplog.text


def test_damaged_records_are_named_and_the_next_run_is_pushed(
    no_account: None, finished: Path, tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del no_account
    for name in ("a", "b"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    path = tmp_path / "runs" / "a" / "seed-0" / "records" / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert push.main([str(tmp_path / "runs"), "--offline", "--out", str(out)]) == 1
    assert re.search(r"metrics\.parquet has \d+ bytes, and \d+ were committed", caplog.text)
    assert len(list(out.glob("wandb/offline-run-*"))) == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: rewrite_config(folder, "a: [1"), "cannot be read as a run's configuration"),
        (lambda folder: (folder / "config.yaml").write_text("a: [1"), "config.yaml has 5 bytes, and "),
        (lambda folder: (folder / "config.yaml").unlink(), "cannot be read as a run's configuration"),
        (lambda folder: (folder / "run.json").write_text("{"), "run.json cannot be read"),
        (remove_members, "has recorded nothing yet"),
        (lambda folder: (folder / "run.json").unlink(), "run.json cannot be read (No such file or directory)"),
    ],
    ids=["no yaml", "cut configuration", "no configuration", "cut sheet", "no members", "no sheet"],
)
def test_run_that_cannot_be_read_is_named(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any, words: str
) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    damage(folder)
    assert push.main([str(folder), "--offline", "--out", str(tmp_path)]) == 1
    assert words in caplog.text


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        push.main(["--help"])
    assert caught.value.code == 0
    assert "gradhorizon-wandb-push runs/quickstart" in capsys.readouterr().out
