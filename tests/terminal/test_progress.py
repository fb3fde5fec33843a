"""The progress display: a bar that never wraps on a terminal, plain and rare lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import logging
import math
import multiprocessing
import os
import pty
import re
import struct
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

import pytest

from gradhorizon.terminal.progress import BAR_INTERVAL_S, ProgressDisplay, format_duration

TITLE = "lstm copy_arjovsky2016 T=100"
LONG_TITLE = "rnn_orthogonal temporal_order_hochreiter1997 T=10000"
ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Terminal:
    """A pseudo-terminal and what was written to it."""

    master: int
    stream: TextIO
    written: str = field(default="")

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self) -> str:
        self.stream.flush()
        os.set_blocking(self.master, False)
        try:
            while chunk := os.read(self.master, 65536):
                self.written += chunk.decode()
        except BlockingIOError:
            pass
        return self.written

    def frames(self) -> list[str]:
        """Everything that stood on one line at one moment."""
        return [frame for frame in re.split(r"[\r\n]+", ESCAPE.sub("", self.read())) if frame.strip()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        opened = Terminal(master, stream)
        opened.resize(80)
        yield opened
    os.close(master)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, logger="gradhorizon.terminal.progress")
    return lambda: [record.getMessage() for record in caplog.records]


def update(display: ProgressDisplay, step: int, loss: float = 0.02134, num_solved: int = 1) -> None:
    display.update(step, loss, accuracy=0.41, gradient_norm=0.12, num_solved=num_solved, num_members=3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (-1.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (89.0, "1 min"),
        (150.1, "3 min"),
        (3569.0, "59 min"),
        (3571.0, "1 h 00 min"),
        (3900.0, "1 h 05 min"),
        (90_000.0, "25 h 00 min"),
        (172_800.0, "2 d 0 h"),
        (273_600.0, "3 d 4 h"),
        (math.nan, "?"),
        (math.inf, "?"),
    ],
)
def test_duration_is_short_and_rounded(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_log_line_says_all_there_is_to_say(clock: Clock, lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO(), clock=clock)
    display.start(5000, title=TITLE)
    clock.now_s += 60.0
    update(display, 1500)
    assert lines()[-1] == (
        "lstm copy_arjovsky2016 T=100  1500/5000 (30 %)  "
        "loss 0.0213  accuracy 0.41  gradient norm 0.12  solved 1/3  2 min left"
    )


def test_start_and_end_have_a_line_each(clock: Clock, lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO(), clock=clock)
    display.start(5000, first_step=500, title=TITLE)
    clock.now_s += 90.0
    display.finish("solved 2/3")
    assert lines() == [f"{TITLE}  500/5000 (10 %)", f"{TITLE}  solved 2/3  (2 min)"]


def test_log_lines_keep_their_distance(clock: Clock, lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(interval_s=10.0, stream=io.StringIO(), clock=clock)
    display.start(100, title=TITLE)
    for step in range(1, 101):
        clock.now_s += 0.5
        update(display, step)
    shown = [re.search(r"(\d+)/100", line) for line in lines()]
    assert [match[1] for match in shown if match] == ["0", "20", "40", "60", "80", "100"]


def test_output_that_is_no_terminal_gets_nothing_but_log_lines(clock: Clock, lines: Callable[[], list[str]]) -> None:
    stream = io.StringIO()
    display = ProgressDisplay(interval_s=1.0, stream=stream, clock=clock)
    display.start(10, title="lstm\r\x1b[2J\nT=3")
    clock.now_s += 5.0
    update(display, 5)
    display.finish("solved\t3/3")
    assert stream.getvalue() == ""
    assert "".join(lines()).isprintable()


def test_time_left_counts_the_steps_of_this_launch_alone(clock: Clock, lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO(), clock=clock)
    display.start(5000, first_step=4000)
    clock.now_s += 30.0
    update(display, 4500)
    assert lines()[-1].endswith("  30 s left")


def test_time_left_is_unknown_before_the_first_step(clock: Clock, lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO(), clock=clock)
    display.start(5000, first_step=4000)
    clock.now_s += 30.0
    update(display, 4000)
    assert lines()[-1].endswith("  ? left")


def test_numbers_that_are_none_are_shown_and_do_no_harm(clock: Clock, lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO(), clock=clock)
    display.start(10)
    clock.now_s += 30.0
    display.update(1, math.nan, accuracy=math.nan, gradient_norm=math.inf, num_solved=0, num_members=2)
    assert "loss nan  gradient norm inf  solved 0/2" in lines()[-1]


def test_a_gradient_norm_that_nothing_measures_is_not_shown(clock: Clock, lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO(), clock=clock)
    display.start(10)
    clock.now_s += 30.0
    display.update(1, 0.5, accuracy=None, gradient_norm=None, num_solved=0, num_members=2)
    assert "loss 0.5  solved 0/2" in lines()[-1]


def test_run_without_steps_is_complete(lines: Callable[[], list[str]]) -> None:
    ProgressDisplay(stream=io.StringIO()).start(0)
    assert lines() == ["0/0 (100 %)"]


@pytest.mark.parametrize("title", [TITLE, LONG_TITLE, ""])
@pytest.mark.parametrize("columns", [80, 200, 50])
def test_bar_never_fills_its_line(terminal: Terminal, clock: Clock, title: str, columns: int) -> None:
    terminal.resize(columns)
    display = ProgressDisplay(stream=terminal.stream, clock=clock)
    display.start(100_000, title=title)
    for step in range(0, 100_001, 20_000):
        clock.now_s += 200_000.0
        display.update(step, -1.234e-05, 0.5678, 1.234e-05, 10, 10)
    assert max(map(len, terminal.frames())) < columns
    display.finish()


def test_bar_shows_all_numbers_in_eighty_columns(terminal: Terminal, clock: Clock) -> None:
    display = ProgressDisplay(stream=terminal.stream, clock=clock)
    display.start(5000, title=LONG_TITLE)
    clock.now_s += 60.0
    update(display, 1500)
    frame = terminal.frames()[-1]
    assert frame.startswith("rnn_")
    assert " 30% |" in frame
    assert frame.endswith("| loss 0.0213 acc 0.41 |g| 0.12 solved 1/3 2 min left")
    display.finish()


def test_wide_terminal_shows_the_whole_title(terminal: Terminal, clock: Clock) -> None:
    terminal.resize(160)
    display = ProgressDisplay(stream=terminal.stream, clock=clock)
    display.start(5000, title=LONG_TITLE)
    assert terminal.frames()[-1].startswith(f"{LONG_TITLE}   0% |")
    display.finish()


def test_bar_is_redrawn_at_most_ten_times_a_second(terminal: Terminal, clock: Clock) -> None:
    display = ProgressDisplay(stream=terminal.stream, clock=clock)
    display.start(1000, title=TITLE)
    for step in range(1, 1001):
        clock.now_s += 1 / 512
        update(display, step)
    assert len(terminal.frames()) <= 1 + 1000 / 512 / BAR_INTERVAL_S
    display.finish()


def test_finished_bar_leaves_an_empty_line(terminal: Terminal, clock: Clock) -> None:
    display = ProgressDisplay(stream=terminal.stream, clock=clock)
    display.start(10, title=TITLE)
    clock.now_s += 1.0
    update(display, 5)
    before = len(terminal.frames())
    display.finish("done")
    assert len(terminal.frames()) == before
    assert re.search(r"\r *\r$", terminal.read())


def test_log_line_beside_the_bar_stands_on_a_line_of_its_own(
    terminal: Terminal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", terminal.stream)
    handler = logging.StreamHandler(terminal.stream)
    logging.getLogger().addHandler(handler)
    try:
        display = ProgressDisplay(stream=terminal.stream, clock=clock)
        display.start(10, title=TITLE)
        logging.getLogger("elsewhere").warning("the disk is nearly full")
        display.finish()
    finally:
        logging.getLogger().removeHandler(handler)
    assert "the disk is nearly full" in terminal.frames()


def test_handlers_of_the_root_logger_are_put_back(terminal: Terminal) -> None:
    before = list(logging.getLogger().handlers)
    display = ProgressDisplay(stream=terminal.stream)
    display.start(10)
    display.finish()
    assert logging.getLogger().handlers == before


def test_dumb_terminal_gets_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    ProgressDisplay(stream=terminal.stream).start(10)
    assert terminal.read() == ""


def test_worker_process_on_a_terminal_gets_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "name", "LokyProcess-1")
    ProgressDisplay(stream=terminal.stream).start(10)
    assert terminal.read() == ""


def test_display_that_was_not_started_is_harmless(lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO())
    update(display, 3)
    display.finish("done")
    assert lines() == []


def test_finish_speaks_once(lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO())
    display.start(10)
    display.finish("done")
    display.finish("done")
    assert sum("done" in line for line in lines()) == 1


def test_second_run_of_one_display_starts_afresh(clock: Clock, lines: Callable[[], list[str]]) -> None:
    display = ProgressDisplay(stream=io.StringIO(), clock=clock)
    display.start(10, title="first")
    clock.now_s += 30.0
    update(display, 10)
    display.start(20, title="second")
    assert lines()[-1] == "second  0/20 (0 %)"


def test_is_due_only_when_an_update_would_be_shown(clock: Clock) -> None:
    display = ProgressDisplay(interval_s=10.0, stream=io.StringIO(), clock=clock)
    assert not display.is_due()
    display.start(10)
    clock.now_s += 9.0
    assert not display.is_due()
    clock.now_s += 1.0
    assert display.is_due()
