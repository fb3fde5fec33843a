"""Every benchmark, in one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks import harness, instrument, long_sequence, loop, probe, records, sweep, throughput, unroll
from benchmarks.table import command_line, markdown, surroundings

BENCHMARKS: dict[str, Callable[..., pd.DataFrame]] = {
    "unroll": unroll.measure,
    "loop": loop.measure,
    "probe": probe.measure,
    "instrument": instrument.measure,
    "harness": harness.measure,
    "records": records.measure,
    "throughput": throughput.measure,
    "sweep": sweep.measure,
    "long_sequence": long_sequence.measure,
}
MEASURED_ONCE = ("long_sequence",)
LEGEND = """\
Ratios (×) of seconds measured side by side in one process: all variants run in every round, in an order drawn anew,
without garbage collection. **Value** is computed from the medians over rounds and held against the target; beside it
the median and the range of the ratios of single rounds. What each line measures is said at the top of its module;
`make bench` measures it again."""


def main() -> None:
    """Measure, print the table, and write it where ``--out`` says."""
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="benchmarks to run")
    parser.add_argument("--out", type=Path, help="Markdown file to write the table to")
    arguments = parser.parse_args()
    if arguments.out is not None and not arguments.out.parent.is_dir():
        parser.error(f"--out must lie in a folder that exists, got {arguments.out}; create {arguments.out.parent}")
    print(surroundings(arguments.threads), flush=True)
    tables = []
    for name in arguments.only:
        repeated = {} if arguments.rounds is None or name in MEASURED_ONCE else {"rounds": arguments.rounds}
        tables.append(BENCHMARKS[name](num_threads=arguments.threads, **repeated))
        print(f"\n{name}\n\n{markdown(tables[-1])}", flush=True)
    page = report(pd.concat(tables, ignore_index=True), arguments.threads)
    if arguments.out is not None:
        arguments.out.write_text(page, encoding="utf-8")
        print(f"\nwritten to {arguments.out}")


def report(table: pd.DataFrame, num_threads: int) -> str:
    """The page with all results: how they came about, where, and the table."""
    return f"# Benchmarks\n\n{LEGEND}\n\nMeasured with {surroundings(num_threads)}.\n\n{markdown(table)}\n"


if __name__ == "__main__":
    main()
