"""A stranger's folders put before every program: nothing runs, nothing outside changes, one message each, in time."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gradhorizon.analysis import command as figures
from gradhorizon.config import ConfigError
from gradhorizon.late_measurement import command as measure
from gradhorizon.mirrors import push
from gradhorizon.records.errors import RecordsError
from gradhorizon.status import command
from gradhorizon.sweeps.launch import launch
from tests.hostile_kinds import collection
from tests.hostile_runs import ESCAPE, SECRET, sentinel_of
from tests.programs import draw_report
from tests.torture_specimens import FINISHED, OWN, UNFINISHED, Specimens, configuration, heard

_LONGEST_CPU_S = 60  # to draw every figure of an undamaged run takes a quarter of it on a slow machine
_LONGEST_S = 120.0  # on a machine that does other things, too; who waits for a pipe uses no processor
_MOST_MEMORY = 4 * 2**30
_LONGEST_WORDS = 100_000

Program = Callable[[Path, Path, str], object]


def _optional_verify(root: Path, _: Path, __: str) -> object:
    try:
        from gradhorizon.status import verify  # noqa: PLC0415
    except ImportError:
        return None
    return verify.main([str(root)])


def _relaunch(root: Path, _: Path, specimen: str) -> object:
    try:
        return launch(configuration(root, *OWN[specimen]))
    except (ConfigError, RecordsError) as error:
        sys.exit(f"Error: {error}")


_DRAWN = ("--only", "report", "gradient_profile")  # the page reads what all figures read

PROGRAMS: dict[str, Program] = {
    "status": lambda root, _, __: command.main(["--once", "--all", str(root)]),
    "status --json": lambda root, _, __: command.main(["--json", str(root)]),
    "status --failed": lambda root, _, __: command.main(["--failed", str(root)]),
    "figures": lambda root, out, _: figures.main(["--partial", *_DRAWN, "--out", str(out), str(root)]),
    "report": lambda root, out, _: draw_report(["--partial", "--out", str(out), str(root)]),
    "measure": lambda root, _, __: measure.main([str(root), "measurement=hidden_block_spectrum"]),
    "push": lambda root, out, _: push.main(["--offline", "--out", str(out), str(root)]),
    "verify": _optional_verify,
    "launch": _relaunch,
}
"""Name -> the program, given a folder of runs, where to write, and the specimen whose command is launched again."""


@dataclass
class Visits:
    """What programs made of one kind of folder."""

    folders: int = 0
    calls: int = 0
    executed: int = 0
    changed: int = 0
    tracebacks: int = 0
    too_long: int = 0
    shown: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        """Whether anything happened that must not."""
        return bool(self.executed or self.changed or self.tracebacks or self.too_long or self.shown)


class Hostile:
    """Puts the collection before the programs.

    Args:
        specimens: the runs that are made hostile, as copies.
        seed: of what is left out when not all are shown.
        programs: instead of all.
    """

    def __init__(self, specimens: Specimens, seed: int = 0, programs: dict[str, Program] | None = None) -> None:
        self.specimens = specimens
        self.dice = random.Random(seed)  # noqa: S311
        self.programs = PROGRAMS if programs is None else programs
        self.visits: dict[str, Visits] = {}

    def run(self, share: float = 1.0) -> None:
        """Show a share of all folders, at least one of each kind, to every program."""
        for kind, changes in collection().items():
            self.visits[kind] = Visits()
            for name, change in self.dice.sample(changes, max(round(share * len(changes)), 1)):
                self.visits[kind].folders += 1
                for program in self.programs:
                    self._visit(kind, name, change, program, FINISHED)
                if "launch" in self.programs:
                    self._visit(kind, name, change, "launch", UNFINISHED)

    def _visit(self, kind: str, name: str, change: Callable[[Path, Path], None], program: str, specimen: str) -> None:
        folder = Path(tempfile.mkdtemp())
        try:
            outside = folder / "outside"
            outside.mkdir()
            (outside / "diary.txt").write_text("nobody's business", encoding="utf-8")
            run = self.specimens.copied(specimen, folder / "runs")
            try:
                change(run, outside)
            except FileNotFoundError:  # an unfinished run lacks that file
                return
            before = _hash(outside)
            ended, words = called(lambda: self.programs[program](folder / "runs", folder / "out", specimen), folder)
            happened = {
                "executed": sentinel_of(outside).exists() or (folder / "executed").exists(),
                "changed": _hash(outside) != before,
                "tracebacks": "Traceback" in words or ended == "broken",
                "too_long": ended == "too long" or (len(words) > _LONGEST_WORDS and not program.endswith("--json")),
                "shown": SECRET in words or ESCAPE in words or _has_script(folder / "out"),
            }
            self._count(kind, f"{program}, {specimen}, {name}", happened, words)
        finally:
            _removed(folder)

    def _count(self, kind: str, title: str, happened: dict[str, bool], words: str) -> None:
        visits = self.visits[kind]
        visits.calls += 1
        for what, has_happened in happened.items():
            if has_happened:
                setattr(visits, what, getattr(visits, what) + 1)
                visits.examples.append(f"{kind}: {what}: {title}: {' '.join(words.split())[-160:]}")


def called(program: Callable[[], object], folder: Path) -> tuple[str, str]:
    """How a program ended that was called in a process of its own (ended, broken, too long), and what it said.

    Args:
        program: to call.
        folder: where it is called, and what it says is kept.
    """
    output = folder / "said.txt"
    child = os.fork()
    if child == 0:
        _call(program, folder, output)
    deadline, status_ = time.monotonic() + _LONGEST_S, None
    while status_ is None and time.monotonic() < deadline:
        done, code = os.waitpid(child, os.WNOHANG)
        status_ = code if done else None
        time.sleep(0.005)
    if status_ is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    words = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    if status_ is None or (os.WIFSIGNALED(status_) and os.WTERMSIG(status_) in (signal.SIGXCPU, signal.SIGKILL)):
        return "too long", words
    return ("ended" if os.WIFEXITED(status_) and os.WEXITSTATUS(status_) in (0, 1, 75) else "broken"), words


def _call(program: Callable[[], object], folder: Path, output: Path) -> None:
    """What the process does; never returns."""
    code = 70
    try:
        os.chdir(folder)
        os.environ.update(TORTURE_SECRET=SECRET, WANDB_MODE="offline", WANDB_SILENT="true")
        heard(output)
        warnings.simplefilter("ignore")
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s", force=True)
        logging.getLogger("fontTools").setLevel(logging.WARNING)  # a line for every table of every font
        resource.setrlimit(resource.RLIMIT_CPU, (_LONGEST_CPU_S, _LONGEST_CPU_S))
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
        found = program()
        code = found if isinstance(found, int) else 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        sys.stderr.write("" if isinstance(ended.code, int | None) else f"{ended.code}\n")
    except BaseException:
        logging.getLogger(__name__).exception("it broke")
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)


def _hash(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        sha.update(os.fsencode(path))
        if path.is_file():
            sha.update(path.read_bytes())
    return sha.hexdigest()


def _has_script(out: Path) -> bool:
    pages = out.rglob("*.html") if out.is_dir() else ()
    return any("<script>alert(1)" in path.read_text(encoding="utf-8", errors="replace") for path in pages)


def _removed(folder: Path) -> None:
    for root, names, _ in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder)
