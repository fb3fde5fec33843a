"""When measurements fire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradhorizon.measurements.schedule import Every, LogSpaced, Schedule

SCHEDULES = [LogSpaced(12), LogSpaced(1), LogSpaced(0), Every(1), Every(7), Every(10_000)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("num_steps", [1, 2, 10, 1000])
def test_inner_steps_lie_strictly_inside_the_run(schedule: Schedule, num_steps: int) -> None:
    assert all(0 < step < num_steps for step in schedule.inner_steps(num_steps))


def test_every_fires_at_each_multiple() -> None:
    assert sorted(Every(25).inner_steps(101)) == [25, 50, 75, 100]


@given(st.integers(1, 40), st.integers(2, 100_000))
def test_log_spaced_fires_at_most_as_often_as_asked(num_points: int, num_steps: int) -> None:
    assert len(LogSpaced(num_points).inner_steps(num_steps)) <= num_points


def test_log_spaced_steps_have_a_constant_ratio() -> None:
    assert sorted(LogSpaced(7).inner_steps(10**6)) == [1, 10, 100, 1000, 10_000, 100_000]


@pytest.mark.parametrize("phase", ["init", "solved", "last"])
@pytest.mark.parametrize("fires", [True, False])
def test_a_phase_fires_exactly_if_chosen(phase: str, fires: bool) -> None:
    others = {f"at_{other}": False for other in ("init", "solved", "last")}
    schedule = LogSpaced(0, **{**others, f"at_{phase}": fires})
    assert schedule.is_due(10, phase, 100) is fires


def test_the_last_look_at_a_member_that_is_frozen_when_solved_is_taken_then() -> None:
    assert LogSpaced(0, at_init=False, at_solved=False, at_last=True).is_due(10, "solved", 100)


def test_a_schedule_for_the_solved_moment_alone_never_fires_where_no_step_is_taken() -> None:
    schedule = Every(1000, at_init=False, at_solved=True, at_last=False)
    schedule.check(100)
    with pytest.raises(ValueError, match="never does"):
        schedule.check(100, sees_solved=False)


@pytest.mark.parametrize("at_last", [True, False])
def test_divergence_ends_training_and_fires_like_the_last_step(at_last: bool) -> None:
    assert LogSpaced(0, at_last=at_last).is_due(10, "diverged", 100) is at_last


@pytest.mark.parametrize(("step", "is_due"), [(0, False), (24, False), (25, True), (100, False)])
def test_training_steps_fire_on_the_schedule_alone(step: int, is_due: bool) -> None:
    assert Every(25).is_due(step, "train", 100) is is_due


def test_a_schedule_that_never_fires_is_refused() -> None:
    never = Every(100, at_init=False, at_solved=False, at_last=False)
    with pytest.raises(ValueError, match=r"at least once in `num_steps`=100, got one that never does: Every"):
        never.check(100)


@pytest.mark.parametrize("phase", ["at_init", "at_solved", "at_last"])
def test_one_phase_is_enough_to_fire(phase: str) -> None:
    choices = dict.fromkeys(["at_init", "at_solved", "at_last"], False)
    Every(100, **{**choices, phase: True}).check(100)


def test_one_inner_step_is_enough_to_fire() -> None:
    Every(99, at_init=False, at_solved=False, at_last=False).check(100)


def test_negative_number_of_points_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_points` must not be negative, got -1"):
        LogSpaced(-1)


@pytest.mark.parametrize("every_steps", [0, -5])
def test_interval_below_one_step_is_refused(every_steps: int) -> None:
    with pytest.raises(ValueError, match="`every_steps` must be at least 1"):
        Every(every_steps)
