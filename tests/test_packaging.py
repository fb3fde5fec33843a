"""The wheel carries the configuration, and what it installs trains from a folder that is not the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from gradhorizon.analysis import figures
from gradhorizon.machine.installed import CONF_DIR
from tests.shipped import shipped

ROOT = Path(__file__).parents[1]
RECORDED = shipped("measurement")
MEASUREMENTS = f"measurement=[{','.join(RECORDED)}]"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(out)], cwd=ROOT, capture_output=True, check=True
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of a fresh environment that has the wheel, and borrows the installed dependencies."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    paths = sysconfig.get_paths(scheme="venv", vars={"base": str(environment), "platbase": str(environment)})
    # A .pth file in a folder that is itself reached through one is not read: the editable install stays invisible.
    (Path(paths["purelib"]) / "borrowed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n", encoding="utf-8")
    pip = [str(Path(paths["scripts"]) / "python"), "-m", "pip", "install", "-qq", "--no-deps", "--ignore-installed"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return Path(paths["scripts"])


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_wheel_carries_every_configuration_file(wheel: Path) -> None:
    shipped = {f"gradhorizon/conf/{path.relative_to(CONF_DIR)}" for path in CONF_DIR.rglob("*.yaml")}
    assert shipped <= set(zipfile.ZipFile(wheel).namelist())


def test_wheel_carries_the_package_its_type_marker_and_the_licence_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "gradhorizon/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} <= {"gradhorizon", "hydra_plugins"}


def test_installed_package_is_the_wheel_and_not_the_repository(scripts: Path, tmp_path: Path) -> None:
    shown = _run([str(scripts / "python"), "-c", "import gradhorizon; print(gradhorizon.__file__)"], tmp_path)
    assert Path(shown.stdout.strip()).is_relative_to(scripts.parent)


@pytest.fixture(scope="module")
def trained(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was empty, after the installed program has trained there."""
    folder = tmp_path_factory.mktemp("elsewhere")
    sizes = ("seq_len=10", "num_steps=5", "val_every_steps=5", "val_size=8", "num_seeds=2", "hidden_size=8")
    done = _run(
        [str(scripts / "gradhorizon"), "model=gru", "task=adding_arjovsky2016", *sizes, "logger=none", MEASUREMENTS],
        folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_installed_program_trains_from_another_folder(trained: Path) -> None:
    assert len(list(trained.glob("runs/*/*/seed-*/records/input_gradients.parquet"))) == 2


def test_installed_program_draws_every_figure_table_and_report(scripts: Path, trained: Path) -> None:
    done = _run([str(scripts / "gradhorizon-report"), "runs", "--out", "drawn"], trained)
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = {path.name.partition("-")[0] for path in (trained / "drawn").glob("*.png")}
    sections = [(name, section) for name, module in figures.found().items() for section in module.SECTIONS]
    assert drawn == {getattr(section, "stem", name) for name, section in sections}
    assert {path.name for path in (trained / "drawn").iterdir()} >= {"report.html", "verdicts.csv", "verdicts.md"}
    page = (trained / "drawn" / "report.html").read_text("utf-8")
    assert len(page) > 100_000
    assert "gru" in page


def test_installed_library_reads_what_was_recorded(scripts: Path, trained: Path) -> None:
    code = "import gradhorizon; tables = gradhorizon.read('runs'); print(*tables); print(len(tables.horizons()))"
    shown = _run([str(scripts / "python"), "-c", code], trained)
    assert shown.returncode == 0, shown.stderr
    names, count = shown.stdout.splitlines()
    assert set(names.split()) == {"metrics", *RECORDED}
    assert int(count) >= 4  # two members, before and after
