"""Profiles of members over training: true zeros, frozen members, earlier launches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.mirrors.profiles import MAX_LAGS, HeatMap, ProfileHistory, median_over_members
from gradhorizon.records.writing import MemberRecords
from tests.mirrors.rows import input_gradient_rows
from tests.records_on_disk import commit


def heat_map(history: ProfileHistory) -> HeatMap:
    heat = history.heat_map()
    assert heat is not None
    return heat


def test_profile_is_the_log10_of_the_relative_norm_by_ascending_lag() -> None:
    history = ProfileHistory((0,))
    history.add(input_gradient_rows(0, 0, "init", [1.0, 1e-2, 1e-300]))
    profile = history.at("init")
    assert profile.index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(profile[0], [0.0, -2.0, -300.0], rtol=1e-12)


def test_true_zero_is_minus_infinity_and_no_small_number() -> None:
    history = ProfileHistory((0,))
    history.add(input_gradient_rows(0, 0, "init", [1.0, 0.0]))
    assert history.at("init")[0].tolist() == [0.0, -np.inf]


def test_heat_map_takes_the_median_over_members_step_by_step() -> None:
    history = ProfileHistory((0, 1, 2))
    for seed, norm in enumerate([1e-1, 1e-3, 1e-4]):
        history.add(input_gradient_rows(seed, 0, "init", [1.0, norm]))
        history.add(input_gradient_rows(seed, 7, "last", [1.0, norm * 100]))
    heat = heat_map(history)
    assert (heat.steps, heat.lags, heat.num_members) == ([0, 7], [0, 1], 3)
    np.testing.assert_allclose(heat.values, [[0.0, -3.0], [0.0, -1.0]], rtol=1e-12, atol=1e-12)


def test_frozen_member_keeps_its_last_profile_in_the_heat_map() -> None:
    history = ProfileHistory((0, 1, 2))
    for seed in range(3):
        history.add(input_gradient_rows(seed, 0, "init", [1.0, 1e-6]))
    history.add(input_gradient_rows(0, 5, "solved", [1.0, 1e-1]))
    history.add(input_gradient_rows(1, 9, "last", [1.0, 1e-4]))
    history.add(input_gradient_rows(2, 9, "last", [1.0, 1e-5]))
    heat = heat_map(history)
    np.testing.assert_allclose(heat.values[:, 1], [-6.0, -6.0, -4.0], rtol=1e-12)


def test_member_that_measured_nothing_does_not_count() -> None:
    history = ProfileHistory((0, 1))
    history.add(input_gradient_rows(0, 0, "init", [1.0]))
    assert heat_map(history).num_members == 1


def test_last_profile_is_each_members_own_last() -> None:
    history = ProfileHistory((0, 1))
    history.add(input_gradient_rows(0, 5, "solved", [1.0, 1e-1]))
    history.add(input_gradient_rows(1, 5, "train", [1.0, 1e-7]))
    history.add(input_gradient_rows(1, 9, "diverged", [1.0, 1e-3]))
    last = history.at("last").loc[1]
    np.testing.assert_allclose(last.to_numpy(), [-1.0, -3.0, -2.0], rtol=1e-12)


def test_solved_profile_shows_solved_members_alone() -> None:
    history = ProfileHistory((0, 1))
    history.add(input_gradient_rows(0, 5, "solved", [1.0, 1e-1]))
    history.add(input_gradient_rows(1, 5, "train", [1.0, 1e-7]))
    assert history.at("solved").columns.tolist() == [0, "median"]


def test_moment_that_nobody_reached_has_no_profile() -> None:
    assert ProfileHistory((0,)).at("solved").empty


def test_nothing_measured_gives_no_heat_map() -> None:
    assert ProfileHistory((0, 1)).heat_map() is None


def test_long_profile_is_thinned_but_keeps_both_ends_and_short_lags() -> None:
    history = ProfileHistory((0,))
    history.add(input_gradient_rows(0, 0, "init", np.full(20_000, 0.5).tolist()))
    lags = history.at("init").index.tolist()
    assert len(lags) <= MAX_LAGS
    assert lags[:10] == list(range(10))
    assert lags[-1] == 19_999


def test_profiles_of_an_earlier_launch_are_read_from_the_records(tmp_path: Path) -> None:
    frame = input_gradient_rows(3, 0, "init", [1.0, 1e-2])
    own = {column.name: column.dtype for column in InputGradients.table.columns}
    filled = frame.assign(**{name: 0 for name in own if name not in frame})[list(own)]
    filled = filled.astype({name: dtype for name, dtype in own.items() if dtype != "string"})
    lead = {
        name: frame[name].tolist()[0] for name in ("experiment", "run", "model", "task", "seq_len", "input_len", "seed")
    }
    records = MemberRecords(tmp_path / "seed-3", lead)
    records.append(InputGradients.table, filled, 0, "init")
    records.append(InputGradients.table, filled, 8, "train")
    commit(records, 8)
    history = ProfileHistory((3, 4))
    history.add_recorded(tmp_path)
    assert heat_map(history).steps == [0, 8]
    assert history.at("init")[3].tolist() == [0.0, -2.0]


@pytest.mark.parametrize("num_members", [1, 2, 5, 6])
def test_median_over_members_is_that_of_numpy_where_numbers_are_finite(num_members: int) -> None:
    values = np.random.default_rng(1).normal(size=(num_members, 4, 7))
    values[num_members // 2 :, 1] = np.nan if num_members > 1 else 0.0
    np.testing.assert_array_equal(median_over_members(values), np.nanmedian(values, axis=0))


def test_median_over_members_counts_zeros_as_the_smallest() -> None:
    logs = np.array([[-np.inf], [-2.0], [-np.inf]])
    assert np.isneginf(median_over_members(logs)).all()
