"""What is said of a finished sweep: nothing if it is as it must be, and something of each thing that is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gradhorizon.records.files import read_json, write_json
from gradhorizon.runs.locks import members_locked
from tests.records_on_disk import relist
from tests.runs_on_disk import run
from tests.sweep_processes import Sweep
from tests.sweep_remains import complaints

SEEDS = range(2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("undisturbed")).parent


@pytest.fixture
def found(undisturbed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(undisturbed, tmp_path / "default"))


def test_nothing_is_said_of_the_same_sweep(undisturbed: Path, found: Path) -> None:
    (run_folder,) = found.iterdir()
    (run_folder / "seed-0" / "records" / "metrics").mkdir()
    (run_folder / "seed-0" / "records" / "metrics" / "00000000-00000005.parquet.aside").touch()
    assert complaints(found, undisturbed, SEEDS) == []


def _next_float(run: Path) -> None:
    table = run / "seed-1" / "records" / "metrics.parquet"
    content = pq.read_table(table)
    values = content["value"].to_numpy().copy()
    values[3] = np.nextafter(values[3], np.inf)
    pq.write_table(content.set_column(content.schema.get_field_index("value"), "value", pa.array(values)), table)
    relist(run / "seed-1")


def _row_twice(run: Path) -> None:
    table = run / "seed-0" / "records" / "input_gradients.parquet"
    content = pq.read_table(table)
    pq.write_table(pa.concat_tables([content, content.slice(0, 1)]), table)
    relist(run / "seed-0")


def _other_weights(run: Path) -> None:
    path = run / "seed-0" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    next(iter(content["member"]["network"].values())).view(-1)[0] += 1
    torch.save(content, path)


def _changed(name: str, **content: object) -> Callable[[Path], None]:
    return lambda run: write_json({**read_json(run / name), **content}, run / name)


def _created(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).touch()


WRONGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of one value": (_next_float, "seed 1: records differ"),
    "a row twice": (_row_twice, "seed 0: records differ"),
    "other weights": (_other_weights, "seed 0: checkpoint.pt differs"),
    "no checkpoint": (lambda run: (run / "seed-0" / "checkpoints" / "last.pt").unlink(), "last.pt'] are missing"),
    "a run that runs": (_changed("run.json", status="running"), "run.json differs: {'status': 'running'}"),
    "a member that runs": (_changed("seed-0/member.json", status="running"), "seed 0: member.json says"),
    "a failure": (_created("failed.json"), "failed.json was left"),
    "half a file": (_created(".run.json.1.tmp"), ".run.json.1.tmp was left"),
    "a part": (_created("seed-0/records/00000000-00000005.parquet.tmp"), "parquet.tmp was left"),
    "a claim": (_created("seed-0/.owner-000002.json"), "seed 0: claims were left"),
    "a run twice": (lambda run: shutil.copytree(run, run.with_name("other")), "other: there is such a run"),
    "no run": (lambda run: run.rename(run.parent.with_name("elsewhere")), "there is no such run"),
}


@pytest.mark.parametrize("name", WRONGS)
def test_it_is_said_if_there_is(name: str, undisturbed: Path, found: Path) -> None:
    wrong, words = WRONGS[name]
    wrong(next(found.iterdir()))
    assert any(words in said for said in complaints(found, undisturbed, SEEDS))


def test_it_is_said_if_somebody_holds_a_member(undisturbed: Path, found: Path) -> None:
    (run_folder,) = found.iterdir()
    with members_locked(run_folder, [1]):
        said = complaints(found, undisturbed, SEEDS)
    assert len(said) == 2
    assert "seed 1: somebody still owns it" in said[0]
    assert said[1].endswith("seed 1: its lock is held")


def test_processes_are_found_by_their_sweep_and_ended(tmp_path: Path) -> None:
    sweep, other = Sweep(tmp_path / "one", ("no_such_key=1",)), Sweep(tmp_path / "other", ("no_such_key=1",))
    process = sweep.launch()
    while not sweep.processes():  # Python is being loaded
        assert process.poll() is None
    assert [found.pid for found in sweep.processes()] == [process.pid]
    assert other.processes() == []
    sweep.kill_all()
    assert process.wait() == -9
    assert sweep.left_alive(0) == []
