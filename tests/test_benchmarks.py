"""Every benchmark at toy size: it runs, its table is whole, and its arithmetic is right; no time is asserted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import all as every_benchmark
from benchmarks import harness, instrument, long_sequence, loop, probe, records, sweep, throughput, unroll
from benchmarks.table import COLUMNS, Result, as_table, markdown
from benchmarks.timing import Spread, interleaved, ratio, spread
from gradhorizon.cells.diagonal_linear import DiagonalLinear
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.jacobians.exponents import finite_time_exponents
from gradhorizon.jacobians.one_step import StepJacobians
from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.measurements.schedule import LogSpaced

TINY_RUN = (
    "logger=none",
    "task=adding_arjovsky2016",
    "seq_len=6",
    "hidden_size=3",
    "batch_size=2",
    "val_size=4",
    "probe_batch_size=2",
    "num_cuts=3",
)
TOY: dict[str, Callable[[], pd.DataFrame]] = {
    "unroll": partial(unroll.measure, rounds=1, loop_rounds=1, sizes=((6, 2, 3),)),
    "records": partial(records.measure, rounds=1, num_members=5, hidden_size=3),
    "loop": partial(loop.measure, rounds=1, hidden_size=3, settings=((GRU, 6), (DiagonalLinear, 6))),
    "probe": partial(probe.measure, rounds=1, seq_len=6, batch_size=2, hidden_size=3),
    "instrument": partial(
        instrument.measure, rounds=1, state_size=16, spectrum_len=6, hidden_size=8, seq_len=6, suite_len=6
    ),
    "harness": partial(harness.measure, rounds=1, short_steps=2, long_steps=4, overrides=TINY_RUN),
    "throughput": partial(throughput.measure, rounds=2, num_runs=4, hidden_sizes=(3,)),
    "sweep": partial(sweep.measure, rounds=1, num_runs=2),
    "long_sequence": partial(long_sequence.measure, input_len=40, recompute_every=7),
}


@functools.cache
def toy_table(name: str) -> pd.DataFrame:
    """A benchmark's table at toy size, without the fresh interpreters that peak memory needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_sequence, "in_own_process", _profile_here)
        patch.setattr(throughput, "sweep", _sweep_of_half_a_second)
        return TOY[name]()


def _profile_here(dtype: str, num_threads: int, input_len: int, recompute_every: int) -> long_sequence.Profile:
    del num_threads
    return long_sequence.measure_here(getattr(torch, dtype), input_len, recompute_every)


def _sweep_of_half_a_second(
    hidden_size: int, num_steps: int, num_runs: int, launcher: tuple[str, ...]
) -> throughput.Sweep:
    del hidden_size, num_steps, launcher
    return throughput.Sweep((0.5,) * num_runs, from_first_start_s=0.4 * num_runs)


@pytest.mark.slow
def test_a_sweep_of_the_throughput_benchmark_trains_all_its_runs() -> None:
    done = throughput.sweep(3, num_steps=2, num_runs=2, launcher=("hydra/launcher=local",))
    assert len(done.runs_wall_s) == 2
    assert 0 < max(done.runs_wall_s) < done.from_first_start_s


@pytest.mark.parametrize("name", every_benchmark.BENCHMARKS)
def test_a_benchmark_at_toy_size_fills_the_columns_of_the_table(name: str) -> None:
    table = toy_table(name)
    assert tuple(table.columns) == COLUMNS
    assert len(table) > 0
    assert np.isfinite(table[["value", "median", "low", "high"]].to_numpy(dtype=float)).all()


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("unroll", [1.05, 1.02]),
        ("probe", [1.15, 6.0, 1.15, 6.0]),
        ("instrument", [100.0, 5.0, 100.0, 5.0, *[2.0] * 6, *[10.0] * 3]),
        ("harness", [1.15, 5.0]),
        ("throughput", [1.5, 1.0, 0.5]),
        ("long_sequence", [1.0, 0.0, 0.0]),
    ],
)
def test_every_target_is_held_against_a_line_of_its_own(name: str, targets: list[float]) -> None:
    assert toy_table(name)["target"].dropna().tolist() == targets


def test_every_benchmark_module_is_part_of_the_whole() -> None:
    folder = Path(unroll.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if "def measure(" in path.read_text(encoding="utf-8")}
    assert set(every_benchmark.BENCHMARKS) == modules


