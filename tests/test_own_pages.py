"""The pages on tasks, measurements, optimizers and data of one's own: every line runs and prints what it says."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("own_task", "own_measurement", "own_optimizer", "own_data")
PROGRAMS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block of a page, in order."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def laid(page: str, folder: Path) -> dict[str, str]:
    """A user's folder with the page's example in it; returns the environment of a shell that knows our programs."""
    for path in (ROOT / "examples" / page).glob("*.py"):
        shutil.copy(path, folder)
    programs = folder / "bin"
    programs.mkdir()
    for name, target in {**PROGRAMS, "python": ""}.items():
        module, _, function = target.partition(":")
        code = f"-c 'import sys; from {module} import {function}; sys.exit({function}())'" if target else ""
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("page", PAGES)
def test_code_on_the_page_is_code_of_the_example(page: str) -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "examples" / page).glob("*.py")]
    shown = [content for language, content in blocks(page) if language == "python" and ">>>" not in content]
    assert shown or page == "own_data"
    assert [code for code in shown if not any(code in source for source in sources)] == []


@pytest.mark.parametrize("page", PAGES)
def test_page_and_example_lead_to_each_other(page: str) -> None:
    assert f"(../examples/{page}/README.md)" in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert f"(../../docs/{page}.md)" in (ROOT / "examples" / page / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_the_page_runs_and_prints_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = laid(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    printed, said, namespace = "", list[str](), dict[str, object]()
    runner = doctest.DocTestRunner(optionflags=_FLAGS)
    for language, content in blocks(page):
        if language == "sh":
            command = ["bash", "-e", "-c", content]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            printed = done.stdout + done.stderr
            assert done.returncode == 0, f"{content}\n{printed}"
        elif language == "text":
            assert doctest.OutputChecker().check_output(content, printed, _FLAGS), (
                f"expected\n{content}\ngot\n{printed}"
            )
        elif language == "python" and ">>>" in content:
            runner.run(
                doctest.DocTestParser().get_doctest(content, namespace, page, None, None),
                out=said.append,
                clear_globs=False,
            )
    assert runner.failures == 0, "".join(said)
    assert runner.tries > 0
