"""Jacobians of the state against closed forms, a slow twin and arithmetic of 400 digits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent
from gradhorizon.cells.elman import Elman
from gradhorizon.cells.gru import GRU
from gradhorizon.cells.lstm import LSTM
from gradhorizon.jacobians import products
from gradhorizon.jacobians.one_step import StepJacobians
from gradhorizon.jacobians.products import product_spectra
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.state_jacobians import StateJacobians, log_quantiles_of_logs
from gradhorizon.network import LayerTrace, Network
from tests.measurements.networks import NETWORKS, LinearCell, linear_network, random_probe
from tests.synthetic_cells import PerStepLayer

QUANTILES = {"median": 0.5, "p10": 0.1, "p90": 0.9}
QUANTITIES = ("frobenius_norm", "sigma_max", "sigma_min", "condition")


def read(probe: Probe, **options: int) -> pd.DataFrame:
    return StateJacobians(LogSpaced(0), **options).read(probe)


def slow_jacobian(trace: LayerTrace, b: int, lag: int) -> np.ndarray:
    """∂s_{t*}/∂s_{t*−τ} of one sample, differentiating the whole unrolled map at once."""
    start = trace.read_step - lag
    state = trace.cell.initial_state(1)
    sizes = [part.numel() for part in state]
    inputs = trace.inputs[b : b + 1].detach()
    for t in range(start):
        state = trace.cell.step(inputs[:, t], state, t)

    def later(flat: Tensor) -> Tensor:
        parts = tuple(part.view_as(like) for part, like in zip(flat.split(sizes), state, strict=True))
        for t in range(start, trace.read_step):
            parts = trace.cell.step(inputs[:, t], parts, t)
        return torch.cat([part.flatten() for part in parts])

    flat = torch.cat([part.flatten() for part in state]).detach()
    return torch.autograd.functional.jacobian(later, flat).numpy()


def slow_table(probe: Probe) -> pd.DataFrame:
    rows = []
    for trace in probe.trace.layers:
        for lag in [lag for lag in probe.lags if lag <= trace.read_step]:
            jacobians = [slow_jacobian(trace, b, lag) for b in range(len(probe.batch.inputs))]
            size = len(jacobians[0])
            spectra = [np.linalg.svd(jacobian, compute_uv=False) for jacobian in jacobians]
            values = {
                "frobenius_norm": [np.sqrt((jacobian**2).sum() / size) for jacobian in jacobians],
                "sigma_max": [spectrum[0] for spectrum in spectra],
                "sigma_min": [spectrum[-1] for spectrum in spectra],
                "condition": [spectrum[0] / spectrum[-1] for spectrum in spectra],
            }
            place = {"layer": trace.layer, "direction": trace.direction, "t": trace.read_step - lag, "lag": lag}
            logs = {
                f"log10_{quantity}_{name}": np.quantile(np.log10(found), probability)
                for quantity, found in values.items()
                for name, probability in QUANTILES.items()
            }
            powers = {name.removeprefix("log10_"): 10**value for name, value in logs.items()}
            how = {"state_size": size, "method": "exact", "num_projections": 0, **powers, **logs}
            counts = {"num_zero_norms": 0, "num_sigma_min_below_resolution": 0, "num_non_finite_norms": 0}
            error = {"frobenius_norm_relative_standard_error": 0.0}
            rows.append({**place, **how, **error, "num_samples": len(jacobians), **counts})
    return pd.DataFrame(rows)


@cache
def measured_and_expected(name: str, loss_steps: tuple[int, ...]) -> tuple[Probe, pd.DataFrame]:
    torch.manual_seed(3)
    probe = random_probe(NETWORKS[name]().double(), max(3, *loss_steps), loss_steps, batch_size=3)
    return probe, slow_table(probe)


def check_slow_twin(name: str, loss_steps: tuple[int, ...] = (3,)) -> None:
    probe, expected = measured_and_expected(name, loss_steps)
    found = read(probe)
    assert list(found.columns) == list(expected.columns)
    # The twin's own σ_min is right to 1e-16 times the condition of the whole product, up to 1e8 here.
    is_lax = found.columns.str.contains("sigma_min_m|sigma_min_p|condition")
    for columns, rtol in ((found.columns[~is_lax], 1e-10), (found.columns[is_lax], 1e-6)):
        pd.testing.assert_frame_equal(found[columns], expected[columns], rtol=rtol, atol=1e-13, check_dtype=False)


@pytest.mark.oracle("slow twin: the whole unrolled map differentiated at once, one sample at a time")
def test_table_equals_the_slow_twin() -> None:
    check_slow_twin("bidirectional")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_equals_the_slow_twin(name: str) -> None:
    check_slow_twin(name)


@pytest.mark.parametrize("name", ["deep_own_output", "bidirectional_attention"])
def test_lags_are_counted_from_the_step_that_is_read(name: str) -> None:
    check_slow_twin(name, (1, 2))


@pytest.mark.oracle("closed form: with W = ρQ every singular value is ρ^τ")
def test_scaled_orthogonal_rnn_has_all_singular_values_equal() -> None:
    for scale in (0.5, 1.0, 1.5):
        rows = read(random_probe(linear_network(scale).double(), input_len=30))
        for quantity in ("frobenius_norm", "sigma_max", "sigma_min"):
            np.testing.assert_allclose(rows[f"{quantity}_median"], scale ** rows["lag"], rtol=1e-11, atol=0)
        np.testing.assert_allclose(rows["condition_p90"], 1.0, rtol=1e-11, atol=0)


def linear_probe(weight: Tensor, input_len: int) -> Probe:
    network = linear_network(1.0)
    cell = network.layers[0]["forward_cell"]  # type: ignore[index]
    cell.weight_hh = nn.Parameter(weight)
    probe = random_probe(network, input_len)
    probe.batch.inputs.zero_()
    return probe


@pytest.mark.parametrize(("largest", "smallest"), [(1.0, 0.5), (1.0, 1e-3), (10.0, 1e-3), (1.0, 1e-200)])
def test_diagonal_linear_rnn_has_the_powers_of_its_eigenvalues(largest: float, smallest: float) -> None:
    weight = torch.diag(torch.tensor([smallest, -largest], dtype=torch.float64))
    rows = read(linear_probe(weight, input_len=100)).query("lag > 0")
    assert rows["lag"].max() == 100
    for quantity, base in {"sigma_max": largest, "sigma_min": smallest, "condition": largest / smallest}.items():
        expected = rows["lag"] * np.log10(base)
        np.testing.assert_allclose(rows[f"log10_{quantity}_median"], expected, rtol=1e-11, atol=1e-12)
    mean_square = (largest ** (2 * rows["lag"]) + smallest ** (2.0 * rows["lag"])) / 2
    np.testing.assert_allclose(rows["frobenius_norm_median"], np.sqrt(mean_square), rtol=1e-11, atol=0)


def test_growth_beyond_float64_stays_a_number_in_logarithms() -> None:
    rows = read(linear_probe(10 * torch.eye(2).double(), input_len=320)).query("lag == 320")
    assert rows["log10_sigma_min_median"].item() == pytest.approx(320, rel=1e-12)
    assert np.isposinf(rows["sigma_min_median"].item())


def exact_log10_extremes(factors: list[np.ndarray]) -> tuple[float, float]:
    """Decimal logarithms of σ_max and σ_min of factors[0] @ factors[1] @ …, in 400 digits."""
    with mpmath.workdps(400):
        product = mpmath.eye(len(factors[0]))
        for factor in factors:
            product = product * mpmath.matrix(factor.tolist())
        squares = mpmath.eigsy(product.T * product, eigvals_only=True)
        return float(mpmath.log10(max(squares)) / 2), float(mpmath.log10(min(squares)) / 2)


def random_factors(kind: str, count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    spread = 10.0 ** np.linspace(0, -1, 5)
    if kind == "gaussian":
        return list(generator.normal(size=(count, 5, 5)))
    if kind == "turning":  # singular values far apart, in directions that change at every step
        turns = [np.linalg.qr(generator.normal(size=(5, 5)))[0] for _ in range(count)]
        return [turn @ np.diag(spread) for turn in turns]
    if kind == "triangular":  # an ordered frame would never mix: the smallest direction comes first
        return [np.triu(generator.normal(size=(5, 5)), 1) + np.diag(spread[::-1]) for _ in range(count)]
    # Saturated units: rows scaled by up to 1e-20 in a single step.
    return [np.diag(10.0 ** generator.uniform(-20, 0, 5)) @ generator.normal(size=(5, 5)) for _ in range(count)]


@pytest.mark.parametrize(("kind", "count"), [("gaussian", 60), ("turning", 80), ("triangular", 40), ("saturated", 8)])
def test_ill_conditioned_products_equal_arithmetic_of_400_digits(kind: str, count: int) -> None:
    factors = random_factors(kind, count)
    sigma_max, sigma_min = exact_log10_extremes(factors)
    assert sigma_max - sigma_min > 30
    found = product_spectra(iter(torch.from_numpy(np.array(factors)).unsqueeze(1)), [count], torch.zeros(1, 5).double())
    logs = np.array([found.sigma_max.item(), found.sigma_min.item()]) / np.log(10)
    np.testing.assert_allclose(10 ** (logs - [sigma_max, sigma_min]), 1.0, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("kind", "count"), [("gaussian", 60), ("turning", 80)])
def test_product_itself_would_give_noise_for_its_smallest_singular_value(kind: str, count: int) -> None:
    factors = random_factors(kind, count)
    product = np.linalg.multi_dot(factors)
    noise = np.log10(np.linalg.svd(product, compute_uv=False)[-1])
    assert noise - exact_log10_extremes(factors)[1] > 5


def test_lstm_equals_arithmetic_of_400_digits() -> None:
    torch.manual_seed(2)
    maps = StepJacobians(LSTM(2, 4).double(), torch.randn(1, 40, 2).double())
    found = products.exact_spectra(maps, 40, [40])
    sigma_max, sigma_min = exact_log10_extremes([maps.matrix(t)[0].numpy() for t in range(40, 0, -1)])
    assert sigma_max - sigma_min > 30
    logs = np.array([found.sigma_max.item(), found.sigma_min.item()]) / np.log(10)
    np.testing.assert_allclose(10 ** (logs - [sigma_max, sigma_min]), 1.0, rtol=1e-9, atol=0)


def without_recurrent_weights() -> Network:
    torch.manual_seed(4)
    network = Network(partial(LSTM, hidden_size=3), 2, 2).double()
    with torch.no_grad():
        network.layers[0]["forward_cell"].rnn.weight_hh_l0.zero_()  # type: ignore[index]
    return network


@pytest.mark.oracle("closed form: LSTM with W_hh = 0, ∂c/∂c = ∏ f, ∂h/∂c = o tanh′(c) ∏ f, all else 0")
def test_lstm_without_recurrent_weights_has_the_products_of_its_forget_gates() -> None:
    probe = random_probe(without_recurrent_weights(), input_len=20, batch_size=1)
    cell = probe.network.layers[0]["forward_cell"]  # type: ignore[index]
    weight_ih, _, bias_ih, bias_hh = cell.rnn.all_weights[0]
    with torch.no_grad():
        preactivations = (probe.batch.inputs[0] @ weight_ih.T + bias_ih + bias_hh).numpy()
    _, forget, _, output = np.split(1 / (1 + np.exp(-preactivations)), 4, axis=1)
    memory = probe.trace.layers[0].trajectory.final_state[1][0].detach().numpy()
    per_unit = np.sqrt(1 + (output[-1] * (1 - np.tanh(memory) ** 2)) ** 2)
    rows = read(probe).query("lag > 0")
    columns = np.array([per_unit * forget[20 - lag :].prod(axis=0) for lag in rows["lag"]])
    np.testing.assert_allclose(rows["sigma_max_median"], columns.max(axis=1), rtol=1e-11, atol=0)
    np.testing.assert_allclose(rows["frobenius_norm_median"], np.sqrt((columns**2).sum(axis=1) / 6), rtol=1e-11, atol=0)
    assert (rows["sigma_min_p90"] == 0).all()
    assert np.isneginf(rows["log10_sigma_min_median"]).all()
    assert np.isposinf(rows["condition_median"]).all()
    assert (rows["num_sigma_min_below_resolution"] == 1).all()


@pytest.mark.oracle("closed form: a GRU with U = 0 and its gates held by the biases has M = σ(b)^τ I")
def test_gru_without_recurrent_weights_decays_at_its_update_gate() -> None:
    network = Network(partial(GRU, hidden_size=3), 2, 2).double()
    with torch.no_grad():
        weight_ih, weight_hh, bias_ih, bias_hh = network.layers[0]["forward_cell"].rnn.all_weights[0]  # type: ignore[index]
        for parameter in (weight_ih[3:6], weight_hh, bias_hh):
            parameter.zero_()
        bias_ih[3:6] = 0.7
    rows = read(random_probe(network, input_len=100))
    for quantity in ("frobenius_norm", "sigma_max", "sigma_min"):
        expected = rows["lag"] * np.log10(1 / (1 + np.exp(-0.7)))
        np.testing.assert_allclose(rows[f"log10_{quantity}_median"], expected, rtol=1e-11, atol=1e-13)


def mutated_transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = StepJacobians.matrix
    monkeypatch.setattr(StepJacobians, "matrix", lambda self, t: true(self, t).transpose(1, 2))


def mutated_order(monkeypatch: pytest.MonkeyPatch) -> None:
    true = product_spectra
    reverse = lambda jacobians, lags, like: true(iter(list(jacobians)[::-1]), lags, like)  # noqa: E731
    monkeypatch.setattr(products, "product_spectra", reverse)


def mutated_hidden_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    true = StepJacobians.matrix
    monkeypatch.setattr(StepJacobians, "matrix", lambda self, t: true(self, t)[:, :3, :3])
    product = product_spectra
    half = lambda jacobians, lags, like: product(jacobians, lags, like[:, :3])  # noqa: E731
    monkeypatch.setattr(products, "product_spectra", half)


@pytest.mark.parametrize("mutate", [mutated_transposed, mutated_order, mutated_hidden_state_alone])
def test_slow_twin_notices_a_wrong_product(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_slow_twin("lstm")
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check_slow_twin("lstm")


CELLS: dict[str, Callable[[], Recurrent]] = {
    "elman": lambda: Elman(2, 4),
    "lstm": lambda: LSTM(2, 3),
    "gru": lambda: GRU(2, 3),
    "linear": lambda: LinearCell(2, 2),
}


@pytest.mark.parametrize("name", CELLS)
def test_pulled_and_pushed_vectors_are_adjoint(name: str) -> None:
    maps = StepJacobians(CELLS[name]().double(), torch.randn(3, 5, 2).double())
    shape = (4, *maps.states[:, 0].shape)
    left, right = torch.randn(shape).double(), torch.randn(shape).double()
    pushed, pulled = (left * maps.push(5, right)).sum(-1), (maps.pull(5, left) * right).sum(-1)
    torch.testing.assert_close(pushed, pulled, rtol=1e-11, atol=1e-14)


@cache
def both_ways(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    torch.manual_seed(seed)
    probe = random_probe(Network(partial(LSTM, hidden_size=12), 2, 2).double(), input_len=20, batch_size=1, num_cuts=8)
    return read(probe, max_exact_size=24), read(probe, max_exact_size=23)


def test_column_says_which_way_was_taken() -> None:
    exact, estimated = both_ways(0)
    assert set(exact["method"]) == {"exact"}
    assert set(estimated["method"]) == {"random_projections"}
    assert set(estimated["num_projections"]) == {32}
    assert estimated[["sigma_min_median", "log10_condition_median"]].isna().all(axis=None)


@pytest.mark.parametrize("seed", range(4))
def test_estimated_norm_lies_within_four_standard_errors(seed: int) -> None:
    exact, estimated = both_ways(seed)
    error = np.abs(estimated["frobenius_norm_median"] / exact["frobenius_norm_median"] - 1)
    assert (error <= 4 * estimated["frobenius_norm_relative_standard_error"] + 1e-12).all()
    assert (estimated["frobenius_norm_relative_standard_error"] < 0.1).all()


@pytest.mark.parametrize("seed", range(4))
def test_estimated_largest_singular_value_is_a_close_lower_bound(seed: int) -> None:
    exact, estimated = both_ways(seed)
    ratio = estimated["sigma_max_median"] / exact["sigma_max_median"]
    assert ratio.between(0.8, 1 + 1e-12).all()
    assert ratio[exact["lag"] >= 15].min() > 0.99


def test_standard_error_is_that_of_independent_repetitions() -> None:
    torch.manual_seed(0)
    maps = StepJacobians(LSTM(2, 4).double(), torch.randn(1, 3, 2).double().expand(400, -1, -1))
    spectra = products.projected_spectra(maps, 3, [3], torch.Generator().manual_seed(1), 32, 1)
    scatter = spectra.frobenius_norm.std()
    np.testing.assert_allclose(spectra.relative_standard_error.square().mean().sqrt(), scatter, rtol=0.15)


def relu_network(bias: list[float]) -> Network:
    network = Network(partial(Elman, hidden_size=2, nonlinearity="relu"), 2, 2).double()
    with torch.no_grad():
        weight_ih, weight_hh, bias_ih, bias_hh = network.layers[0]["forward_cell"].rnn.all_weights[0]  # type: ignore[index]
        for zeroed in (weight_ih, bias_hh):
            zeroed.zero_()
        weight_hh.copy_(torch.tensor([[0.5, 0.25], [0.25, 0.5]]))
        bias_ih.copy_(torch.tensor(bias))
    return network


@pytest.mark.parametrize("max_exact_size", [0, 128])
def test_dead_units_alone_give_a_jacobian_of_exactly_zero(max_exact_size: int) -> None:
    later = read(random_probe(relu_network([-100.0, -100.0])), max_exact_size=max_exact_size).query("lag > 0")
    assert (later[["frobenius_norm_p90", "sigma_max_p90"]] == 0).all(axis=None)
    assert np.isneginf(later[["log10_frobenius_norm_median", "log10_sigma_max_median"]]).all(axis=None)
    assert (later["num_zero_norms"] == 4).all()
    assert (later["num_non_finite_norms"] == 0).all()


def test_one_dead_unit_makes_the_smallest_singular_value_exactly_zero() -> None:
    later = read(random_probe(relu_network([1.0, -100.0]))).query("lag > 0")
    np.testing.assert_allclose(later["sigma_max_median"], np.hypot(0.5, 0.25) * 0.5 ** (later["lag"] - 1), rtol=1e-12)
    assert (later["sigma_min_p90"] == 0).all()
    assert (later["num_sigma_min_below_resolution"] == 4).all()
    assert (later["num_zero_norms"] == 0).all()


@pytest.mark.parametrize("max_exact_size", [0, 128])
def test_nan_parameters_are_counted_not_raised(max_exact_size: int) -> None:
    network = NETWORKS["deep"]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    later = read(random_probe(network), max_exact_size=max_exact_size).query("lag > 0")
    assert (later["num_non_finite_norms"] == 4).all()
    assert later[["log10_sigma_max_median", "frobenius_norm_median"]].isna().all(axis=None)


def test_only_the_first_samples_are_measured() -> None:
    probe = random_probe(NETWORKS["gru"](), batch_size=5)
    rows = read(probe, num_samples=2)
    probe.batch.inputs[2:] = torch.nan
    assert (rows["num_samples"] == 2).all()
    pd.testing.assert_frame_equal(rows, read(probe, num_samples=2), rtol=0, atol=0)


@pytest.mark.parametrize("max_exact_size", [0, 128])
def test_measuring_changes_nothing_and_repeats_to_the_bit(max_exact_size: int) -> None:
    network = NETWORKS["bidirectional"]()
    before, random_state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    first = read(random_probe(network), max_exact_size=max_exact_size)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.manual_seed(99)
    second = read(random_probe(network), max_exact_size=max_exact_size)
    pd.testing.assert_frame_equal(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("max_exact_size", [0, 128])
def test_inference_mode_changes_no_bit(max_exact_size: int) -> None:
    network = NETWORKS["lstm"]()
    expected = read(random_probe(network), max_exact_size=max_exact_size)
    with torch.inference_mode():
        found = read(random_probe(network), max_exact_size=max_exact_size)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0)


def test_network_without_recurrence_gives_no_rows() -> None:
    rows = read(random_probe(Network(partial(PerStepLayer, hidden_size=3), 2, 2)))
    assert rows.empty
    assert list(rows.columns) == [column.name for column in StateJacobians.table.columns]


def test_quantiles_of_logarithms_touch_infinities_and_leave_out_nan() -> None:
    logs = np.array([[-np.inf, 1.0, np.nan], [2.0, np.inf, np.nan], [4.0, np.nan, np.nan]])
    found = log_quantiles_of_logs(logs)
    assert found["p10"].tolist()[:2] == [-np.inf, np.inf]
    assert found["median"].tolist()[:2] == [2.0, np.inf]
    assert found["p90"][0] == pytest.approx(3.6)
    assert np.isnan([row[2] for row in found.values()]).all()


def test_condition_of_singular_samples_alone_is_infinite_at_every_quantile() -> None:
    later = read(random_probe(relu_network([1.0, -100.0]), batch_size=8)).query("lag > 0")
    assert (later["num_sigma_min_below_resolution"] == 8).all()
    assert np.isposinf(later.filter(regex="condition_")).all(axis=None)
    assert log_quantiles_of_logs(np.array([[1.0], [np.inf], [np.inf], [np.inf]]))["median"].tolist() == [np.inf]


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_samples", 0), ("num_projections", 1), ("max_exact_size", -1), ("num_power_iterations", -1)],
)
def test_numbers_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least .*, got {value}"):
        StateJacobians(LogSpaced(), **{name: value})
