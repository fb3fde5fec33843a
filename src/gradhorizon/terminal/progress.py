"""One progress display per run: a bar on a terminal, plain log lines everywhere else.

A log file, a pipe, a worker process of a sweep (several bars would overwrite each other) and a dumb terminal get lines
without control characters, at the start, at the end and at most every `interval_s` seconds in between.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from gradhorizon.terminal.words import printable

log = logging.getLogger(__name__)

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
BAR_INTERVAL_S = 0.1
DEFAULT_COLUMNS = 80
MIN_BAR_COLUMNS = 6
_FEW = 3  # seeds upon one another, beyond the first, that are still listed one by one
_MOST_RANGES = 20


@runtime_checkable
class Stream(Protocol):
    """Where a bar can be drawn: any text file, also those that replace standard error."""

    def write(self, text: str, /) -> int:
        """Append `text`."""

    def flush(self) -> None:
        """Make it visible."""

    def isatty(self) -> bool:
        """Whether a terminal shows it."""


@dataclass(frozen=True)
class Reading:
    """What the display shows of one optimizer step.

    Attributes:
        step: optimizer steps completed.
        loss: training loss, mean over members.
        accuracy: the last validation's; None or NaN before there is one.
        gradient_norm: norm of the unclipped gradient, of members together; None if nothing measures it.
        num_solved: members that solved the task.
        num_members: all members.
    """

    step: int
    loss: float
    accuracy: float | None
    gradient_norm: float | None
    num_solved: int
    num_members: int

    def text(self, is_short: bool) -> str:
        """The numbers with their names; abbreviated for a bar."""
        names = ("loss", "acc", "|g|") if is_short else ("loss", "accuracy", "gradient norm")
        accuracy = None if self.accuracy is None or math.isnan(self.accuracy) else self.accuracy
        values = (self.loss, accuracy, self.gradient_norm)
        shown = [f"{name} {value:.3g}" for name, value in zip(names, values, strict=True) if value is not None]
        return (" " if is_short else "  ").join([*shown, f"solved {self.num_solved}/{self.num_members}"])


def format_each_seed(seeds: Sequence[int]) -> str:
    """Seeds in words, one by one.

    Example:
        >>> format_each_seed([3]), format_each_seed([0, 1, 2, 3, 4])
        ('seed 3', 'seeds 0, 1, 2, 3, 4')
    """
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def format_seeds(seeds: Sequence[int]) -> str:
    """Seeds in words, those that follow upon one another as a range.

    Args:
        seeds: ascending, at least one.

    Example:
        >>> format_seeds([3]), format_seeds([0, 1, 2]), format_seeds([0, 2, 3, 4, 5, 9])
        ('seed 3', 'seeds 0, 1, 2', 'seeds 0, 2 … 5, 9')
    """
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    words = [_format_range(first, last) for first, last in ranges[:_MOST_RANGES]]
    if len(ranges) > _MOST_RANGES:
        words.append(f"… {seeds[-1]}")
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(words)}"


def _format_range(first: int, last: int) -> str:
    return f"{first} … {last}" if last - first >= _FEW else ", ".join(map(str, range(first, last + 1)))


def format_duration(seconds: float) -> str:
    """A duration in at most two units; ``?`` if it is unknown.

    Args:
        seconds: NaN or infinite if unknown.

    Example:
        >>> [format_duration(seconds) for seconds in (7, 150, 3900, 200_000, float("nan"))]
        ['7 s', '2 min', '1 h 05 min', '2 d 8 h', '?']
    """
    if not math.isfinite(seconds):
        return "?"
    if round(seconds) < MINUTE_S:
        return f"{max(round(seconds), 0)} s"
    if round(seconds / MINUTE_S) < HOUR_S / MINUTE_S:
        return f"{round(seconds / MINUTE_S)} min"
    if seconds < 2 * DAY_S:
        hours, minutes = divmod(round(seconds / MINUTE_S), 60)
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(round(seconds / HOUR_S), 24)
    return f"{days} d {hours} h"


class ProgressDisplay:
    """Shows how far a run is: `start`, any number of `update`, `finish`.

    Args:
        interval_s: seconds between log lines where the output is no terminal.
        stream: where a bar is drawn; standard error if omitted. Log lines go through `logging`.
        clock: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        interval_s: float = 10.0,
        stream: Stream | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_bar = _can_draw_bars(self._stream)
        self._interval_s = BAR_INTERVAL_S if self._is_bar else interval_s
        self._bar: _Bar | None = None
        self._open = ExitStack()
        self._is_started = False

    def start(self, total: int, first_step: int = 0, title: str = "") -> None:
        """Begin a run.

        Args:
            total: optimizer steps of the whole run.
            first_step: steps that an earlier launch has done; they do not count for the time left.
            title: the run, in a few words.
        """
        self.finish()
        self._is_started = True
        self._total, self._first_step, self._title = total, first_step, printable(title, " ")
        self._reading: Reading | None = None
        self._started_at = self._shown_at = self._clock()
        if self._is_bar:
            self._bar = self._open_bar()
        else:
            log.info("%s", self._line(first_step))

    def is_due(self) -> bool:
        """Whether the next `update` shows something; lets a caller spare reading values from a device."""
        return self._is_started and self._clock() - self._shown_at >= self._interval_s

    def update(
        self,
        step: int,
        loss: float,
        accuracy: float | None,
        gradient_norm: float | None,
        num_solved: int,
        num_members: int,
    ) -> None:
        """Show the state after an optimizer step, unless something was shown a moment ago.

        Args:
            step: optimizer steps completed.
            loss: training loss.
            accuracy: the last validation's; None or NaN before there is one, and not shown then.
            gradient_norm: norm of the unclipped gradient; None if nothing measures it, and not shown then.
            num_solved: members that solved the task.
            num_members: all members.
        """
        if self.is_due():
            self._reading = Reading(step, loss, accuracy, gradient_norm, num_solved, num_members)
            self._show(step)

    def finish(self, summary: str = "") -> None:
        """End the display, whatever state it is in; harmless when repeated.

        Args:
            summary: what came out; takes the place of the bar.
        """
        if not self._is_started:
            return
        self._is_started = False
        self._open.close()
        self._bar = None
        if summary:
            took = format_duration(self._clock() - self._started_at)
            log.info("%s", "  ".join(filter(None, (self._title, printable(summary, " "), f"({took})"))))

    def _open_bar(self) -> _Bar:
        bar = _Bar(self._title, total=self._total, initial=self._first_step, file=self._stream)
        self._open.enter_context(logging_redirect_tqdm(tqdm_class=_Bar))
        self._open.callback(bar.close)
        return bar

    def _show(self, step: int) -> None:
        self._shown_at = self._clock()
        if self._bar is None:
            log.info("%s", self._line(step))
        elif self._reading is not None:
            self._bar.show(step, f"{self._reading.text(is_short=True)} {self._time_left(step)}")

    def _line(self, step: int) -> str:
        percent = 100 * step // self._total if self._total else 100
        reading = (self._reading.text(is_short=False), self._time_left(step)) if self._reading else ()
        return "  ".join(filter(None, (self._title, f"{step}/{self._total} ({percent} %)", *reading)))

    def _time_left(self, step: int) -> str:
        num_done = step - self._first_step
        elapsed_s = self._clock() - self._started_at
        left_s = elapsed_s / num_done * (self._total - step) if num_done > 0 else math.nan
        return f"{format_duration(left_s)} left"


