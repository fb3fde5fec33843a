"""One table of all results: what was measured, at which setting, against which target."""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from benchmarks.timing import Spread

COLUMNS = ("benchmark", "setting", "unit", "value", "median", "low", "high", "target", "is_floor", "is_met")
RATIO = "×"


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        benchmark: what was measured.
        setting: at which sizes.
        spread: the value with its spread over rounds.
        target: the most it should be, in `unit`; None if it is only reported.
        unit: × for ratios.
        is_floor: whether `target` is the least it should be instead.
    """

    benchmark: str
    setting: str
    spread: Spread
    target: float | None = None
    unit: str = RATIO
    is_floor: bool = False


def once(value: float) -> Spread:
    """A value that was measured a single time."""
    return Spread(value, value, value, value)


def as_table(results: Sequence[Result]) -> pd.DataFrame:
    """One row per result, columns `COLUMNS`; ``value`` is what ``target`` is held against, NaN where there is none."""
    rows = []
    for item in results:
        own = item.spread
        target = float("nan") if item.target is None else item.target
        rows.append((item.benchmark, item.setting, item.unit, own.of_medians, own.median, own.low, own.high, target,
                     item.is_floor, _is_met(item)))  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _is_met(item: Result) -> bool | None:
    if item.target is None:
        return None
    value = item.spread.of_medians
    return value >= item.target if item.is_floor else value <= item.target


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown: ratio of medians, then median and range of the ratios of single rounds."""
    lines = ["| benchmark | setting | value | rounds: median (range) | target | met? |", "|---|---|--:|--:|--:|---|"]
    for row in table.to_dict("records"):
        value, unit = row["value"], row["unit"]
        is_single = row["low"] == row["high"]
        rounds = "—" if is_single else f"{row['median']:.3g} ({row['low']:.3g} … {row['high']:.3g})"
        target = "—" if math.isnan(row["target"]) else f"{'≥' if row['is_floor'] else '≤'} {row['target']:g} {unit}"
        met = {True: "yes", False: "**no**"}.get(row["is_met"], "—")
        shown = f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
        lines.append(f"| {row['benchmark']} | {row['setting']} | {shown} {unit} | {rounds} | {target} | {met} |")
    return "\n".join(lines)


def surroundings(num_threads: int) -> str:
    """Where it was measured, in one line: CPUs, threads, versions."""
    return (
        f"{os.cpu_count()} CPUs, {num_threads} torch thread{'s' * (num_threads != 1)}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )


def run_alone(measure: Callable[..., pd.DataFrame], description: str | None) -> None:
    """Measure one benchmark from the command line and print its table."""
    arguments = command_line(description).parse_args()
    options = {} if arguments.rounds is None else {"rounds": arguments.rounds}
    print(surroundings(arguments.threads))
    print(markdown(measure(num_threads=arguments.threads, **options)))


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=(description or "").strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, help="interleaved repetitions; each benchmark has its own default")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for torch (default: 1)")
    return parser
