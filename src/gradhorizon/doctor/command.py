"""Do the cells compute here what their equations say? Every kernel is compared.

A cell's `segment` may be a fused kernel or a parallel scan. Its outputs, final
state and gradients are compared with the float64 loop over the cell's `step`,
on every device and in every dtype. Numbers are norms of differences, relative
to the norm of what is right.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradhorizon.config import ConfigError
from gradhorizon.doctor.survey import (
    DTYPES,
    GROUPS,
    Finding,
    Subject,
    external_subject,
    findings,
    places_of,
    present_devices,
    shipped_subjects,
)
from gradhorizon.terminal.program import parser_of, program
from gradhorizon.terminal.words import shortened
from gradhorizon.training.devices import resolve_device
from gradhorizon.training.numerics import configure_precision

_EXAMPLES = """\
examples:
  gradhorizon-doctor
  gradhorizon-doctor --device cpu --cell my_package.MyCell +model.cell.gain=2
"""
_HEADINGS = ("outputs", "final\nstate", "input\ngrad.", "state\ngrad.", "param.\ngrad.")
_MOST_WORDS = 400  # characters of a problem
_WIDE = 100  # columns, from which on there is room for wider gaps
_STYLES = {"pass": "green", "FAIL": "bold red", "unsupported": "dim", "untested": "yellow"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine what the command line names; returns the exit code: 0 if everything that is supported passes, else 1.

    Args:
        arguments: the command line; the process's own if None.
    """
    options = _parser().parse_intermixed_args(arguments)
    configure_precision()
    torch.set_num_threads(1)  # as runs do by default; these tensors are too small for more
    return program(lambda: _told(options), {ConfigError: str})


def _told(options: argparse.Namespace) -> int:
    found = _examined(options)
    if options.json:
        sys.stdout.write(json.dumps({"facts": facts(), "findings": [_plain(one) for one in found]}, indent=2) + "\n")
    return int(any(one.verdict in ("FAIL", "untested") for one in found))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("gradhorizon-doctor", __doc__, _EXAMPLES, "%(prog)s [option ...] [setting ...]")
    parser.add_argument("--device", action="append", help="cpu, cuda or mps; may be repeated (default: all present)")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="may be repeated (default: all)")
    parser.add_argument("--cell", metavar="PATH", help="import path of a cell of your own, instead of the shipped ones")
    parser.add_argument("--input-len", type=_positive, default=50, metavar="N", help="steps compared (default: 50)")
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON document")
    parser.add_argument("settings", nargs="*", metavar="setting", help="settings of a run, such as hidden_size=64")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def _examined(options: argparse.Namespace) -> list[Finding]:
    console = Console(quiet=options.json, highlight=False)
    places = places_of([resolve_device(name) for name in options.device or present_devices()])
    settings = ["hidden_size=32", f"seq_len={options.input_len}", *options.settings]
    subjects = [external_subject(options.cell, settings)] if options.cell else shipped_subjects(settings)
    _say_facts(console, options.input_len)
    found: list[Finding] = []
    for subject in subjects:
        own = list(findings(subject, places, options.dtype or list(DTYPES), options.input_len))
        console.print(_title(subject))
        console.print(_table(own, gap=1 + (console.width >= _WIDE)))
        for line in _problems(own):
            console.print(f"  {line}", markup=False, style="dim")
        found += own
    console.print(f"\n{conclusion(found)}", markup=False)
    return found


def _title(subject: Subject) -> Text:
    models = ", ".join(subject.models)
    return Text.assemble("\n", (subject.name, "bold"), "" if models == subject.name else f": {models}")


def _problems(own: Sequence[Finding]) -> list[str]:
    """What was raised, each with where it was."""
    raised: dict[str, list[str]] = {}
    is_one = len({one.problem for one in own}) == 1
    for one in own:
        if one.problem:
            # The same words about another dtype are the same problem.
            words = one.problem if is_one else one.problem.replace(one.dtype, "…")
            raised.setdefault(words, []).append(f"{one.place} {one.dtype}")
    return [f"{', '.join(where)}: {shortened(words, _MOST_WORDS)}" for words, where in raised.items()]


