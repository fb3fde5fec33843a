"""Adds one of every kind to a copy of this tree and shows what finds it: ``python -m tests.additions``."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.additions.copies import Copy, MissedError, Session
from tests.additions.kinds import ADDITIONS, EXPERIMENT, FILES, FROZEN, ROOT, Addition, Mistake
from tests.mirrors.offline_reader import read_offline_run

DICTIONARY = "docs/records.md"
IS_CURRENT = "tests/measurements/test_dictionary.py::test_committed_document_is_current"
RUNS = f"runs/{EXPERIMENT}"
FIGURES = "runs/figures"
TYPES = ".mypy_cache"
MEASURED = "state_dimension"
CURVE = "probe/state_dimension/participation_ratio_median/seed_0"

Programs = dict[str, dict[str, float]]
"""Kind -> program that found it -> seconds."""


def main() -> int:
    """Add, look, and print a table; the exit code says whether everything was found."""
    console = Console(highlight=False, markup=False, width=140)
    with tempfile.TemporaryDirectory(prefix="additions-") as folder, ThreadPoolExecutor(2) as pool:
        try:
            copy = Copy.of(ROOT, Path(folder) / "copy")
            copy.lay(FILES, [name for addition in ADDITIONS for name in addition.files])
            check_style(copy)
            programs = run_programs(copy, pool)
            mistakes = pool.submit(make_mistakes, copy.twin(Path(folder) / "twin"))
            (copy.root / DICTIONARY).write_text(copy.succeed("gradhorizon.measurements.dictionary").output)
            session = find(copy)
            check_untouched(copy)
            num_mistakes = mistakes.result()
            missed = [] if is_on_the_page(copy) else ["report.html shows no new figure"]
        except MissedError as error:
            console.print(f"MISSED: {error}")
            return 1
    console.print(table(session, programs))
    console.print(f"{num_mistakes} mistakes noticed; no tracked file changed but {DICTIONARY}, which is generated.")
    for one in missed:
        console.print(f"MISSED: {one}")
    return len(missed)


def check_style(copy: Copy) -> None:
    """Hold the additions to the rules of the places where they lie now; types are checked from what lint has checked.

    Raises:
        MissedError: a rule is broken.
    """
    sources = [name for addition in ADDITIONS for name in addition.files if name.endswith(".py")]
    copy.succeed("ruff", "check", "--no-cache", *sources)
    copy.succeed("ruff", "format", "--check", "--no-cache", *sources)
    if (ROOT / TYPES).is_dir():
        shutil.copytree(ROOT / TYPES, copy.root / TYPES)
    copy.succeed("mypy", *sources)


def run_programs(copy: Copy, pool: Executor) -> Programs:
    """Run every program that has to find an addition by its name; the last ones leave the study's records and figures.

    Raises:
        MissedError: one fails, or passes an addition over.
    """
    examined = pool.submit(
        copy.succeed, "gradhorizon.doctor.command", "--json", "--device", "cpu", "--dtype", "float64"
    )
    train = copy.succeed("gradhorizon", "-m", f"experiment={EXPERIMENT}")
    members = sorted((copy.root / RUNS).glob("*/seed-*"))
    _demand(len(members) == 4, f"gradhorizon trained {len(members)} networks of 4")
    measure = copy.succeed("gradhorizon.late_measurement.command", RUNS, f"measurement=[{MEASURED}]")
    without = [str(member) for member in members if not (member / "records" / f"{MEASURED}.parquet").is_file()]
    _demand(not without, f"gradhorizon-measure left out {without}")
    doctor = examined.result()
    _demand('"janet"' in doctor.output, "gradhorizon-doctor examines no model janet")
    pushed = pool.submit(copy.succeed, "gradhorizon.mirrors.push", RUNS, "--offline", "--out", "runs/mirror")
    report = copy.succeed("gradhorizon.analysis.command", RUNS, "--out", FIGURES)
    _demand(any((copy.root / FIGURES).glob(f"{MEASURED}-*.png")), f"gradhorizon-report draws no {MEASURED}")
    tables = ("--tables", "metrics", MEASURED)
    freeze = copy.succeed("gradhorizon.analysis.freeze", RUNS, "--out", str(FROZEN / "records"), *tables)
    figure = copy.succeed(f"experiments.{EXPERIMENT}.figure")
    push = pushed.result()
    curves = [read_offline_run(path).curve(CURVE) for path in (copy.root / "runs/mirror").rglob("*.wandb")]
    _demand(bool(curves) and all(curves), f"gradhorizon-wandb-push draws no curve {CURVE}")
    trained = {"gradhorizon": train.seconds}
    return {
        "cell": {"gradhorizon-doctor": doctor.seconds, **trained},
        "task": trained,
        "optimizer": trained,
        "measurement": {"gradhorizon-measure": measure.seconds, "gradhorizon-wandb-push": push.seconds},
        "figure": {"gradhorizon-report": report.seconds},
        "study": {"gradhorizon-freeze": freeze.seconds, "its figure.py": figure.seconds},
    }


def is_on_the_page(copy: Copy) -> bool:
    """Whether the report's page shows the figure that was added."""
    page = (copy.root / FIGURES / "report.html").read_text(encoding="utf-8")
    return re.search(MEASURED.replace("_", "[ _]"), page, flags=re.IGNORECASE) is not None


