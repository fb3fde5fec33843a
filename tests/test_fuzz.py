"""Any composition trains or is refused in one message; hostile names are text; nothing in a runs folder is executed."""

from __future__ import annotations

import ast
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from gradhorizon.analysis import verdicts
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from gradhorizon.analysis.reading.naming import printable
from gradhorizon.analysis.report import report
from gradhorizon.composition.arguments import check_arguments
from gradhorizon.config import ConfigError
from gradhorizon.late_measurement import command as measure
from gradhorizon.records.errors import RecordsError
from gradhorizon.sweeps.launch import launch
from tests.fuzz import fuzz, fuzz_keys, outcome
from tests.runs_on_disk import TINY, composed, run
from tests.synthetic_runs import SyntheticRun

ROOT = Path(__file__).parents[1]
EXAMPLES = int(os.environ.get("GRADHORIZON_FUZZ_EXAMPLES", "100"))
SHORT = ("num_steps=4", "val_every_steps=2", "num_seeds=1", "~measurement.gates")

# --- compositions


def test_a_few_random_compositions_train_or_are_refused() -> None:
    assert sum(fuzz(2, is_random=False).values()) == 2


def test_unknown_keys_are_refused_in_whatever_group_they_stand() -> None:
    fuzz_keys(8, is_random=False)


@pytest.mark.slow
def test_many_random_compositions_train_or_are_refused() -> None:
    # In a process of its own, where arguments meet the checks of a user's process and no others.
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--examples", str(EXAMPLES)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-8000:]
    counts = {end: int(count) for count, end in re.findall(r"(\d+) (trained|refused)\b", result.stdout)}
    assert min(counts["trained"], counts["refused"]) > EXAMPLES / 10


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.label=0", "`model.label` must be text"),
        ("model.cell=3", "`model.cell` must be a node whose `_target_`"),
        ("model.bidirectional=2", "`model.bidirectional` must be true or false, got 2"),
        ("task._target_=7", "`task` must be a node whose `_target_`"),
        ("task._target_=collections.OrderedDict", "task: `_target_` must build a Task, got collections.OrderedDict"),
        ("measurement.gates=3", "`measurement.gates` must be a node whose `_target_`"),
        ("measurement.gates.schedule=3", "`measurement.gates.schedule` must be a Schedule, got '3'"),
        ("measurement.gates.schedule.num_points=2.5", "must be a whole number up to 2147483647, got '2.5'"),
        ("measurement.gates.schedule.num_points=99999999999999", "must be a whole number up to 2147483647"),
        ("measurement.gates.schedule._target_=collections.Counter", "`measurement.gates.schedule` must be a Schedule"),
        ("trainer._target_=collections.Counter", "trainer: "),
        ("trainer.checkpoint_every_s=nan", "`trainer.checkpoint_every_s` must be a number, got 'nan'"),
        ("trainer.keep_probe_checkpoints=often", "`trainer.keep_probe_checkpoints` must be true or false"),
        ("seed=99999999999999999999", "`seed` must be at most 2147483647"),
        ("hidden_size=1000000000000", "`hidden_size` must be at most 2147483647"),
    ],
)
def test_what_the_fuzz_once_found_is_refused_in_words(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        run(tmp_path, f"++{override}")
    assert len(str(caught.value)) < 400
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["1", "null", "[1]", "{a: 1}", "-3.5", "true", "text"])
def test_arguments_of_classes_that_are_not_the_projects_are_their_own_affair(value: str) -> None:
    check_arguments({"_target_": "collections.OrderedDict", "items": value}, "task")


def test_a_long_wrong_value_is_shown_in_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, f"experiment_name={'/'.join('x' * 3000)}")
    assert len(str(caught.value)) < 300


def test_a_composition_that_trains_is_told_from_one_that_is_refused(tmp_path: Path) -> None:
    assert outcome([*TINY, *SHORT], tmp_path / "a") == "trained"
    assert outcome([*TINY, *SHORT, "hidden_size=-1"], tmp_path / "b") == "refused"
    assert outcome([*TINY, *SHORT, "hidden_size=x"], tmp_path / "c") == "refused by Hydra"


# --- hostile names

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b|c",
    "[red]text[/red]",
    "[/]",
    "$x$",
    "`code`",
    "two\nlines",
    "&lt;b&gt;",
    "{{7*7}}",
    "$style ${panels}",
    "</script>",
    "\u202eright to left",
    "'; drop --",
)


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def _cohort_named(folder: Path, names: Sequence[str]) -> Cohort:
    for number, name in enumerate(names):
        SyntheticRun(model=name, outcomes=(400, None), untold=str(number)).write(folder)
    return read_cohort([folder])