def test_interleaved_runs_every_callable_once_in_every_round() -> None:
    calls: list[str] = []
    interleaved({name: partial(calls.append, name) for name in "abc"}, rounds=7, warm_up=2)
    rounds = [frozenset(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert rounds == [frozenset("abc")] * 9


def test_warm_up_rounds_are_not_counted() -> None:
    seconds = interleaved({"a": list}, rounds=4, warm_up=3)
    assert seconds["a"].shape == (4,)
    assert (seconds["a"] > 0).all()


def test_ratio_is_that_of_the_medians_and_beside_it_that_of_the_rounds() -> None:
    seconds = {"new": np.array([2.0, 3.0, 10.0]), "old": np.array([1.0, 2.0, 4.0])}
    assert ratio(seconds, "new", "old") == Spread(of_medians=1.5, median=2.0, low=1.5, high=2.5)


def test_spread_of_a_difference_uses_timings_of_the_same_round() -> None:
    seconds = {"long": np.array([5.0, 50.0]), "short": np.array([1.0, 10.0])}
    found = spread(seconds, lambda own: own["long"] - own["short"])
    assert (found.low, found.high) == (4.0, 40.0)


@pytest.mark.parametrize(("value", "is_met"), [(1.04, "yes"), (1.06, "**no**")])
def test_markdown_says_whether_a_target_is_met(value: float, is_met: str) -> None:
    table = as_table([Result("step", "T1", Spread(value, 1.0, 0.9, 1.1), target=1.05)])
    assert markdown(table).endswith(f"| ≤ 1.05 × | {is_met} |")


@pytest.mark.parametrize(("value", "is_met"), [(99.0, "**no**"), (101.0, "yes")])
def test_a_floor_is_met_from_above(value: float, is_met: str) -> None:
    table = as_table([Result("exponents", "S256", Spread(value, 1.0, 0.9, 1.1), target=100.0, is_floor=True)])
    assert markdown(table).endswith(f"| ≥ 100 × | {is_met} |")


def test_the_loop_that_exponents_are_timed_against_finds_the_same_ones() -> None:
    torch.manual_seed(0)
    cell, x = LSTM(2, 4).double(), torch.randn(1, 12, 2, dtype=torch.float64)
    expected = instrument.jacobian_loop(cell, x, num_vectors=8)
    found = finite_time_exponents(StepJacobians(cell, x), torch.eye(8).unsqueeze(0))[0, 0]
    torch.testing.assert_close(expected.sort(descending=True).values, found, rtol=1e-9, atol=0)


def test_markdown_leaves_out_a_target_that_there_is_not() -> None:
    table = as_table([Result("step", "T1", Spread(2.0, 2.0, 2.0, 2.0), unit="s")])
    assert markdown(table).endswith("| step | T1 | 2 s | — | — | — |")


def test_all_training_step_variants_compute_the_same_loss() -> None:
    steps = unroll.training_steps(num_steps=9, batch_size=4, hidden_size=5)
    losses = {name: float([step() for _ in range(3)][-1]) for name, step in steps.items()}
    assert set(losses) == {"bare", "bare again", "no cuts", "32 cuts", "LSTMCell loop"}
    np.testing.assert_allclose(list(losses.values()), losses["bare"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("num_steps", [40, 100, 200])
def test_as_many_distinct_cuts_as_named_are_made(num_steps: int) -> None:
    cuts = unroll.distinct_cuts(num_steps, 32)
    assert len(set(cuts)) == len(cuts) == 32
    assert (cuts[0], cuts[-1]) == (0, num_steps)


def test_the_default_measurements_fire_as_often_in_the_long_run_as_in_a_full_one() -> None:
    probes = {"input_gradients", "state_gradients", "gates"}
    long, full = (harness.probe_counts(steps) for steps in (harness.LONG_STEPS, harness.FULL_RUN_STEPS))
    assert {name: long[name] for name in probes} == {name: full[name] for name in probes}


def test_probe_benchmark_times_the_default_probe_measurements() -> None:
    named = harness.composed().measurement
    defaults = {node["_target_"].split(".")[-1] for name, node in named.items() if name != "parameter_gradients"}
    assert {type(measurement).__name__ for measurement in probe.default_measurements()} == defaults


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_profile_reaches_the_first_input_under_chrono_biases(dtype: torch.dtype) -> None:
    found = long_sequence.measure_here(dtype, input_len=40, recompute_every=7)
    assert (found.num_non_finite, found.longest_lag) == (0, 39)


def test_recomputed_long_profile_equals_the_stored_one() -> None:
    profiles = [
        InputGradients(LogSpaced()).read(long_sequence.long_probe(torch.float64, 60, every)) for every in (7, 60)
    ]
    pd.testing.assert_frame_equal(profiles[0], profiles[1], check_exact=False, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("first_alive", "expected"), [(0, 9), (4, 5), (9, 0), (10, -1)])
def test_longest_lag_is_that_of_the_earliest_gradient_that_is_not_exactly_zero(first_alive: int, expected: int) -> None:
    gradient = torch.zeros(2, 10, 3, dtype=torch.float64)
    gradient[1, first_alive:, 0] = 1e-300
    assert long_sequence.longest_lag(gradient) == expected
