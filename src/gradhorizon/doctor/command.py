"""Do the cells compute here what their equations say? Every kernel is compared.

A cell's `segment` may be a fused kernel or a parallel scan. Its outputs, final
state and gradients are compared with the float64 loop over the cell's `step`,
on every device and in every dtype. Numbers are norms of differences, relative
to the norm of what is right. A cell or layer of your own (`--cell`) is compared
over lengths around chunks of 16, 32 and 64 steps, in batches of 1 and 3, odd
sizes and pieces: docs/doctor.md. The exit code is 0 if all that is supported
passes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch
from rich.console import Console

from gradhorizon.config import ConfigError
from gradhorizon.doctor.cases import LENGTHS, ODD_SIZES
from gradhorizon.doctor.checks import Check, checks_of
from gradhorizon.doctor.findings import DTYPES, Finding
from gradhorizon.doctor.survey import Subject, external_subject, findings, places_of, present_devices, shipped_subjects
from gradhorizon.doctor.words import answers, conclusion, document, remarks, table, title
from gradhorizon.terminal.program import parser_of, program
from gradhorizon.training.devices import resolve_device
from gradhorizon.training.numerics import configure_precision

_EXAMPLES = """\
examples:
  gradhorizon-doctor
  gradhorizon-doctor --device cpu --cell my_package.MyCell +model.cell.gain=2
  gradhorizon-doctor --cell my_package.Block --step step --cache my_package.empty_cache
"""
_INPUT_LEN = 50
_WIDE = 100  # columns, from which on there is room for wider gaps


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
    found, checks = _examined(options)
    if options.json:
        sys.stdout.write(json.dumps({"facts": facts(), **document(found, checks)}, indent=2) + "\n")
    is_ill = any(one.verdict in ("FAIL", "untested") for one in found) or any(one.verdict == "FAIL" for one in checks)
    return int(is_ill)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("gradhorizon-doctor", __doc__, _EXAMPLES, "%(prog)s [option ...] [setting ...]")
    parser.add_argument("--device", action="append", help="cpu, cuda or mps; may be repeated (default: all present)")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="may be repeated (default: all)")
    parser.add_argument(
        "--cell", metavar="PATH", help="import path of a cell or layer of your own, which is swept over"
    )
    parser.add_argument("--step", default="", metavar="NAME", help="a layer's own method (x_t, cache) -> (y_t, cache)")
    parser.add_argument(
        "--cache", default="", metavar="PATH", help="import path of a function (module, batch_size) for the first step"
    )
    parser.add_argument("--sweep", action="store_true", help="lengths, batches, sizes and pieces for shipped cells too")
    parser.add_argument(
        "--input-len", type=_positive, metavar="N", help=f"compare N steps alone (default without --cell: {_INPUT_LEN})"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON document")
    parser.add_argument("settings", nargs="*", metavar="setting", help="settings of a run, such as hidden_size=64")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def _examined(options: argparse.Namespace) -> tuple[list[Finding], list[Check]]:
    console = Console(quiet=options.json, highlight=False)
    places = places_of([resolve_device(name) for name in options.device or present_devices()])
    is_swept = options.input_len is None and bool(options.sweep or options.cell)
    input_len = None if is_swept else options.input_len or _INPUT_LEN
    subjects = _subjects(options, input_len)
    _say_facts(console)
    found: list[Finding] = []
    checks: list[Check] = []
    for subject in subjects:
        answered = checks_of(subject.name, subject.cell, LENGTHS if input_len is None else (input_len,))
        has_form = answered[0].verdict != "FAIL"
        dtypes = options.dtype or list(DTYPES)
        own = list(findings(subject, places, dtypes, subject.cases(input_len))) if has_form else []
        console.print(title(subject))
        _say_compared(console, subject, input_len)
        if own:
            console.print(table(own, gap=1 + (console.width >= _WIDE)))
        for line in remarks(subject, own):
            console.print(f"  {line}", markup=False, style="dim")
        if options.cell or any(one.verdict != "pass" for one in answered):
            for answer in answers(answered):
                console.print(answer)
        found, checks = found + own, checks + answered
    console.print(f"\n{conclusion(found, checks)}", markup=False)
    return found, checks


def _subjects(options: argparse.Namespace, input_len: int | None) -> list[Subject]:
    settings = ["hidden_size=32", f"seq_len={input_len or _INPUT_LEN}", *options.settings]
    sizes = ODD_SIZES if input_len is None else ()
    if options.cell:
        return [external_subject(options.cell, settings, sizes, options.step, options.cache)]
    if options.step or options.cache:
        raise ConfigError("`--step` and `--cache` are of a layer of your own, got no `--cell`")
    return shipped_subjects(settings, sizes)


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


def _say_facts(console: Console) -> None:
    known = facts()
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items() if version is not None)
    console.print(f"versions  {versions}, {known['platform']}")
    for name, device in known["devices"].items():
        threads = f", threads used: {known['num_threads']}" if name == "cpu" else ""
        console.print(f"{name:<9} {device['name']}{threads}, {'has' if device['has_float64'] else 'no'} float64")
    flags = [f"{'on' if is_on else 'off'} in {name}" for name, is_on in known["tf32"].items()]
    console.print(f"TF32      {', '.join(flags)}{_override(known['tf32_override'])}")


def _say_compared(console: Console, subject: Subject, input_len: int | None) -> None:
    steps = f"{input_len} steps" if input_len else f"{len(subject.cases(None))} cases of 1 to {max(LENGTHS)} steps"
    console.print(f"{steps}: {subject.method.words}", style="dim")


if __name__ == "__main__":
    sys.exit(main())
