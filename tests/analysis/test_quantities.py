"""Every declared quantity over seeds, against a slow twin and against records whose truth is known."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gradhorizon.analysis import figures
from gradhorizon.analysis.figures import (
    gates,
    gradient_horizon,
    lyapunov_spectrum,
    precision,
    recurrent_weights,
    state_gradients,
    state_jacobians,
)
from gradhorizon.analysis.quantities.declared import Quantity
from gradhorizon.analysis.quantities.over_seeds import summarise
from gradhorizon.analysis.reading.cohort import read_cohort
from gradhorizon.theory import newman_exponents
from tests.analysis.recorded import TABLES, record
from tests.synthetic_runs import SyntheticRun, exponential

QUANTITIES = {
    section.stem: section
    for module in figures.found().values()
    for section in module.SECTIONS
    if isinstance(section, Quantity)
}
_WHOLE = [({"component": "all", "part": part}, f"whole state · {said}")
          for part, said in (("through_time", "through time"), ("direct", "direct"), ("total", "total"))]  # fmt: skip
FACETS: dict[str, list[tuple[dict[str, Any], str | None]]] = {
    "gates": [({"gate": "input_gate"}, "input gate"), ({"gate": "forget_gate"}, "forget gate")],
    "state_gradients": [
        *_WHOLE,
        ({"component": "h", "part": "through_time"}, "h · through time"),
        ({"component": "c", "part": "through_time"}, "c · through time"),
        ({"component": "c", "part": "direct"}, None),
    ],
    "parameter_gradients": [({"parameter": "cell.weight"}, "cell.weight"), ({"parameter": "total"}, None)],
    "gradient_noise": [({"parameter": "total"}, "total"), ({"parameter": "cell.weight"}, "cell.weight")],
    "recurrent_weights": [({"matrix": "weight_hh"}, "weight_hh")],
    "precision": [
        ({"dtype": "float16", "loss_scale": 1.0}, "float16"),
        ({"dtype": "float16", "loss_scale": 8.0}, "float16 · loss × 8"),
        ({"dtype": "float64", "loss_scale": 1.0}, None),
    ],
    "cost": [
        (
            {"device": "cpu", "precision": "32-true", "num_threads": 1, "batch_size": 32},
            "cpu, 32-true, 1 thread, batch 32",
        )
    ],
}
"""Table -> what distinguishes its rows, and the words of the panel that draws them; None for none."""
DERIVED = {
    "modulus": {"eigenvalue_real": 0.6, "eigenvalue_imag": 0.8},
    "lost": {"fraction_zero": 0.25, "fraction_subnormal": 0.75},
}
"""Column of a vertical axis -> the recorded columns that it is made of, and their share of the value."""
BYTES = {"saved_for_backward_bytes": 2**20, "peak_allocated_bytes": 2**20}
SPECTRA = {"lyapunov_spectrum", "hidden_block_spectrum", "autonomous_spectrum"}
STEPS = {0: "init", 7: "train", 1000: "last"}
PLACES = (1, 2, 5)


def kinds_of(quantity: Quantity) -> list[tuple[dict[str, Any], str | None]]:
    """As in `FACETS`; of a table that is not there, two names for each column that has panels of its own."""
    if quantity.table in FACETS:
        return FACETS[quantity.table]
    names = [{column: f"{column}_{which}" for column, _ in quantity.facets} for which in ("one", "other")]
    words = [" · ".join(say(facet[column]) for column, say in quantity.facets) for facet in names]
    return list(zip(names, words, strict=True)) if quantity.facets else [({}, "")]


def rows_of(quantity: Quantity, values: np.random.Generator) -> pd.DataFrame:
    """One member's rows of a quantity's table, with a value for each facet, step and place."""
    rows = []
    for (facet, _), (step, phase) in itertools.product(kinds_of(quantity), STEPS.items()):
        for place in PLACES if quantity.is_staged else (0,):
            own = {"step": step, "phase": phase, **facet}
            own |= {quantity.x.column: place} if quantity.is_staged else {}
            for y in quantity.ys:
                value = int(values.integers(1, 10**6))
                parts = DERIVED.get(y.column, {y.column: 1})
                own |= {name: value * share for name, share in parts.items()}
            rows.append(own)
    return pd.DataFrame(rows)


def is_plain(quantity: Quantity) -> bool:
    """Whether the rows that are drawn are those of the table, or those that `FACETS` says."""
    return quantity.rows is None and (quantity.keep is None or quantity.table in FACETS)


def twin(quantity: Quantity, members: Sequence[pd.DataFrame]) -> dict[tuple[str, str, str, int], tuple[float, ...]]:
    """(axis, facet, stage, place) -> median, low, high: by loops over what was recorded."""
    found: dict[tuple[str, str, str, int], list[float]] = {}
    for rows, (facet, words) in itertools.product(members, kinds_of(quantity)):
        if words is None:
            continue
        for row, y in itertools.product(rows.to_dict("records"), quantity.ys):
            if any(row[name] != value for name, value in facet.items()):
                continue
            stage = {0: "at init", 1000: "after training"}.get(row["step"], "")
            if quantity.is_staged and not stage:
                continue
            parts = DERIVED.get(y.column, {y.column: 1})
            if y.column == "modulus":
                value = math.sqrt(sum(row[name] ** 2 for name in parts))
            else:
                value = sum(row[name] for name in parts) / BYTES.get(y.column, 1)
            place = row[quantity.x.column]
            found.setdefault((y.column, words, stage if quantity.is_staged else "", place), []).append(value)
    return {key: _of_seeds(values) for key, values in found.items()}


def _of_seeds(values: Sequence[float]) -> tuple[float, ...]:
    ordered = sorted(values)
    low, high = (ordered[1], ordered[3]) if len(ordered) == 5 else (ordered[0], ordered[-1])
    return statistics.median(ordered), low, high


def summary(quantity: Quantity, root: Path, members: Sequence[pd.DataFrame], **settings: Any) -> pd.DataFrame:
    """The summary of one run whose members recorded these rows."""
    settings = {"outcomes": (None,) * len(members), "tables": (), **settings}
    record(SyntheticRun(**settings), root, quantity.table, members)
    return summarise(quantity, read_cohort([root]))


@pytest.mark.parametrize("num_seeds", [1, 2, 5])
@pytest.mark.parametrize("stem", [stem for stem, one in QUANTITIES.items() if is_plain(one)])
def test_summary_is_what_loops_over_the_seeds_find(stem: str, num_seeds: int, tmp_path: Path) -> None:
    quantity = QUANTITIES[stem]
    members = [rows_of(quantity, np.random.default_rng([seed, num_seeds])) for seed in range(num_seeds)]
    table = summary(quantity, tmp_path, members)
    found = {(row.quantity, row.facet, row.stage, row.x): (row.median, row.low, row.high) for row in table.itertuples()}
    expected = twin(quantity, members)
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-12), key
    assert set(table["num_seeds"]) == set(table["num_members"]) == {num_seeds}
    assert not table["is_partial"].any()


def test_every_table_that_a_run_may_write_has_a_figure() -> None:
    declared = {table for module in figures.found().values() for table in module.TABLES}
    assert declared == set(TABLES)
    for name, module in figures.found().items():
        for section in module.SECTIONS:
            assert getattr(section, "table", module.TABLES[0]) in module.TABLES, name


def test_sections_and_stems_are_told_apart() -> None:
    sections = [section for module in figures.found().values() for section in module.SECTIONS]
    assert len({section.title for section in sections}) == len(sections)
    assert len(QUANTITIES) == sum(isinstance(section, Quantity) for section in sections)
    first = sorted(sections, key=lambda section: section.number)[:3]
    assert [section.title for section in first] == [
        "How far back the gradient reaches", "Reach against sequence length", "Training",
    ]  # fmt: skip


def test_every_axis_has_a_unit() -> None:
    for stem, quantity in QUANTITIES.items():
        for axis in (quantity.x, *quantity.ys):
            assert axis.label.endswith("]"), stem
            assert " [" in axis.label, stem


GATE = gates.SECTIONS[0]
STATE = state_gradients.SECTIONS[0]


def norms(values: Sequence[float], step: int = 0, phase: str = "init") -> pd.DataFrame:
    """State gradients of a state of one component at lags 0, 1, …, in total."""
    lags = np.arange(len(values))
    return pd.DataFrame({"lag": lags, "relative_gradient_norm_median": values, "step": step, "phase": phase,
                         "direction": "forward", "component": "all", "part": "total"})  # fmt: skip


def test_zeros_are_not_averaged_with_numbers(tmp_path: Path) -> None:
    members = [norms([1.0, 0.0, 0.0, 1e-3]), norms([1.0, 1e-4, 0.0, 1e-5])]
    table = summary(STATE, tmp_path, members).set_index("x")
    assert table["median"].tolist() == [1.0, 0.0, 0.0, (1e-3 + 1e-5) / 2]
    assert table["low"].tolist() == [1.0, 0.0, 0.0, 1e-5]
    assert table["high"].tolist() == [1.0, 1e-4, 0.0, 1e-3]


def test_infinities_are_not_averaged_with_numbers(tmp_path: Path) -> None:
    jacobians = state_jacobians.SECTIONS[0]
    values = ([-1.0, -np.inf, 3.0], [-3.0, -2.0, np.inf])
    members = [
        pd.DataFrame({"lag": [0, 1, 2], "log10_condition_median": own, "step": 0, "phase": "init"}) for own in values
    ]
    table = summary(jacobians, tmp_path, members)
    assert table.loc[table["quantity"] == "log10_condition_median", "median"].tolist() == [-2.0, -np.inf, np.inf]


def test_nan_is_left_out_and_counted(tmp_path: Path) -> None:
    members = [norms([1.0, np.nan, np.nan]), norms([2.0, 4.0, np.nan]), norms([3.0, 5.0, 7.0])]
    table = summary(STATE, tmp_path, members).set_index("x")
    assert table["median"].tolist() == [2.0, 4.5, 7.0]
    assert table["num_not_numbers"].tolist() == [0, 1, 2]
    assert table["is_partial"].tolist() == [False, False, True]


def test_all_nan_has_no_median_and_all_zeros_are_zeros(tmp_path: Path) -> None:
    table = summary(STATE, tmp_path, [norms([np.nan, 0.0])] * 2).set_index("x")
    assert table["median"].isna().tolist() == [True, False]
    assert table.loc[[1], ["median", "low", "high"]].to_numpy().tolist() == [[0.0, 0.0, 0.0]]


def test_one_step_and_one_seed_are_a_point(tmp_path: Path) -> None:
    table = summary(STATE, tmp_path, [norms([1.0])], seq_len=1, input_len=1)
    assert table[["x", "median", "low", "high", "num_members"]].to_numpy().tolist() == [[0, 1, 1, 1, 1]]


def test_state_of_one_unit_has_one_exponent(tmp_path: Path) -> None:
    rows = pd.DataFrame({"exponent": [1], "exponent_median_nats_per_step": [-0.7], "step": 0, "phase": "init"})
    table = summary(lyapunov_spectrum.SECTIONS[0], tmp_path, [rows])
    assert table[["x", "median"]].to_numpy().tolist() == [[1, -0.7]]


def test_exponent_below_resolution_is_smaller_than_all_others(tmp_path: Path) -> None:
    values = ([-1.0, np.nan], [-2.0, np.nan], [-3.0, -9.0])
    members = [
        pd.DataFrame({"exponent": [1, 2], "exponent_median_nats_per_step": own, "num_below_resolution": [0, 8],
                      "step": 0, "phase": "init"})
        for own in values
    ]  # fmt: skip
    table = summary(lyapunov_spectrum.SECTIONS[0], tmp_path, members).set_index("x")
    assert table["median"].tolist() == [-2.0, -np.inf]
    assert table["high"].tolist() == [-1.0, -9.0]


def test_exponent_that_met_no_finite_number_is_not_called_small(tmp_path: Path) -> None:
    rows = pd.DataFrame({"exponent": [1], "exponent_median_nats_per_step": [np.nan], "num_below_resolution": 3,
                         "num_non_finite": 5, "step": 0, "phase": "init"})  # fmt: skip
    assert np.isnan(summary(lyapunov_spectrum.SECTIONS[0], tmp_path, [rows])["median"]).all()


def test_layers_and_directions_have_panels_of_their_own(tmp_path: Path) -> None:
    places = [(1, "backward"), (1, "forward"), (0, "backward"), (0, "forward")]
    rows = pd.concat([
        pd.DataFrame({"layer": layer, "direction": direction, "gate": "reset_gate", "lag": [0], "step": 0,
                      "phase": "init", "mean": 0.1 + layer + 0.5 * (direction == "backward")})
        for layer, direction in places
    ])  # fmt: skip
    table = summary(GATE, tmp_path, [rows])
    own = table[table["quantity"] == "mean"].sort_values("facet")
    assert own["facet"].tolist() == [
        f"layer {layer} · {direction} · reset gate" for layer in (0, 1) for direction in ("forward", "backward")
    ]
    assert own["median"].tolist() == pytest.approx([0.1, 0.6, 1.1, 1.6])


def test_names_that_differ_in_an_underscore_are_not_one(tmp_path: Path) -> None:
    rows = pd.DataFrame({"gate": ["a_b", "a b"], "lag": 0, "step": 0, "phase": "init", "mean": [0.2, 0.4]})
    table = summary(GATE, tmp_path, [rows])
    own = table[table["quantity"] == "mean"]
    assert dict(zip(own["facet"], own["median"], strict=True)) == {"a_b": 0.2, "a b": 0.4}


def _weights(radii: dict[int, float], phase: str = "last") -> pd.DataFrame:
    last = max(radii)
    return pd.DataFrame([
        {"step": step, "phase": "init" if step == 0 else phase if step == last else "train", "matrix": "weight_hh",
         "spectral_radius": radius, "eigenvalue_index": index}
        for step, radius in radii.items() for index in range(2)
    ])  # fmt: skip


def _radius(root: Path, members: Sequence[pd.DataFrame], outcomes: Sequence[Any]) -> pd.DataFrame:
    table = summary(recurrent_weights.SECTIONS[0], root, members, outcomes=outcomes)
    return table[table["quantity"] == "spectral_radius"].set_index("x").sort_index()


def test_solved_member_keeps_its_last_value(tmp_path: Path) -> None:
    members = [_weights({0: 1.0, 40: 5.0}, "solved"), _weights({0: 2.0, 40: 2.0, 100: 3.0})]
    table = _radius(tmp_path, members, (40, None))
    assert table["median"].tolist() == [1.5, 3.5, 4.0]
    assert table["num_seeds"].tolist() == [2, 2, 2]
    assert not table["is_partial"].any()


def test_solved_member_that_ended_without_a_number_keeps_none(tmp_path: Path) -> None:
    members = [_weights({0: 1.0, 40: np.nan}, "solved"), _weights({0: 2.0, 40: 2.0, 100: 3.0})]
    table = _radius(tmp_path, members, (40, None))
    assert table["median"].tolist() == [1.5, 2.0, 3.0]
    assert table["num_not_numbers"].tolist() == [0, 1, 1]


def test_diverged_member_counts_until_then_and_lone_probes_are_said(tmp_path: Path) -> None:
    members = [_weights({0: 1.0, 50: 9.0, 60: 99.0}, "diverged"), _weights({0: 2.0, 50: 2.0, 100: 3.0})]
    table = _radius(tmp_path, members, ("diverged", None))
    assert table["median"].tolist() == [1.5, 5.5, 99.0, 3.0]
    assert table["is_partial"].tolist() == [False, False, True, False]


def test_training_gradients_end_with_training(tmp_path: Path) -> None:
    members = [
        pd.DataFrame({"step": list(own), "phase": "train", "parameter": "weight", "norm_unclipped": list(own.values())})
        for own in ({0: 1.0, 40: 5.0}, {0: 2.0, 40: 2.0, 80: 3.0})
    ]
    table = summary(QUANTITIES["parameter_gradients"], tmp_path, members, outcomes=(41, None))
    assert table.set_index("x")["median"].tolist() == [1.5, 3.5, 3.0]


def _profiles(rates: dict[int, float], num_lags: int = 30) -> pd.DataFrame:
    lags = np.arange(num_lags)
    last = max(rates)
    return pd.concat([
        pd.DataFrame({"lag": lags, "t": num_lags - lags, "lag_from_start": num_lags - lags - 1, "step": step,
                      "phase": "init" if step == 0 else "last" if step == last else "train",
                      "relative_gradient_norm_median": np.exp(rate * lags)})
        for step, rate in rates.items()
    ])  # fmt: skip


HORIZON = gradient_horizon.SECTIONS[0]


def test_horizon_is_that_of_each_probe_and_censored_beyond_the_longest_lag(tmp_path: Path) -> None:
    rates = {0: -1.0, 5: -0.5, 90: -0.1}
    table = summary(HORIZON, tmp_path, [_profiles(rates)] * 2, input_len=30)
    horizons = table[table["quantity"] == "horizon_steps"].set_index("x")
    assert horizons["median"].tolist() == [math.ceil(math.log(1000)), math.ceil(2 * math.log(1000)), 29]
    assert horizons["median_is_censored"].tolist() == [False, False, True]
    own = table[table["quantity"] == "growth_rate_nats_per_step"].set_index("x")
    assert own["median"].tolist() == pytest.approx(list(rates.values()), rel=1e-9)


def test_median_between_a_horizon_and_one_beyond_lies_beyond(tmp_path: Path) -> None:
    members = [_profiles({0: -1.0, 5: -1.0, 9: -1.0}), _profiles({0: -1.0, 5: -0.1, 9: -0.1})]
    table = summary(HORIZON, tmp_path, members, input_len=30)
    horizons = table[table["quantity"] == "horizon_steps"].set_index("x")
    assert horizons["median"].tolist() == [7, (7 + 29) / 2, (7 + 29) / 2]
    assert horizons["median_is_censored"].tolist() == [False, True, True]
    assert horizons["low"].tolist() == [7, 7, 7]


def test_horizon_of_init_and_end_alone_is_left_to_the_figure_over_length(tmp_path: Path) -> None:
    SyntheticRun(init=exponential(-1.0)).write(tmp_path)
    assert len(summarise(HORIZON, read_cohort([tmp_path]))) == 0


def test_lag_of_underflow_is_censored_as_recorded(tmp_path: Path) -> None:
    rows = pd.DataFrame({"dtype": ["float16", "float32", "bfloat16"], "loss_scale": 1.0, "step": 0, "phase": "init",
                         "underflow_lag_steps": [12.0, 29.0, 29.0], "is_underflow_censored": [False, True, True],
                         "is_supported": [True, True, False]})  # fmt: skip
    table = summary(precision.SECTIONS[1], tmp_path, [rows]).set_index("facet")
    assert table["median"].to_dict() == {"float16": 12.0, "float32": 29.0}
    assert table["median_is_censored"].to_dict() == {"float16": False, "float32": True}


def test_tensors_stand_in_order_of_their_modules(tmp_path: Path) -> None:
    names = ["readout.weight", "layers.10.weight", "total", "layers.2.weight", "layers.2.bias"]
    rows = pd.DataFrame({"parameter": names, "step": 0, "phase": "init", "signal_fraction": 0.5})
    table = summary(QUANTITIES["gradient_noise"], tmp_path, [rows])
    assert table["facet"].cat.categories.tolist() == [
        "total", "layers.2.weight", "layers.2.bias", "layers.10.weight", "readout.weight",
    ]  # fmt: skip


def test_exact_exponents_are_drawn_of_gaussian_products_at_init_alone(tmp_path: Path) -> None:
    ranks = [1, 2, 3]
    rows = pd.concat([
        pd.DataFrame({"exponent": ranks, "exponent_median_nats_per_step": [0.0, -0.5, -1.0], "step": step,
                      "phase": phase})
        for step, phase in ((0, "init"), (1000, "last"))
    ])  # fmt: skip
    cell = {"_target_": "gradhorizon.cells.gaussian_product.GaussianProduct", "hidden_size": 8, "deviation": None}
    config = {"num_layers": 1, "model": {"cell": cell}}
    table = summary(lyapunov_spectrum.SECTIONS[0], tmp_path, [rows], config=config)
    at_init = table[table["stage"] == "at init"]
    np.testing.assert_allclose(at_init["expected"], newman_exponents(8, 8**-0.5)[:3], rtol=1e-12)
    assert table.loc[table["stage"] == "after training", "expected"].isna().all()
