"""What launches and programs make of a disturbed copy of a run: the same bits, words, or neither."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gradhorizon.config import ConfigError
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.layout import CHECKPOINT
from gradhorizon.sweeps.launch import launch
from tests.runs_on_disk import TINY, all_tables
from tests.torture_outcomes import digest
from tests.torture_specimens import FINISHED, OWN, SEEDS, SMALL, Specimens, configuration, heard, networks

_LONGEST_S = 300
_EXIT_CODES = (0, 1, 75)


@dataclass(frozen=True)
class Relaunch:
    """How a launch ended that found a disturbed run.

    Attributes:
        kind: same (the bits of an undisturbed run), named, silent, unnamed or tracebacks.
        words: what it said.
    """

    kind: str
    words: str = ""


def relaunched(specimens: Specimens, specimen: str, disturb: Callable[[Path], str]) -> Relaunch:
    """Launch a disturbed copy of a run again.

    Args:
        specimens: what is copied.
        specimen: of them.
        disturb: changes the copy; returns the name that words must hold.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = specimens.copied(specimen, Path(folder) / "runs")
        name = disturb(copy)
        before = contents(copy)
        how, words = _launched(Path(folder), *OWN[specimen])
        is_named = name in words
        if how == "broken":
            return Relaunch("tracebacks", words)
        if how == "refused":
            return Relaunch("named" if is_named else "unnamed", words)
        found = next((one for one in copy.parent.iterdir() if one.name == copy.name), copy)
        if specimen == FINISHED and not before.items() <= contents(found).items():
            return Relaunch("silent", f"a finished run was changed; {words}")
        if not _differs(specimens, specimen, found):
            return Relaunch("named" if is_named else "same", words)
        is_of_one_that_ended = specimen == FINISHED or "has changed since" in words
        return Relaunch("named" if is_named and is_of_one_that_ended else "silent", words)


def contents(folder: Path) -> dict[str, bytes]:
    """What lies in a run's folder and no launch may change that finds it finished: tables and kept networks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".parquet", ".pt") and path.name != CHECKPOINT
    }


def _differs(specimens: Specimens, specimen: str, run: Path) -> bool:
    try:
        found = {seed: all_tables(run, seed) for seed in SEEDS}
        if digest(networks(run)) != digest(specimens.kept[specimen]):
            return True
    except Exception:  # noqa: BLE001, that it cannot be read is told by the readers
        return True
    expected = specimens.expected[specimen]
    return any(
        found[seed].keys() != tables.keys()
        or any(rows_differing(one, found[seed][name]) for name, one in tables.items())
        for seed, tables in expected.items()
    )


def _launched(folder: Path, *overrides: str) -> tuple[str, str]:
    """How a launch in a process of its own has ended, and all that it said."""
    output = folder / "said.txt"
    child = os.fork()
    if child == 0:
        try:
            _launch_and_tell(folder, output, overrides)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    outcome = folder / "outcome.json"
    words = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    return (json.loads(outcome.read_text()) if outcome.exists() else "broken"), words


def _launch_and_tell(folder: Path, output: Path, overrides: tuple[str, ...]) -> None:
    heard(output)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s", force=True)
    how = "broken"
    try:
        launch(configuration(folder / "runs", *overrides))
        how = "ended"
    except BaseException as error:  # noqa: BLE001, that is what is looked for
        how = "refused" if _is_told(error) else "broken"
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    (folder / "outcome.json").write_text(json.dumps(how))


def _is_told(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, RecordsError | ConfigError):
            return True
        error = error.__cause__
    return False


def rows_differing(expected: pd.DataFrame, found: pd.DataFrame | None) -> int:
    """Rows that are missing, too many, or not the same to the bit."""
    if found is None or list(expected.columns) != list(found.columns):
        return len(expected)
    count = min(len(expected), len(found))
    is_same = np.ones(count, dtype=bool)
    for name in expected.columns:
        first, second = (np.asarray(table[name].to_numpy()[:count]) for table in (expected, found))
        if first.dtype == np.float64 == second.dtype:
            first, second = first.view(np.int64), second.view(np.int64)
        is_same &= first == second
    return int((~is_same).sum()) + abs(len(expected) - len(found))


def programs(place: Path, out: Path) -> dict[str, list[str]]:
    """The programs that read runs, each as a command line.

    Args:
        place: what they are shown.
        out: where they write.
    """
    python = [sys.executable, "-m"]
    draw = [*python, "gradhorizon.analysis.command", str(place), "--partial", "--out"]
    found = {
        "status": [*python, "gradhorizon.status.command", "--once", str(place)],
        "status --json": [*python, "gradhorizon.status.command", "--json", str(place)],
        "status --failed": [*python, "gradhorizon.status.command", "--failed", str(place)],
        "figures": [*draw, str(out / "figures")],
        "report": [*draw, str(out / "report"), "--only", "report"],
        "measure": [*python, "gradhorizon.late_measurement.command", str(place), "measurement=gates"],
        "push": [*python, "gradhorizon.mirrors.push", "--offline", "--out", str(out), str(place)],
    }
    if importlib.util.find_spec("gradhorizon.status.verify") is not None:
        found["verify"] = [*python, "gradhorizon.status.verify", str(place)]
    return found


def relaunching(root: Path, specimen: str) -> list[str]:
    """The command that launches a specimen again."""
    own = [*TINY, *SMALL, *OWN[specimen]]
    return [sys.executable, "-m", "gradhorizon.application", f"runs_dir={root}", *own]


def complaint(command: list[str], cwd: Path, longest_s: float = _LONGEST_S) -> tuple[str, str]:
    """Why a program has not ended as it should, empty if it has; and all that it showed.

    Args:
        command: its command line.
        cwd: where it is called.
        longest_s: that it may take.
    """
    environment = {
        **os.environ,
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
        "WANDB_SILENT": "true",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            capture_output=True,
            timeout=longest_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {longest_s:g} s", ""
    shown = (done.stdout + done.stderr).decode(errors="replace")
    complaints = done.stderr.decode(errors="replace")  # a run's own traceback is what status prints when it is asked
    if "Traceback" in complaints:
        last = [line for line in complaints.splitlines() if line.strip()][-1]
        return f"a traceback: {last[:200]}", shown
    if done.returncode not in _EXIT_CODES:
        return f"exit code {done.returncode}", shown
    return "", shown


@contextmanager
def disturbed_copy(specimens: Specimens, specimen: str, disturb: Callable[[Path], str]) -> Iterator[Path]:
    """The folder of runs of a disturbed copy."""
    with tempfile.TemporaryDirectory() as folder:
        disturb(specimens.copied(specimen, Path(folder) / "runs"))
        yield Path(folder) / "runs"
        shutil.rmtree(Path(folder) / "wandb", ignore_errors=True)
