"""The project's own files agree with each other, name nothing outside it, and importing it changes nothing."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gradhorizon
from gradhorizon.machine.installed import CONF_DIR

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, flags=re.MULTILINE)
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
MODULES = sorted(module.name for module in pkgutil.walk_packages(gradhorizon.__path__, "gradhorizon."))

# Written with character classes, so that this file does not contain what it looks for.
FORBIDDEN = {
    "package registry": re.compile(
        r"pypi[.]org|files[.]pythonhosted|download[.]pytorch|conda[.]anaconda", re.IGNORECASE
    ),
    "absolute machine path": re.compile(r"(?<![\w.>])/(?:[h]ome|[r]oot|[t]mp|[w]ork|[U]sers|[m]nt)/"),
}

READ_STATE_AROUND_IMPORTS = """
import importlib, json, random, sys
import numpy as np
import pytorch_lightning  # before the first snapshot: it draws from `random` when imported
import torch

def snapshot():
    return {
        "random": repr(random.getstate()),
        "numpy.random": repr(np.random.get_state()),
        "torch RNG": torch.get_rng_state().tolist(),
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "matmul precision": torch.get_float32_matmul_precision(),
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }

found, before = {}, snapshot()
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        found[name] = [f"import failed: {error!r}"]
        continue
    after = snapshot()
    found[name] = sorted(key for key in after if after[key] != before[key])
    before = after
print(json.dumps(found))
"""


def _git_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def changed_by_import() -> dict[str, list[str]]:
    command = [sys.executable, "-W", "ignore", "-c", READ_STATE_AROUND_IMPORTS, *MODULES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_changes_no_global_state(module: str, changed_by_import: dict[str, list[str]]) -> None:
    assert changed_by_import[module] == []


@pytest.mark.parametrize("target", TARGETS)
def test_make_help_explains_every_target(target: str) -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"^  {target} +\w+", shown.stdout, flags=re.MULTILINE)


def test_make_alone_shows_the_help() -> None:
    alone, shown = (
        subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for arguments in ([], ["help"])
    )
    assert alone == shown


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_is_phony(target: str) -> None:
    assert f".PHONY: {target}\n" in MAKEFILE


@pytest.fixture
def _make_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test-lowest` tells every make below it which environment it uses."""
    monkeypatch.delenv("MAKEFLAGS", raising=False)


@pytest.mark.usefixtures("_make_of_its_own")
def test_make_names_the_python_it_needs_when_the_one_given_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), "quickstart", "PYTHON=no-such-python"],
        cwd=_with_project_files(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3.11 or newer, and 'no-such-python' was not found" in done.stderr


@pytest.mark.usefixtures("_make_of_its_own")
def test_make_refuses_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" || exit 1\n', encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), "quickstart", f"PYTHON={old}"],
        cwd=_with_project_files(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is Python 3.9.2" in done.stderr
    assert not (tmp_path / ".venv").exists()


def _with_project_files(folder: Path) -> Path:
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_no_file_names_a_registry_or_a_machine(kind: str) -> None:
    contents = {name: (ROOT / name).read_bytes().decode("utf-8", errors="ignore") for name in _git_files()}
    found = {name: FORBIDDEN[kind].findall(content) for name, content in contents.items()}
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_citation_has_the_version_of_the_package() -> None:
    assert OmegaConf.select(OmegaConf.load(ROOT / "CITATION.cff"), "version") == PROJECT["version"]


def test_changelog_leads_with_the_version_of_the_package_or_with_what_is_unreleased() -> None:
    latest = re.findall(r"^## \[(.+?)\]", CHANGELOG, flags=re.MULTILINE)[0]
    assert latest in (PROJECT["version"], "Unreleased")


def test_every_changelog_section_says_what_affects_results() -> None:
    sections = re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections if "### Affects results" not in section] == []


@pytest.mark.parametrize(
    "requirement",
    [
        *PROJECT["dependencies"],
        *(one for name in ("dev", "slurm", "data", "zoo") for one in PROJECT["optional-dependencies"][name]),
    ],
)
def test_constraints_pin_every_requirement_within_its_range(requirement: str) -> None:
    wanted = Requirement(requirement)
    if wanted.name == PROJECT["name"]:  # an extra of its own
        assert wanted.extras <= PROJECT["optional-dependencies"].keys()
        return
    assert wanted.specifier.contains(_pins()[canonicalize_name(wanted.name)])


def test_constraints_hold_nothing_but_exact_public_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not re.fullmatch(r"#.*|[a-z0-9-]+==[a-z0-9.]+", line)] == []


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_configuration_is_found() -> None:
    assert (CONF_DIR / "train.yaml").is_file()


def test_ci_script_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)