HARMLESS = tuple(f"label {number}" for number in range(len(HOSTILE)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return _cohort_named(tmp_path_factory.mktemp("hostile"), HOSTILE)


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return _cohort_named(tmp_path_factory.mktemp("harmless"), HARMLESS)


@pytest.mark.slow
def test_hostile_labels_add_no_element_to_the_report(hostile: Cohort, harmless: Cohort) -> None:
    page, plain = (_Tags(report.html(cohort)) for cohort in (hostile, harmless))
    assert page.found == plain.found
    assert page.attributes == plain.attributes
    assert [name for name in HOSTILE if name not in page.text] == []


@pytest.mark.slow
@pytest.mark.parametrize("field", ["experiment", "task", "color"])
def test_a_hostile_name_of_anything_else_adds_no_element_to_the_report(tmp_path: Path, field: str) -> None:
    SyntheticRun(**{field: "red\"><img src='x' onerror=alert(1)>"}).write(tmp_path)  # type: ignore[arg-type]
    try:
        page = _Tags(report.html(read_cohort([tmp_path])))
    except (RecordsError, ValueError):
        return
    assert "img" not in page.found
    assert "onerror" not in page.attributes


@pytest.mark.slow
def test_hostile_labels_keep_their_rows_of_the_markdown_table(hostile: Cohort, harmless: Cohort) -> None:
    page, plain = (verdicts.markdown(verdicts.summarise(cohort)).splitlines() for cohort in (hostile, harmless))
    bars = re.compile(r"(?<!\\)\|")
    assert [len(bars.findall(line)) for line in page] == [len(bars.findall(line)) for line in plain]
    assert "<" not in "".join(page).replace("<br>", "")


@pytest.mark.slow
def test_hostile_labels_are_printed_as_they_are(hostile: Cohort) -> None:
    out = StringIO()
    verdicts.show(verdicts.summarise(hostile), Console(file=out, width=400))
    shown = [printable(name.split("\n", maxsplit=1)[0][:12]) for name in HOSTILE]
    assert [name for name in shown if name not in out.getvalue()] == []


@pytest.mark.parametrize("name", ["<script>", "a|b", "[red]", "$x$", "`x`", "a\nb", "../x", "a/b", "..", "", "x" * 300])
def test_a_hostile_experiment_name_is_refused(tmp_path: Path, name: str) -> None:
    cfg = composed(f"runs_dir={tmp_path}")
    OmegaConf.update(cfg, "experiment_name", name)
    with pytest.raises(ConfigError, match="`experiment_name` must be one folder name"):
        launch(cfg)
    assert not list(tmp_path.rglob("*.json"))


# --- nothing is executed

PACKING = ROOT / "src" / "gradhorizon" / "composition" / "packing.py"
SOURCES = sorted(
    path
    for folder in ("src", "analysis", "experiments", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if path != PACKING
)
UNSAFE = re.compile(r"(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\.(load|loads|open|Unpickler)|read_pickle")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_reads_no_pickle(path: Path) -> None:
    unsafe = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            unsafe += sorted(name for name in names & {"pickle", "dill", "shelve", "marshal"} if name)
        if isinstance(node, ast.Call):
            words, options = ast.unparse(node.func), {item.arg: ast.unparse(item.value) for item in node.keywords}
            is_open = words.endswith("torch.load") and options.get("weights_only") != "True"
            if is_open or UNSAFE.search(words) or options.get("allow_pickle", "False") != "False":
                unsafe.append(ast.unparse(node))
    assert unsafe == []


def test_what_is_unpacked_was_packed_by_this_process_and_comes_from_no_file() -> None:
    calls = {
        ast.unparse(node.func) for node in ast.walk(ast.parse(PACKING.read_text("utf-8"))) if isinstance(node, ast.Call)
    }
    assert calls == {"TypeVar", "pickle.dumps", "pickle.loads", "zlib.compress", "zlib.decompress", "cast"}


class _Trap:
    """What would run a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def _set_trap(path: Path, mark: Path, kind: str) -> None:
    if kind == "archive":
        torch.save({"member": _Trap(mark), "optimizer": {}, "step": 1, "network": _Trap(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"member": _Trap(mark)}))


def test_the_trap_is_one(tmp_path: Path) -> None:
    _set_trap(tmp_path / "trap.pt", tmp_path / "sprung", "archive")
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert (tmp_path / "sprung").exists()


def test_a_checkpoint_with_a_command_in_it_is_refused_and_not_obeyed(tmp_path: Path) -> None:
    folder = run(tmp_path, *SHORT)
    (folder / "seed-0" / "member.json").unlink()
    _set_trap(folder / "seed-0" / "checkpoint.pt", tmp_path / "sprung", "archive")
    with pytest.raises(
        RecordsError, match=r"checkpoint\.pt cannot be read \(it asks for \w+\.system, .*move its member"
    ):
        run(tmp_path, *SHORT)
    assert not (tmp_path / "sprung").exists()


def test_a_bare_pickle_in_place_of_a_checkpoint_is_set_aside_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run(tmp_path, *SHORT)
    (folder / "seed-0" / "member.json").unlink()
    _set_trap(folder / "seed-0" / "checkpoint.pt", tmp_path / "sprung", "bare")
    run(tmp_path, *SHORT)
    assert "it is no checkpoint" in caplog.text
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", ["archive", "bare"])
def test_measuring_later_refuses_a_checkpoint_with_a_command_in_it(tmp_path: Path, kind: str) -> None:
    folder = run(tmp_path / "runs", *SHORT)
    _set_trap(folder / "seed-0" / "checkpoints" / "init.pt", tmp_path / "sprung", kind)
    assert measure.main([str(folder), "measurement=recurrent_weights"]) == 1
    assert not (tmp_path / "sprung").exists()
    assert not (folder / "seed-0" / "records" / "recurrent_weights.parquet").exists()
