"""The page on cells and layers of one's own: every line runs, and prints what it says."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "own_cell.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_every_python_example_prints_what_it_says() -> None:
    examples = "\n".join(content for language, content in BLOCKS if language == "python" and ">>>" in content)
    said: list[str] = []
    parsed = doctest.DocTestParser().get_doctest(examples, {"__name__": "page"}, PAGE.name, None, None)
    found = doctest.DocTestRunner(optionflags=FLAGS).run(parsed, out=said.append)
    assert found.attempted > 2
    assert found.failed == 0, "".join(said)


@pytest.mark.slow
def test_every_command_of_the_page_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "gradhorizon"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gradhorizon "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    printed, num_run = "", 0
    for language, content in BLOCKS:
        if language == "python" and ">>>" not in content:
            (tmp_path / "my_cells.py").write_text(content, encoding="utf-8")
        elif language == "sh":
            command = ["bash", "-e", "-c", content]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            printed, num_run = done.stdout + done.stderr, num_run + 1
            assert done.returncode == 0, f"{content}\n{printed}"
        elif language == "text":
            assert doctest.OutputChecker().check_output(content, printed, FLAGS), printed
    assert num_run == content_of("sh")
    assert len(list(tmp_path.glob("runs/*/*/seed-0/records"))) == 4


def content_of(wanted: str) -> int:
    return sum(language == wanted for language, _ in BLOCKS)