def make_mistakes(copy: Copy) -> int:
    """Make every mistake, at most one of each addition at a time, and take it back; returns how many there were.

    The data dictionary, not yet generated anew, is one more.

    Raises:
        MissedError: a test passes, or none of its name ran.
    """
    num_noticed = 0
    for together in zip_longest(*(addition.mistakes for addition in ADDITIONS)):
        mistakes = [mistake for mistake in together if mistake]
        expected = [mistake.noticed_by for mistake in mistakes] + [IS_CURRENT] * (num_noticed == 0)
        undo = [make(copy, mistake) for mistake in mistakes]
        session = copy.test(*expected)
        for take_back in undo:
            take_back()
        for name in expected:
            _demand(session.outcomes.get(name) == "FAILED", f"{name} notices no mistake:\n{session.output}")
        num_noticed += len(expected)
    return num_noticed


def make(copy: Copy, mistake: Mistake) -> Callable[[], object]:
    """Make a mistake; returns what takes it back.

    Raises:
        MissedError: what it replaces does not stand there once.
    """
    path = copy.root / mistake.file
    text = path.read_text(encoding="utf-8")
    _demand(text.count(mistake.right) == 1, f"{mistake.file} has not one {mistake.right!r}")
    path.write_text(text.replace(mistake.right, mistake.wrong), encoding="utf-8")
    return lambda: path.write_text(text, encoding="utf-8")


def find(copy: Copy) -> Session:
    """Run the tests that find additions, and theirs alone.

    Raises:
        MissedError: one fails, or none of a file that should find an addition has its name in an id.
    """
    files = sorted({name for addition in ADDITIONS for name in addition.found_by})
    names = " or ".join(sorted({addition.name for addition in ADDITIONS}))
    session = copy.test(IS_CURRENT, *files, "-k", f"{names} or {IS_CURRENT.rpartition('::')[2]}")
    failed = [name for name, outcome in session.outcomes.items() if outcome != "PASSED"]
    _demand(not failed, f"{failed}\n{session.output}")
    _demand(IS_CURRENT in session.outcomes, f"{IS_CURRENT} did not run:\n{session.output}")
    for addition in ADDITIONS:
        for file in addition.found_by:
            _demand(bool(found(session, addition, file)), f"{file} finds no {addition.kind} {addition.name}")
    return session


def found(session: Session, addition: Addition, file: str) -> list[str]:
    """Tests of a file that passed and have the addition's name in their ids."""
    passed = [name for name, outcome in session.outcomes.items() if outcome == "PASSED"]
    return [name for name in passed if name.startswith(f"{file}::") and addition.name in name]


def check_untouched(copy: Copy) -> None:
    """Hold the copy to what was added.

    Raises:
        MissedError: a tracked file changed that is not generated, or one lies there that nobody added.
    """
    _demand(copy.changed() == [DICTIONARY], f"changed: {copy.changed()}")
    own = {name for addition in ADDITIONS for name in addition.files}
    others = [name for name in copy.added() if name not in own and not name.startswith(f"{FROZEN.as_posix()}/")]
    _demand(not others, f"nobody added {others}")


def table(session: Session, programs: Programs) -> Table:
    """What was added, its files, what found it, and how long that took."""
    shown = Table("addition", "files", "found by", "tests", "s", box=None, pad_edge=False)
    for addition in ADDITIONS:
        tests = [name for file in addition.found_by for name in found(session, addition, file)]
        ran = programs[addition.kind]
        seconds = sum(session.seconds[name] for name in tests) + sum(ran.values())
        finders = [*ran, *(file.removeprefix("tests/") for file in addition.found_by)]
        shown.add_row(
            f"{addition.kind}\n{addition.name}", "\n".join(addition.files), "\n".join(finders), str(len(tests)),
            f"{seconds:.1f}",
        )  # fmt: skip
    return shown


def _demand(is_met: bool, otherwise: str) -> None:
    if not is_met:
        raise MissedError(otherwise)


if __name__ == "__main__":
    sys.exit(main())