class _Bar(tqdm):  # type: ignore[type-arg]  # which it takes for a type checker alone
    """A tqdm bar whose numbers are never cut off: a narrow terminal shortens first the bar, then the title."""

    monitor_interval = 0  # no thread of its own

    def __init__(self, title: str, total: int, initial: int, file: Stream) -> None:
        self.title = title
        self.numbers = ""
        super().__init__(
            total=total,
            initial=initial,
            file=file,
            leave=False,
            dynamic_ncols=True,
            bar_format="{title}{percentage:3.0f}% |{bar}| {numbers}",
        )

    def show(self, step: int, numbers: str) -> None:
        """Draw it anew."""
        self.n = step
        self.numbers = numbers
        self.refresh()

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        # One column stays free (in older tqdm too): some terminals wrap as soon as the last one is written.
        columns = (values["ncols"] or DEFAULT_COLUMNS) - 1
        room = columns - len(f"100% || {self.numbers}") - MIN_BAR_COLUMNS - 1
        title = self.title if len(self.title) <= room else f"{self.title[: max(room - 1, 0)]}…"
        return {**values, "ncols": columns, "title": f"{title} " if room > 0 else "", "numbers": self.numbers}


def _can_draw_bars(stream: Stream) -> bool:
    is_worker = multiprocessing.current_process().name != "MainProcess"
    return stream.isatty() and not is_worker and os.environ.get("TERM") != "dumb"