def facts() -> dict[str, Any]:
    """Versions, devices, threads and precision flags of this process."""
    devices = {"cpu": {"name": platform.processor() or platform.machine(), "has_float64": True}}
    if torch.cuda.is_available():
        devices["cuda"] = {"name": torch.cuda.get_device_name(), "has_float64": True}
    if torch.backends.mps.is_available():
        devices["mps"] = {"name": "Apple GPU", "has_float64": False}
    return {
        "versions": {
            "gradhorizon": metadata.version("gradhorizon"),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "python": platform.python_version(),
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": devices,
        "num_threads": torch.get_num_threads(),
        "tf32": {
            "matrix products": torch.get_float32_matmul_precision() != "highest",
            "cuDNN": torch.backends.cudnn.allow_tf32,
        },
        "tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE"),
    }


def _override(value: str | None) -> str:
    return "" if value is None else f"; NVIDIA_TF32_OVERRIDE={value} overrules both"


def _say_facts(console: Console, input_len: int) -> None:
    known = facts()
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items() if version is not None)
    console.print(f"versions  {versions}, {known['platform']}")
    for name, device in known["devices"].items():
        threads = f", threads used: {known['num_threads']}" if name == "cpu" else ""
        console.print(f"{name:<9} {device['name']}{threads}, {'has' if device['has_float64'] else 'no'} float64")
    flags = [f"{'on' if is_on else 'off'} in {name}" for name, is_on in known["tf32"].items()]
    console.print(f"TF32      {', '.join(flags)}{_override(known['tf32_override'])}")
    console.print(f"compared  {input_len} steps of `segment` with the float64 loop over `step` on the CPU")


def _table(own: Sequence[Finding], gap: int) -> Table:
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for heading in ("where", "dtype"):
        table.add_column(f"\n{heading}", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading if "\n" in heading else f"\n{heading}", justify="right", no_wrap=True)
    table.add_column("\nlimit", justify="right", no_wrap=True)
    table.add_column("\nverdict", no_wrap=True)
    for one in own:
        numbers = [_number(one.errors.get(name), one.tolerance) for name in GROUPS]
        tolerance, verdict = Text(f"{one.tolerance:.0e}"), Text(one.verdict, style=_STYLES[one.verdict])
        table.add_row(one.place, one.dtype, *numbers, tolerance, verdict)
    return table


def _number(error: float | None, tolerance: float) -> Text:
    if error is None:
        return Text("-", style="dim")
    return Text(f"{error:.1e}" if error else "0", style="" if error <= tolerance else _STYLES["FAIL"])


def conclusion(found: Sequence[Finding]) -> str:
    """What the findings mean, in a sentence or two.

    Args:
        found: at least one finding.
    """
    counts = Counter(one.verdict for one in found)
    if counts["FAIL"]:
        words = (
            f"{counts['FAIL']} of {len(found)} checks FAIL: {'; '.join(_failing(found))}. What is trained or measured "
            f"there does not follow the cell's equation; {_advice(found)}."
        )
    elif counts["pass"]:
        subject = f"All {counts['pass']} checks pass" if counts["pass"] > 1 else "The check passes"
        words = (
            f"{subject}: what is computed here, forward and back, is what the cells' equations say, to the precision "
            "of each dtype."
        )
    else:
        words = "Nothing was shown."
    if counts["untested"]:
        words += f" Not tested: {counts['untested']}; from these weights even the float64 loop overflows."
    if counts["unsupported"]:
        words += f" Not supported here: {counts['unsupported']}."
    return words


def _advice(found: Sequence[Finding]) -> str:
    if all(one.problem for one in found if one.verdict == "FAIL"):
        return "mend the cell as said above, or use another device or dtype if it runs there"
    return "mend `segment`, delete it (the default loops over `recur`), or use another device or dtype"


def _failing(found: Sequence[Finding]) -> list[str]:
    dtypes: dict[tuple[str, str], list[str]] = {}
    for one in found:
        if one.verdict == "FAIL":
            dtypes.setdefault((one.cell, one.place), []).append(one.dtype)
    return [f"{cell} on {place} in {', '.join(own)}" for (cell, place), own in dtypes.items()]


def _plain(one: Finding) -> dict[str, Any]:
    errors = {name: error if math.isfinite(error) else None for name, error in one.errors.items()}
    return {**asdict(one), "errors": errors}


if __name__ == "__main__":
    sys.exit(main())
