"""Which members are analysed together, how they are named, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gradhorizon.analysis.reading.cohort import RESERVED_COLORS, Cohort, absence, read_cohort
from gradhorizon.analysis.reading.stages import staged
from gradhorizon.records.tables import RecordsError
from tests.analysis.conftest import HOSTILE
from tests.synthetic_runs import SyntheticRun


def test_label_without_a_colour_takes_the_reserved_cycle(cohort: Cohort) -> None:
    look = cohort.look.set_index("series")
    assert look.loc[HOSTILE, "color"] == RESERVED_COLORS[0]
    assert look.loc["lstm", "color"] == "#0072B2"
    assert look["marker"].notna().all()


@pytest.mark.parametrize("color", ["red;}body{display:none", "#12", ""])
def test_text_that_is_no_colour_is_not_used(tmp_path: Path, color: str) -> None:
    SyntheticRun(color=color).write(tmp_path)
    assert read_cohort([tmp_path]).look["color"].tolist() == [RESERVED_COLORS[0]]


@pytest.mark.parametrize(("outcome", "status"), [("running", "queued"), ("failed", "failed: for reasons that nobody")])
def test_unfinished_members_are_refused_by_name(tmp_path: Path, outcome: str, status: str) -> None:
    SyntheticRun(outcomes=(400, outcome)).write(tmp_path)
    with pytest.raises(RecordsError, match=rf"(?s)1 records are missing.*seed-1: {status}.*--partial"):
        read_cohort([tmp_path])


def test_unfinished_members_are_tolerated_on_request(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(400, "running")).write(tmp_path)
    assert read_cohort([tmp_path], is_partial=True).unfinished["seed"].tolist() == [1]


def test_what_members_lack_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    SyntheticRun().write(tmp_path)
    SyntheticRun(model="gru", outcomes=(400, None), tables=("metrics",)).write(tmp_path)
    cohort = read_cohort([tmp_path])
    assert absence(cohort, ["metrics", "input_gradients"]) == (
        "not recorded, so not drawn: input_gradients of 2 of 5 members; "
        "`gradhorizon-measure RUNS measurement=input_gradients` adds input_gradients"
    )
    assert absence(cohort, ["metrics"]) == ""


def test_a_table_that_members_may_still_write_is_not_called_absent(tmp_path: Path) -> None:
    SyntheticRun(outcomes=("running",), tables=("metrics",)).write(tmp_path)
    assert absence(read_cohort([tmp_path], is_partial=True), ["input_gradients"]) == ""


def test_folders_pool_seeds_of_one_configuration(tmp_path: Path) -> None:
    SyntheticRun(experiment="first").write(tmp_path / "a")
    SyntheticRun(experiment="second", first_seed=3).write(tmp_path / "b")
    cohort = read_cohort([tmp_path / "a", tmp_path / "b"])
    assert cohort.members["seed"].tolist() == [0, 1, 2, 3, 4, 5]
    assert cohort.look["series"].tolist() == ["lstm"]


def test_configurations_of_one_model_are_told_apart(tmp_path: Path) -> None:
    for hidden_size in (32, 64):
        SyntheticRun(hidden_size=hidden_size).write(tmp_path)
    cohort = read_cohort([tmp_path])
    assert cohort.look["series"].tolist() == ["lstm (hidden_size=32)", "lstm (hidden_size=64)"]
    assert cohort.look["color"].nunique() == 2


def test_a_field_that_is_absent_in_one_configuration_is_named(tmp_path: Path) -> None:
    for clip_norm in (1.0, None):
        SyntheticRun(clip_norm=clip_norm).write(tmp_path)
    assert read_cohort([tmp_path]).look["series"].tolist() == ["lstm (clip_norm=1)", "lstm (clip_norm=null)"]


def test_configurations_without_a_telling_difference_carry_their_identity(tmp_path: Path) -> None:
    first, second = SyntheticRun(untold="learning rate"), SyntheticRun()
    for run in (first, second):
        run.write(tmp_path)
    assert set(read_cohort([tmp_path]).look["series"]) == {f"lstm ({run.identity[:6]})" for run in (first, second)}


def test_many_variants_of_one_label_never_look_the_same(tmp_path: Path) -> None:
    for hidden_size in range(1, 40):
        SyntheticRun(hidden_size=hidden_size, outcomes=(None,), tables=()).write(tmp_path)
    look = read_cohort([tmp_path]).look
    assert len(look) == 39
    assert not look.duplicated(["color", "marker"]).any()


def test_no_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no run found"):
        read_cohort([tmp_path])


def test_the_end_is_the_last_look_of_members_that_did_not_diverge(cohort: Cohort) -> None:
    rows = staged(cohort, cohort.table("input_gradients"))
    end = rows[(rows["stage"] == "after training") & (rows["series"] == HOSTILE)]
    assert end.groupby("seed")["step"].unique().map(list).to_dict() == {0: [1000], 2: [200]}


def test_a_member_that_solved_and_then_diverged_has_no_end(cohort: Cohort) -> None:
    rows = cohort.table("input_gradients")
    diverged = rows[rows["phase"] == "diverged"]
    again = staged(cohort, pd.concat([rows, diverged.assign(phase="solved", step=100)]))
    assert len(diverged) > 0
    assert len(again) == len(staged(cohort, rows))


def test_a_member_with_both_last_phases_at_one_step_counts_once(cohort: Cohort) -> None:
    rows = cohort.table("input_gradients")
    solved = rows[rows["phase"] == "last"].assign(phase="solved")
    doubled = pd.concat([rows, solved], ignore_index=True)
    assert len(solved) > 0
    assert len(staged(cohort, doubled)) == len(staged(cohort, rows))
