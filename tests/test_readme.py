"""What the documents tell a reader to type works, and what they point at exists."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from gradhorizon.config import validate
from gradhorizon.machine.installed import CONF_DIR

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
}
MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, flags=re.MULTILINE))
MY_PACKAGE = """from gradhorizon.cells.elman import Elman as MyCell
from tests.own_classes import Parity as MyTask, WeightNorms as MyMeasurement
from torch.optim import Adagrad as MyOptimizer
"""
PLACEHOLDERS = {"<label>": "lstm"}
SHORTENED = {
    "num_steps": "2",
    "val_every_steps": "2",
    "val_size": "4",
    "probe_batch_size": "2",
    "batch_size": "2",
    "hidden_size": "4",
    "num_seeds": "1",
    "logger": "none",
}


def _blocks(language: str) -> list[str]:
    found = (
        re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL) for text in DOCUMENTS.values()
    )
    return [block for blocks in found for block in blocks]


def _commands() -> list[str]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    for text in DOCUMENTS.values():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        lines += [
            span for span in re.findall(r"`([^`\n]+)`", prose) if re.match(r"(make|gradhorizon[\w-]*|python -m) ", span)
        ]
    lines += [f"gradhorizon {arguments}" for arguments in re.findall(r"\$\(TRAIN\) (.+)", MAKEFILE)]
    return sorted({_filled(line) for line in lines if line and not line.startswith("#")})


def _filled(line: str) -> str:
    for placeholder, value in PLACEHOLDERS.items():
        line = line.replace(placeholder, value)
    return line


def _words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def _tree_paths() -> list[str]:
    paths: list[str] = []
    parents: dict[int, str] = {}
    for line in _blocks("text")[0].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.findall(r"[\w./]+(?:/|\.py|\.yaml)(?=\s|$)", line)
        parents[depth] = names[0]
        paths += ["".join(parents[level] for level in range(depth)) + name for name in names]
    return paths


COMMANDS = _commands()
ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
SCRIPTS = set(ENTRY_POINTS)
TRAINING = [command for command in COMMANDS if _words(command)[0] == "gradhorizon"]
MODULES = [command for command in COMMANDS if command.startswith("python -m ")]


def _points(command: str) -> list[list[str]]:
    words = [word for word in _words(command)[1:] if word != "-m"]
    parsed = OverridesParser.create().parse_overrides(words)
    if "-m" not in _words(command):
        return [words]
    return [point for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for point in batch]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_of_a_kind_that_is_checked(command: str) -> None:
    assert _words(command)[0] in {"make", *SCRIPTS} or command.startswith("python -m ")


@pytest.mark.parametrize("name", sorted(SCRIPTS - {"gradhorizon"}))
def test_every_program_is_told_of_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert any(_words(command)[0] == name for command in COMMANDS)
    module, function = ENTRY_POINTS[name].split(":")
    with pytest.raises(SystemExit, match="0"):
        getattr(importlib.import_module(module), function)(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: {name}")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_target_exists(command: str) -> None:
    targets = [word for word in _words(command)[1:] if "=" not in word]
    assert set(targets) <= TARGETS


@pytest.mark.parametrize("command", TRAINING)
def test_training_command_composes_at_every_point(command: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for point in _points(command):
            validate(compose("train", overrides=point))


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in TRAINING if "experiment=" not in command])
def test_training_command_runs_when_shortened(command: str, tmp_path: Path) -> None:
    (tmp_path / "my_package.py").write_text(MY_PACKAGE, encoding="utf-8")
    pd.DataFrame({"level": np.sin(np.arange(600.0))}).to_csv(tmp_path / "data.csv", index=False)
    kept = [word for word in _words(command)[1:] if word.split("=")[0] not in SHORTENED]
    done = subprocess.run(
        [sys.executable, "-m", "gradhorizon", *kept, *(f"{key}={value}" for key, value in SHORTENED.items())],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert bool(list(tmp_path.glob("runs/*/*/run.json"))) == ("plan=true" not in command)


@pytest.mark.parametrize("command", MODULES)
def test_module_that_is_run_exists(command: str) -> None:
    assert importlib.util.find_spec(_words(command)[2])


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in MODULES if "--" in command])
def test_module_knows_the_options_it_is_given(command: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", _words(command)[2], "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [word for word in _words(command) if word.startswith("--") and word not in shown.stdout] == []


@pytest.mark.parametrize("block", _blocks("python"))
def test_python_example_prints_what_it_says(block: str) -> None:
    example = doctest.DocTestParser().get_doctest(block, {}, "README.md", None, None)
    assert doctest.DocTestRunner().run(example).failed == 0
    assert example.examples


@pytest.mark.parametrize(
    "link",
    sorted({link for text in DOCUMENTS.values() for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link}),
)
def test_linked_file_exists(link: str) -> None:
    assert (ROOT / link).is_file()


@pytest.mark.parametrize("path", _tree_paths())
def test_path_in_the_tree_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("label", re.findall(r"^\| (`[^|]+`) \|", MODELS, flags=re.MULTILINE))
def test_models_in_the_table_are_shipped(label: str) -> None:
    labels = re.findall(r"`(\w+)`", label)
    assert [name for name in labels if not (CONF_DIR / "model" / f"{name}.yaml").is_file()] == []
