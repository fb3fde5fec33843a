"""The table of a sweep, in numbers and as people read it, and the sentences made from it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from gradhorizon.analysis import command as figures
from gradhorizon.analysis import verdicts
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort, records
from gradhorizon.analysis.report.findings import findings
from tests.analysis.conftest import HOSTILE
from tests.synthetic_runs import SyntheticRun, exponential

DIGEST = "12345678901234e5"


@pytest.fixture(scope="module")
def table(cohort: Cohort) -> pd.DataFrame:
    return verdicts.summarise(cohort)


def _row(table: pd.DataFrame, series: str = "lstm") -> Any:
    return table[(table["series"] == series) & (table["seq_len"] == 50)].iloc[0]


def test_one_row_per_model_task_and_length(table: pd.DataFrame) -> None:
    assert len(table) == 3
    assert not table.duplicated(["series", "task", "seq_len"]).any()


def test_two_of_three_seeds_solved_and_half_of_them_by_the_second(table: pd.DataFrame) -> None:
    row = _row(table)
    assert (row["num_solved"], row["num_finished"], row["steps_to_solve"]) == (2, 3, 600)
    assert (row["solved_low"], row["solved_high"]) == pytest.approx((0.2077, 0.9385), abs=1e-4)


def test_diverged_member_is_counted_and_never_solved(table: pd.DataFrame) -> None:
    row = _row(table, HOSTILE)
    assert (row["num_diverged"], row["num_solved"], row["num_finished"]) == (1, 1, 3)
    assert math.isinf(row["steps_to_solve"])


def test_diverged_members_are_censored_at_the_budget(tmp_path: Path) -> None:
    # Censored where they broke off, at 300, they would leave one of two at risk to solve at 400.
    SyntheticRun(outcomes=(400, "diverged", "diverged", None)).write(tmp_path)
    assert math.isinf(_row(verdicts.summarise(read_cohort([tmp_path])))["steps_to_solve"])


def test_unfinished_members_are_no_failures_to_solve(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(300, "running", "failed")).write(tmp_path)
    row = _row(verdicts.summarise(read_cohort([tmp_path], is_partial=True)))
    assert (row["num_solved"], row["num_finished"], row["num_unfinished"]) == (1, 1, 2)


def test_spoken_table_says_what_is_censored(table: pd.DataFrame) -> None:
    row = records(table[table["series"] == "lstm"])[0]
    assert verdicts.spoken_horizon(row, "init") == "14"
    assert verdicts.spoken_horizon(row, "trained") == "> 69"
    assert verdicts.spoken_rate(row, "init") == "−0.500"
    assert verdicts.spoken_steps({**row, "steps_to_solve": math.inf}) == "> 1000"


def test_model_whose_seeds_all_diverged_has_a_row_without_an_end(tmp_path: Path) -> None:
    SyntheticRun(outcomes=("diverged", "diverged")).write(tmp_path)
    row = records(verdicts.summarise(read_cohort([tmp_path])))[0]
    assert verdicts.spoken_rate(row, "trained") == "–"
    assert verdicts.spoken_horizon(row, "trained") == "–"
    assert verdicts.spoken_law(row, "trained") == verdicts.short_law(row, "trained") == "–"


def test_markdown_has_as_many_cells_in_every_row_and_no_tags(table: pd.DataFrame) -> None:
    lines = verdicts.markdown(table).splitlines()
    assert {line.count("|") for line in lines[: len(table) + 2]} == {len(verdicts.HEADER) + 1}
    assert "<script" not in "".join(lines)


def test_csv_reads_back_as_the_table(table: pd.DataFrame, tmp_path: Path) -> None:
    verdicts.save(table, tmp_path, DIGEST)
    read = pd.read_csv(tmp_path / "verdicts.csv")
    assert set(read["records_digest"]) == {f"sha256:{DIGEST}"}
    assert f"digest {DIGEST}" in (tmp_path / "verdicts.md").read_text("utf-8")
    assert read["rate_init"].tolist() == pytest.approx(table["rate_init"].tolist(), rel=1e-12)


@pytest.fixture(scope="module")
def decaying(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Five seeds, exponential at init and a power law of exponent about 0.5 after training."""
    root = tmp_path_factory.mktemp("decaying")
    trained = [lambda lags, power=power: np.maximum(lags, 1.0) ** -power for power in (0.48, 0.49, 0.50, 0.51, 0.52)]
    SyntheticRun(
        seq_len=200, input_len=220, init=exponential(-0.5), trained=trained, outcomes=(None,) * 5, num_steps=100
    ).write(root)
    return verdicts.summarise(read_cohort([root]))


def test_table_holds_the_decay_law_with_exponent_interval_and_evidence(decaying: pd.DataFrame) -> None:
    row = decaying.iloc[0]
    assert (row["decay_law_init"], row["decay_law_trained"]) == ("exponential", "power law")
    assert row["power_law_exponent_trained"] == pytest.approx(0.5, abs=1e-9)
    assert 0.47 < row["power_law_exponent_low_trained"] < 0.5 < row["power_law_exponent_high_trained"] < 0.53
    assert row["decay_evidence_low_init"] > 0 > row["decay_evidence_high_trained"]


