"""The page on the doctor: what it shows is what its commands print, numbers aside."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gradhorizon.doctor.cases import LENGTHS
from gradhorizon.doctor.command import main

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
BLOCKS = re.findall(r"^```console\n\$ gradhorizon-doctor (.+)\n((?:.*\n)+?)```", PAGE, re.MULTILINE)
_OF_MACHINES = re.compile(r"^(versions|cpu  |cuda|mps|TF32).*$", re.MULTILINE)


def plain(text: str) -> str:
    """Words alone: no line ends, nothing of the machine, a mark for each error that rounding makes."""
    text = re.sub(r"\b\d\.\de-1\d\b|\b0(?= )", "tiny", _OF_MACHINES.sub("", text))
    return " ".join(text.split())


@pytest.mark.parametrize(("arguments", "shown"), BLOCKS)
def test_each_command_prints_what_the_page_shows(
    capsys: pytest.CaptureFixture[str], arguments: str, shown: str
) -> None:
    assert main(shlex.split(arguments)) == 1
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("cpu   float64"))
    expected = next(line for line in shown.splitlines() if line.startswith("cpu   float64"))
    assert plain(row[3:]) == plain(expected[3:])
    if "\n\n" in shown:
        assert plain(printed) == plain(shown)


def test_the_page_has_commands_and_names_the_lengths_and_limits() -> None:
    assert len(BLOCKS) == 2
    assert {length for chunk in (16, 32, 64) for length in (chunk - 1, chunk, chunk + 1)} | {1, 2} == set(LENGTHS)
