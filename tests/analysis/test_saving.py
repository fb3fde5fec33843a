"""Files of analysis: whole or not at all, whatever a label holds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from gradhorizon.analysis import command as figures
from gradhorizon.analysis.drawing import appearance
from gradhorizon.analysis.drawing.markdown import noted_table
from gradhorizon.analysis.drawing.saving import save_table, save_text
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.analysis.reading.naming import printable
from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.layout import RUN_SHEET
from gradhorizon.records.tables import RecordsError
from tests.programs import draw_report
from tests.synthetic_runs import SyntheticRun

ODD_LABELS = (
    r"$\bad{", r"$\frac{", r"$x$ and \$y", "_under", " ", "a\x1b[31mb", "turn\u202eabc", "line\nline", "نموذج שלום",
    "🧠 汉字", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "__proto__", "${style} {0} %s",
    "[click](javascript:alert(1))", '{"signal":"width"}', ":warning:", "long " * 60,
)  # fmt: skip


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_message_and_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, out = tmp_path / "runs", tmp_path / "figures"
    SyntheticRun(outcomes=(300,)).write(runs)
    figures.main([str(runs), "--out", str(out)])
    before = {path: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(SystemExit, match="No space left on device") as refusal:
        figures.main([str(runs), "--out", str(out)])
    assert "\n" not in str(refusal.value)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: save_text("new", path),
    "table": lambda path: save_table(pd.DataFrame({"a": [1]}), path, "0"),
    "figure": lambda path: appearance.save({path.stem: lambda: appearance.panels(1, 1)[0]}, path.parent),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_no_writer_truncates_what_is_there(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.png"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(RecordsError):
        WRITERS[kind](path)
    assert [(one.name, one.read_text(encoding="utf-8")) for one in tmp_path.iterdir()] == [(path.name, "old")]


def test_odd_labels_are_drawn_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, label in enumerate(ODD_LABELS):
        sheet = SyntheticRun(model=f"m{number}", outcomes=(300,)).write(tmp_path / "runs") / RUN_SHEET
        write_json(read_json(sheet) | {"model": label}, sheet)
    figures.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 3
    assert "<img src=x" not in page
    said = capsys.readouterr()
    assert len(said.err.splitlines()) <= 1
    assert "\x1b[31m" not in said.out + page
    assert ":warning:" in said.out
    assert set(read_cohort([tmp_path / "runs"]).look["series"]) == {printable(label) for label in ODD_LABELS}


def test_labels_that_are_spelled_alike_stay_apart(tmp_path: Path) -> None:
    for number, label in enumerate(["a\x07", "a\\u0007"]):
        sheet = SyntheticRun(model=f"m{number}", untold=str(number)).write(tmp_path) / RUN_SHEET
        write_json(read_json(sheet) | {"model": label}, sheet)
    assert len(read_cohort([tmp_path]).look) == 2


def test_a_label_that_is_no_text_is_one_message(tmp_path: Path) -> None:
    sheet = SyntheticRun(outcomes=(300,)).write(tmp_path) / RUN_SHEET
    write_json(read_json(sheet) | {"model": "\ud800"}, sheet)
    with pytest.raises(SystemExit, match=r"^Error: [^\n]*run\.json cannot be read [^\n]* no character"):
        draw_report([str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [(r"a\|b", r"a\\\|b"), ("[a](b)", r"[a]\(b)"), ("`a`", r"\`a\`"), ("a_b [1,2]", "a_b [1,2]"), ("<b>", "&lt;b>")],
)
def test_a_cell_of_a_markdown_table_is_text(cell: str, expected: str) -> None:
    assert noted_table(["x"], [[cell]]).splitlines()[2] == f"| {expected} |"


def test_stems_of_different_tasks_are_different_and_fit_a_file_name() -> None:
    tasks = ["a/b", "a_b", "a b", "t" * 400, "t" * 401, "汉" * 200]
    stems = [appearance.stem("gradient_profile", task) for task in tasks]
    assert len(set(stems)) == len(tasks)
    assert max(len(stem.encode()) for stem in stems) < 200
    assert appearance.stem("gradient_profile", "a_b") == "gradient_profile-a_b"