def test_spoken_law_names_exponent_evidence_or_the_reason(decaying: pd.DataFrame, table: pd.DataFrame) -> None:
    row = records(decaying)[0]
    assert verdicts.spoken_law(row, "trained").startswith("power law, α = 0.50 (0.4")
    assert verdicts.spoken_law({**row, "decay_evidence_init": 1.26}, "init") == "exponential, by 1.3 nats/lag"
    assert verdicts.spoken_law(records(table)[0], "init") == "–"


def test_not_estimable_is_said_once_wherever_the_table_is_shown(table: pd.DataFrame, tmp_path: Path) -> None:
    stream = io.StringIO()
    verdicts.show(table, Console(file=stream, width=verdicts.TERMINAL_WIDTH))
    verdicts.save(table, tmp_path, DIGEST)
    assert len(table) > 1
    assert stream.getvalue().count("not estimable (2 seeds, 3 seeds)") == 1
    assert (tmp_path / "verdicts.md").read_text("utf-8").count("not estimable") == 1
    assert set(pd.read_csv(tmp_path / "verdicts.csv")["verdict_trained"]) == {
        "not estimable (2 seeds)",
        "not estimable (3 seeds)",
    }


def test_what_is_estimable_leaves_nothing_to_say(decaying: pd.DataFrame) -> None:
    assert verdicts.not_estimable(decaying) == ""


def test_interval_is_spoken_with_its_coverage(decaying: pd.DataFrame) -> None:
    assert verdicts.spoken_law(records(decaying)[0], "trained").startswith(
        "power law, α = 0.50 (0.48 to 0.52, 93.75 %)"
    )
    assert decaying["coverage_init"].tolist() == [0.9375]


def test_profile_of_neither_law_is_said_to_be_looked_at(tmp_path: Path) -> None:
    SyntheticRun(init=lambda lags: np.exp(-0.5 * lags) + 1e-4, outcomes=(None,) * 5).write(tmp_path)
    row = records(verdicts.summarise(read_cohort([tmp_path])))[0]
    assert (row["decay_law_init"], verdicts.short_law(row, "init")) == ("neither", "none")
    misfit = f"{100 * row['decay_misfit_init']:.0f} %"
    assert verdicts.spoken_law(row, "init") == f"neither: structured misfit of {misfit}; see its profile"


def test_terminal_shows_the_law_in_a_word(decaying: pd.DataFrame) -> None:
    stream = io.StringIO()
    verdicts.show(decaying, Console(file=stream, width=verdicts.TERMINAL_WIDTH))
    assert "exp → pow" in stream.getvalue()


def test_terminal_table_fits_a_hundred_columns_and_keeps_labels_literal(tmp_path: Path) -> None:
    for model in ("[red]lstm[/red]", "a_rather_long_label_of_a_model"):
        SyntheticRun(model=model, init=exponential(-0.5), num_parameters=12_345_678).write(tmp_path)
    stream = io.StringIO()
    verdicts.show(verdicts.summarise(read_cohort([tmp_path])), Console(file=stream, width=verdicts.TERMINAL_WIDTH))
    assert "[red]lstm[/red]" in stream.getvalue()
    assert "12,345,678" in stream.getvalue()
    assert max(len(line) for line in stream.getvalue().splitlines()) <= verdicts.TERMINAL_WIDTH


def test_findings_name_who_vanishes_and_who_reaches(table: pd.DataFrame) -> None:
    init, trained, solved, diverged, certainty = findings(table)
    assert f"reaches back over the whole sequence in every setting for {HOSTILE}" in init
    assert "for lstm (after 14 steps)" in init
    assert f"in every setting for {HOSTILE} and lstm" in trained
    assert "lstm (4 of 6 members)" in solved
    assert diverged.startswith("1 member diverged")
    assert certainty.startswith("Seeds per setting: 2 to 3.")


def test_findings_of_enough_seeds_have_no_caveat(tmp_path: Path) -> None:
    SyntheticRun(init=exponential(-0.5), outcomes=(200,) * 5).write(tmp_path)
    sentences = findings(verdicts.summarise(read_cohort([tmp_path])))
    assert len(sentences) == 3
    assert sentences[2] == "Solved within the budget: copy_arjovsky2016 by lstm (5 of 5 members)."


def test_findings_of_a_model_that_never_solves_say_so(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(None,) * 5).write(tmp_path)
    found = findings(verdicts.summarise(read_cohort([tmp_path])))
    assert found[2] == "Solved within the budget: copy_arjovsky2016 by nobody."


@pytest.mark.slow
def test_everything_at_once_ends_with_the_files_to_open(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures.main([str(sweep), "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "report.html")
    assert "What was found" in lines
    assert all((tmp_path / name).is_file() for name in ("verdicts.csv", "verdicts.md", "report.html"))
