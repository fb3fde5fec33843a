"""Gradient noise against closed forms, plain sums over samples, and the expectation over every possible batch."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradhorizon.measurements.gradient_noise import GradientNoise, noise
from gradhorizon.measurements.parameter_gradients import TOTAL
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.tasks.task import Batch
from tests.measurements.networks import NETWORKS, LinearCell, SquaredError, SumReadout, random_probe
from tests.noisy_readout import NoisyReadout
from tests.oracles_gradients import run_one_sample

ESTIMATES = ["gradient_norm", "trace_of_covariance", "squared_norm_unbiased", "signal_fraction", "noise_scale_samples"]


def read(probe: Probe) -> pd.DataFrame:
    return GradientNoise(LogSpaced(num_points=0)).read(probe)


def slow_sample_gradients(probe: Probe) -> list[dict[str, list[float]]]:
    """Entries of each parameter's gradient, sample by sample and step by step."""
    network, found = probe.network, []
    for index, x in enumerate(probe.batch.inputs):
        encoded = [network.encoder(x_t[None, None])[:, 0] for x_t in x]
        predictions, _, _ = run_one_sample(network, encoded, probe.batch.loss_steps)
        loss = probe.task.loss(predictions, probe.batch.targets[index : index + 1])[0, -1]
        gradients = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
        names = [name for name, _ in network.named_parameters()]
        found.append({name: own.flatten().tolist() for name, own in zip(names, gradients, strict=True)})
    return found


def plain_row(name: str, samples: list[list[float]]) -> dict[str, object]:
    """The definitions, entry by entry: the mean inner product of two samples, and the mean square."""
    count = len(samples)
    means = [math.fsum(entries) / count for entries in zip(*samples, strict=True)]
    squares = [math.fsum(entry**2 for entry in own) for own in samples]
    inner = [
        math.fsum(a * b for a, b in zip(one, other, strict=True)) for one, other in itertools.combinations(samples, 2)
    ]
    squared_norm = math.fsum(inner) / len(inner)
    trace = math.fsum(squares) / count - squared_norm
    return {
        "parameter": name,
        "gradient_norm": math.sqrt(math.fsum(mean**2 for mean in means)),
        "trace_of_covariance": trace,
        "squared_norm_unbiased": squared_norm,
        "signal_fraction": squared_norm / (squared_norm + trace),
        "noise_scale_samples": trace / squared_norm if squared_norm > 0 else math.nan,
        "num_samples": count,
        "num_zero_norms": sum(square == 0 for square in squares),
        "num_non_finite_samples": 0,
    }


