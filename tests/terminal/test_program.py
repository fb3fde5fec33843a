"""Programs end alike: with the code that they return, one line about a user's mistake, or a word after Ctrl-C."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gradhorizon.terminal.program import INTERRUPTED, Refusals, program, refusing

REFUSALS: Refusals = {UnicodeError: lambda error: f"no text: {error}", ValueError: str}


def raising(error: BaseException) -> int:
    raise error


def test_program_returns_what_it_has_come_to() -> None:
    assert program(lambda: 75, REFUSALS) == 75


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("too wide"), "Error: too wide"), (UnicodeError("é"), "Error: no text: é")],
    ids=["its own words", "the first that fits"],
)
def test_a_users_mistake_is_one_line_and_code_1(caplog: pytest.LogCaptureFixture, error: Exception, words: str) -> None:
    assert program(lambda: raising(error), REFUSALS) == 1
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [(words, None)]
    with pytest.raises(SystemExit) as ended, refusing(REFUSALS):
        raising(error)
    assert ended.value.code == words


def test_what_is_no_users_mistake_is_not_hidden() -> None:
    with pytest.raises(KeyError, match="a fault"):
        program(lambda: raising(KeyError("a fault")), REFUSALS)
    with pytest.raises(SystemExit, match="75"):
        program(lambda: raising(SystemExit(75)), REFUSALS)


def test_ctrl_c_is_told_where_there_is_something_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    assert program(lambda: raising(KeyboardInterrupt()), REFUSALS, "launch it again") == INTERRUPTED == 130
    assert caplog.messages == ["interrupted; launch it again"]
    with pytest.raises(KeyboardInterrupt):
        program(lambda: raising(KeyboardInterrupt()), REFUSALS)


def test_programs_start_without_torch_and_hydra() -> None:
    heavy = ["torch", "hydra", "pandas"]
    script = f"import sys, gradhorizon.terminal.program; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
