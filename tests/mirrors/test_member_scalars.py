"""Medians over members that are frozen, diverged or late."""

from __future__ import annotations

import math

import pytest

from gradhorizon.mirrors.member_scalars import MemberScalars, StepCollector, spread_of_members

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 1.0, 2.0], 2.0),
        ([1.0, 2.0], 1.5),
        ([NAN, 5.0, NAN], 5.0),
        ([math.inf, 1.0, 2.0], 2.0),
        ([-math.inf, -math.inf, 0.0], -math.inf),
    ],
)
def test_median_of_members_orders_infinities_and_leaves_nan_out(values: list[float], expected: float) -> None:
    assert spread_of_members(values)["median"] == expected


@pytest.mark.parametrize("values", [[], [NAN], [NAN, NAN]])
def test_median_of_no_number_is_nan(values: list[float]) -> None:
    assert all(math.isnan(value) for value in spread_of_members(values).values())


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([3.0, 1.0, 2.0], 1.0, 3.0), ([NAN, 5.0], 5.0, 5.0), ([math.inf, 1.0, NAN, -math.inf], -math.inf, math.inf)],
)
def test_spread_ends_at_the_smallest_and_the_largest_number(values: list[float], low: float, high: float) -> None:
    spread = spread_of_members(values)
    assert (spread["low"], spread["high"]) == (low, high)


def test_row_holds_every_member_the_median_and_the_range() -> None:
    row = MemberScalars().row({"train/loss": {0: 1.0, 4: 3.0, 2: 8.0}})
    assert row == {
        "train/loss/seed_0": 1.0,
        "train/loss/seed_4": 3.0,
        "train/loss/seed_2": 8.0,
        "train/loss/median": 3.0,
        "train/loss/low": 1.0,
        "train/loss/high": 8.0,
    }


def test_frozen_member_stays_in_median_and_range_but_gets_no_new_point() -> None:
    scalars = MemberScalars()
    scalars.row({"train/loss": {0: 0.01, 1: 5.0, 2: 7.0}})
    row = scalars.row({"train/loss": {1: 4.0, 2: 6.0}})
    spread = {"train/loss/median": 4.0, "train/loss/low": 0.01, "train/loss/high": 6.0}
    assert row == {"train/loss/seed_1": 4.0, "train/loss/seed_2": 6.0, **spread}


def test_row_without_members_is_empty() -> None:
    assert MemberScalars().row({"train/loss": {}}) == {}


def test_row_of_a_step_that_not_all_have_reported_has_no_median() -> None:
    scalars = MemberScalars()
    assert scalars.row({"train/loss": {0: 1.0}}, with_median=False) == {"train/loss/seed_0": 1.0}
    assert scalars.row({"train/loss": {1: 3.0}})["train/loss/median"] == 2.0


def test_step_is_one_row_whatever_the_order_of_reports() -> None:
    collector = StepCollector()
    assert collector.add(5, {"a": {0: 1.0}}) == []
    assert collector.add(5, {"b": {0: 2.0}}) == []
    assert collector.add(5, {"a": {1: 3.0}}) == []
    assert collector.add(10, {"a": {0: 4.0}}) == [(5, {"a": {0: 1.0, 1: 3.0}, "b": {0: 2.0}})]
    assert collector.flush() == [(10, {"a": {0: 4.0}})]
    assert collector.flush() == []


def test_step_waits_for_a_member_that_diverges_while_the_next_is_reported() -> None:
    collector = StepCollector()
    collector.add(8, {"a": {0: 1.0}})
    assert collector.add(9, {"a": {0: 2.0}}) == []
    assert collector.add(8, {"a": {1: 5.0}}) == []
    assert collector.add(12, {"a": {0: 3.0}}) == [(8, {"a": {0: 1.0, 1: 5.0}}), (9, {"a": {0: 2.0}})]


def test_steps_that_go_back_complete_what_was_gathered() -> None:
    collector = StepCollector()
    collector.add(40, {"a": {0: 1.0}})
    assert collector.add(20, {"a": {1: 2.0}}) == [(40, {"a": {0: 1.0}})]
    assert collector.add(20, {"b": {1: 3.0}}) == []
    assert collector.flush() == [(20, {"a": {1: 2.0}, "b": {1: 3.0}})]