def check_slow_twin(name: str, loss_steps: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    probe = random_probe(NETWORKS[name]().double(), 7, loss_steps)
    samples = slow_sample_gradients(probe)
    rows = [plain_row(parameter, [own[parameter] for own in samples]) for parameter in samples[0]]
    rows.append(plain_row(TOTAL, [[entry for part in own.values() for entry in part] for own in samples]))
    pd.testing.assert_frame_equal(read(probe), pd.DataFrame(rows), rtol=1e-12, atol=0, check_dtype=False)


@pytest.mark.oracle("slow twin: one sample and one step at a time, then plain sums over pairs of samples")
def test_table_equals_plain_sums_over_pairs_of_samples() -> None:
    check_slow_twin("lstm", (7,))


@pytest.mark.parametrize("loss_steps", [(7,), (2, 5)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_equals_plain_sums_over_pairs_of_samples(name: str, loss_steps: tuple[int, ...]) -> None:
    check_slow_twin(name, loss_steps)


def scalar_probe(weight: float, drives: list[float], targets: list[float], num_steps: int = 6) -> Probe:
    """h_t = w h_{t−1} + x with a constant x per sample, and the loss (h_N − y)²."""
    network = Network(partial(LinearCell, hidden_size=1), 1, 1).double()
    network.readout = SumReadout(1, 1)  # type: ignore[assignment]
    nn.init.constant_(network.cells()[0].weight_hh, weight)  # type: ignore[arg-type]
    inputs = torch.tensor(drives, dtype=torch.float64)[:, None, None].expand(-1, num_steps, 1)
    batch = Batch(inputs, torch.tensor(targets, dtype=torch.float64)[:, None, None], (num_steps,))
    return Probe(network, SquaredError(num_steps, size=1), batch)


@pytest.mark.oracle("closed form: h_N = x Σ w^k, g = 2 (h_N − y) x Σ k w^(k−1); without drive there is none")
def test_scalar_linear_network_has_the_noise_of_its_closed_form() -> None:
    weight, drives, targets = 0.8, np.array([1.0, -2.0, 0.0, 3.0]), np.array([3.0, 5.0, 1.0, -1.0])
    powers = np.arange(6)
    states = drives * (weight**powers).sum()
    gradients = 2 * (states - targets) * drives * (powers[1:] * weight ** (powers[1:] - 1)).sum()
    trace = gradients.var(ddof=1)
    squared_norm = gradients.mean() ** 2 - trace / 4
    expected = pd.DataFrame(
        {
            "parameter": ["layers.0.forward_cell.weight_hh", "total"],
            "gradient_norm": abs(gradients.mean()),
            "trace_of_covariance": trace,
            "squared_norm_unbiased": squared_norm,
            "signal_fraction": squared_norm / np.square(gradients).mean(),
            "noise_scale_samples": trace / squared_norm,
            "num_samples": 4,
            "num_zero_norms": 1,
            "num_non_finite_samples": 0,
        }
    )
    assert squared_norm > 0
    rows = read(scalar_probe(weight, list(drives), list(targets)))
    pd.testing.assert_frame_equal(rows, expected, rtol=1e-12, atol=0, check_dtype=False)


@pytest.mark.parametrize("num_samples", [2, 3, 5])
def test_estimates_are_unbiased_over_every_batch_that_can_be_drawn(num_samples: int) -> None:
    """Gradients (1, 0) and (3, 2) with equal chances: G = (2, 1) and Σ has ones on its diagonal."""
    batches = itertools.product([(1.0, 0.0), (3.0, 2.0)], repeat=num_samples)
    estimates = [noise(np.array(batch)) for batch in batches]
    assert np.mean([own["trace_of_covariance"] for own in estimates]) == pytest.approx(2.0, rel=1e-12)
    assert np.mean([own["squared_norm_unbiased"] for own in estimates]) == pytest.approx(5.0, rel=1e-12)


def test_gaussian_gradients_have_the_noise_scale_of_their_covariance() -> None:
    generator = np.random.default_rng(3)
    mean, factor = generator.normal(size=6), generator.normal(size=(6, 6))
    gradients = mean + generator.normal(size=(40_000, 6)) @ factor.T
    expected = np.trace(factor @ factor.T) / (mean @ mean)
    # Its standard error over seeds is 1.2 %.
    assert noise(gradients)["noise_scale_samples"] == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("name", ["lstm", "bidirectional_attention"])
def test_twice_the_loss_changes_no_ratio_and_scales_the_rest_exactly(name: str) -> None:
    network = NETWORKS[name]().double()
    once, twice = read(random_probe(network)), read(random_probe(network, factor=2.0))
    for column, factor in zip(ESTIMATES, (2.0, 4.0, 4.0, 1.0, 1.0), strict=True):
        np.testing.assert_array_equal(twice[column], factor * once[column])


@pytest.mark.parametrize("num_samples", [2, 3, 7])
def test_samples_that_agree_scatter_by_exactly_zero(num_samples: int) -> None:
    rows = read(scalar_probe(0.7, [1.1] * num_samples, [0.3] * num_samples))
    assert (rows["trace_of_covariance"] == 0).all()
    assert (rows["noise_scale_samples"] == 0).all()
    np.testing.assert_allclose(rows["signal_fraction"], 1.0, rtol=1e-15)


def test_one_sample_has_a_gradient_and_no_estimate() -> None:
    rows = read(random_probe(NETWORKS["gru"](), batch_size=1))
    assert (rows["gradient_norm"] > 0).all()
    assert rows[ESTIMATES[1:]].isna().to_numpy().all()


def test_gradients_that_cancel_have_no_estimable_noise_scale() -> None:
    found = noise(np.array([[2.0], [-2.0]]))
    assert [found[name] for name in ESTIMATES[:4]] == [0.0, 8.0, -4.0, -1.0]
    assert math.isnan(found["noise_scale_samples"])


def test_gradients_that_vanish_are_counted_and_have_no_ratio() -> None:
    found = noise(np.zeros((3, 2)))
    assert [found[name] for name in ESTIMATES[:3]] == [0.0, 0.0, 0.0]
    assert math.isnan(found["signal_fraction"])
    assert math.isnan(found["noise_scale_samples"])
    assert found["num_zero_norms"] == 3


@pytest.mark.parametrize("exponent", [-1000, -600, 600, 1000])
def test_gradients_whose_squares_leave_float64_keep_their_ratios(exponent: int) -> None:
    gradients = np.random.default_rng(0).normal(size=(5, 4)) + 2
    plain, shifted = noise(gradients), noise(np.ldexp(gradients, exponent))
    assert shifted["gradient_norm"] == math.ldexp(plain["gradient_norm"], exponent)
    assert [shifted[name] for name in ESTIMATES[3:]] == [plain[name] for name in ESTIMATES[3:]]


def test_estimates_of_the_tensors_add_up_to_the_total() -> None:
    rows = read(random_probe(NETWORKS["deep"]())).set_index("parameter")
    for column in ("trace_of_covariance", "squared_norm_unbiased"):
        assert rows[column].drop(TOTAL).sum() == pytest.approx(rows[column][TOTAL], rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_that_are_not_finite_are_left_out_and_counted(bad: float) -> None:
    network = NETWORKS["elman"]().double()
    probe = random_probe(network)
    broken = copy.deepcopy(probe.batch)
    broken.targets[1] = bad
    kept = [0, 2, 3]
    rows = read(Probe(network, probe.task, broken))
    expected = read(Probe(network, probe.task, Batch(broken.inputs[kept], broken.targets[kept], (7,))))
    pd.testing.assert_frame_equal(rows[ESTIMATES], expected[ESTIMATES], rtol=0, atol=0)
    assert (rows["num_samples"] == 4).all()
    assert (rows["num_non_finite_samples"] == 1).all()


def test_probe_without_a_finite_sample_is_all_nan() -> None:
    network = NETWORKS["elman"]()
    nn.init.constant_(network.readout.affine.bias, math.nan)  # type: ignore[union-attr, arg-type]
    rows = read(random_probe(network))
    assert rows[ESTIMATES].isna().to_numpy().all()
    assert (rows["num_non_finite_samples"] == 4).all()


def test_frozen_tensors_have_no_row() -> None:
    network = NETWORKS["gru"]()
    network.readout.requires_grad_(requires_grad=False)
    assert not any("readout" in name for name in read(random_probe(network))["parameter"])


def test_network_in_which_nothing_is_trained_has_no_rows() -> None:
    assert read(random_probe(NETWORKS["gru"]().requires_grad_(requires_grad=False))).empty


def test_tensor_that_the_loss_does_not_feel_has_zero_gradients() -> None:
    network = NETWORKS["gru"]()
    network.register_parameter("idle", nn.Parameter(torch.ones(2)))
    rows = read(random_probe(network)).set_index("parameter")
    assert list(rows.loc["idle", ["gradient_norm", "num_zero_norms"]]) == [0.0, 4]


def state_of(probe: Probe) -> list[Tensor]:
    return [probe.losses, probe.input_gradient, *probe.network.parameters(), torch.get_rng_state()]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_reading_leaves_probe_and_random_state_as_they_were(mode: type) -> None:
    network = NETWORKS["gru"]()
    network.readout = NoisyReadout(3, 2)
    probe = random_probe(network)
    before = [own.clone() for own in state_of(probe)]
    with mode():
        rows = read(probe)
    assert all(torch.equal(own, old) for own, old in zip(state_of(probe), before, strict=True))
    assert all(parameter.grad is None for parameter in probe.network.parameters())
    pd.testing.assert_frame_equal(read(probe), rows, rtol=0, atol=0)
