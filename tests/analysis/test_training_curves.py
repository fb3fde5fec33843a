"""Training curves against the runs they were written with."""

from __future__ import annotations

from pathlib import Path

from gradhorizon.analysis.figures.training_curves import solving_steps, summarise
from gradhorizon.analysis.reading.cohort import Cohort, read_cohort
from tests.synthetic_runs import SyntheticRun


def test_solved_members_keep_their_last_validation_value_to_the_budget(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(300, 600)).write(tmp_path)
    table = summarise(read_cohort([tmp_path]))
    accuracy = table[table["quantity"] == "accuracy"].set_index("step")
    assert accuracy.index.max() == 1000
    assert accuracy.loc[450, "high"] == 1.0
    assert accuracy.loc[1000, "low"] == 1.0
    assert (accuracy["num_seeds"] == 2).all()


def test_gradient_norms_are_of_the_members_still_training(tmp_path: Path) -> None:
    SyntheticRun(outcomes=(300, 600)).write(tmp_path)
    table = summarise(read_cohort([tmp_path]))
    norms = table[table["quantity"] == "norm_unclipped"].set_index("step")["num_seeds"]
    assert (norms.loc[300], norms.loc[350], norms.index.max()) == (2, 1, 600)


def test_diverged_members_are_not_carried_forward(tmp_path: Path) -> None:
    SyntheticRun(outcomes=("diverged", None)).write(tmp_path)
    table = summarise(read_cohort([tmp_path]))
    seeds = table[table["quantity"] == "loss"].set_index("step")["num_seeds"]
    assert (seeds.loc[300], seeds.loc[350]) == (2, 1)


def test_chance_solved_level_and_clip_norm_stand_beside_their_quantities(cohort: Cohort) -> None:
    table = summarise(cohort)
    levels = table.drop_duplicates("quantity").set_index("quantity")
    assert (levels.loc["loss", "chance"], levels.loc["accuracy", "chance"]) == (0.30, 0.125)
    assert levels.loc["accuracy", "solved_level"] == 0.99
    assert levels["chance"].isna().to_dict() == {
        "loss": False,
        "accuracy": False,
        "norm_unclipped": True,
        "clip_fraction": True,
    }
    assert levels.loc["norm_unclipped", "clip_norm"] == 1.0


def test_each_solved_member_is_marked_at_its_step(cohort: Cohort) -> None:
    solved = solving_steps(cohort)
    steps = solved[(solved["series"] == "lstm") & (solved["seq_len"] == 50)]["solved_step"]
    assert sorted(steps) == [400, 600]
