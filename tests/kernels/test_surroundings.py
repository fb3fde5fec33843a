"""What is measured does not depend on what a caller has set, and nothing that was set is lost."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from gradhorizon.cells.cell import Recurrent
from gradhorizon.kernels.casting import real_numbers
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.measurements.gradient_noise import GradientNoise, sample_gradients
from gradhorizon.measurements.lyapunov_spectrum import LyapunovSpectrum
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.measurements.temporal_contributions import TemporalContributions
from gradhorizon.network import Network
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.training.streams import probe_batch
from tests.kernels.callers import SURROUNDINGS
from tests.sound_cells import ComplexDiagonal, HasKinks, ScalesByConstants

TASK = AddingArjovsky2016(seq_len=9)


def probe(cell: type[Recurrent]) -> Probe:
    return Probe(network(cell), TASK, probe_batch(TASK, 0, 3), num_cuts=4)


def network(cell: type[Recurrent]) -> Network:
    torch.manual_seed(0)
    return Network(partial(cell, hidden_size=4), input_size=2, output_size=1)


def found(built: Network) -> list[np.ndarray]:
    own = Probe(built, TASK, probe_batch(TASK, 0, 3), num_cuts=4)
    gradients = [part for at in own.state_gradients for part in (*at.through_time, *at.direct)]
    return [
        own.losses.numpy(force=True),
        own.input_gradient.numpy(force=True),
        *(g.numpy(force=True) for g in gradients),
    ]


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("cell", [ComplexDiagonal, HasKinks, ScalesByConstants])
def test_a_probe_gives_the_same_bits_whatever_is_set_around_it(cell: type[Recurrent], surroundings: str) -> None:
    built = network(cell)
    expected = found(built)
    with SURROUNDINGS[surroundings]():
        for first, second in zip(expected, found(built), strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("cell", [ComplexDiagonal, HasKinks, ScalesByConstants])
def test_nor_does_the_default_format_matter(cell: type[Recurrent]) -> None:
    built = network(cell)
    expected = found(built)
    torch.set_default_dtype(torch.float64)
    try:
        again = found(built)
    finally:
        torch.set_default_dtype(torch.float32)
    for first, second in zip(expected, again, strict=True):
        np.testing.assert_array_equal(first, second)


def test_everything_is_as_it_was_afterwards() -> None:
    random_state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.autograd.set_detect_anomaly(True):
        with own_surroundings():
            torch.rand(3)
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.is_anomaly_enabled()
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_anomaly_enabled()
    assert torch.equal(torch.get_rng_state(), random_state)


def test_gradients_of_complex_parameters_are_those_of_their_real_and_imaginary_parts() -> None:
    own = probe(ComplexDiagonal)
    cell = own.network.cells()[0]
    parameters = list(cell.parameters())
    mean_loss = own.losses[:, -1].mean()
    gradients = torch.autograd.grad(mean_loss, parameters, retain_graph=True)
    # The gradient by the real and the imaginary part of λ, by differences.
    step = 1e-6
    for unit, direction in ((0, 1.0), (2, 1j)):
        values = []
        for sign in (1, -1):
            shifted = probe(ComplexDiagonal)
            with torch.no_grad():
                shifted.network.cells()[0].eigenvalues[unit] += sign * step * direction  # type: ignore[index, operator]
            values.append(float(shifted.losses[:, -1].mean().detach()))
        slope = (values[0] - values[1]) / (2 * step)
        exact = gradients[0][unit].real if direction == 1.0 else gradients[0][unit].imag
        assert slope == pytest.approx(float(exact), rel=1e-7)
    norm = float(torch.cat([real_numbers(own).flatten() for own in gradients]).norm())
    shares = TemporalContributions(LogSpaced()).read(own)
    np.testing.assert_allclose(shares["share_norm"] / shares["share_of_norm"], norm, rtol=1e-12)
    assert shares["num_entries"].iloc[0] == 2 * 4 + 4 * 2 + 4
    assert shares["cumulative_norm_ratio"].iloc[-1] == pytest.approx(1.0, rel=1e-12)
    noise = GradientNoise(LogSpaced()).read(own).set_index("parameter")
    of_samples = sample_gradients(own)
    name = next(name for name in of_samples if name.endswith("eigenvalues"))
    assert of_samples[name].shape == (3, 8)
    np.testing.assert_allclose(of_samples[name].mean(axis=0), real_numbers(gradients[0]).flatten().numpy(), rtol=1e-12)
    assert noise.loc[name, "gradient_norm"] == pytest.approx(float(gradients[0].norm()), rel=1e-12)


def test_a_spectrum_of_complex_units_has_every_exponent_twice() -> None:
    own = Probe(network(ComplexDiagonal), TASK, probe_batch(TASK, 0, 3), num_cuts=4)
    rows = LyapunovSpectrum(LogSpaced(), num_exponents=None).read(own)
    moduli = own.network.cells()[0].eigenvalues.abs().log().detach().numpy()  # type: ignore[operator]
    np.testing.assert_allclose(rows["exponent_median_nats_per_step"], np.sort(np.repeat(moduli, 2))[::-1], rtol=1e-9)
