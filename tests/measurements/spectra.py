"""What tests of spectra share: recurrences of given Jacobians, and slow twins that multiply exact Jacobians out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gradhorizon.cells.cell import Recurrent, State
from gradhorizon.jacobians.exponents import random_frames
from gradhorizon.jacobians.one_step import StepJacobians
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.measurements.probe import Probe
from gradhorizon.network import Network
from gradhorizon.tasks.task import Batch
from tests import oracles_gradients
from tests.conditioning import assert_within, exponent_errors
from tests.measurements.networks import NETWORKS, SquaredError, random_probe
from tests.models import MODELS
from tests.synthetic_cells import ClockedReader

QUANTILES = {"median": 0.5, "p10": 0.1, "p90": 0.9}

TWINS: dict[str, Callable[[], Network]] = {
    **NETWORKS,
    "clocked": lambda: Network(partial(ClockedReader, hidden_size=2), 2, 2),
}


ROOT_MODELS = [name for name in MODELS if "defaults:" not in (CONF_DIR / "model" / f"{name}.yaml").read_text("utf-8")]
"""Models that derive from no other: one at least for every cell."""


class GivenJacobians(Recurrent):
    """h_t = M_t h_{t−1}, the matrix M_t being the step's input."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (self.hidden_size,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x.unflatten(-1, (self.hidden_size, self.hidden_size))

    def recur(self, projected_t: Tensor, state: State) -> State:
        return ((projected_t @ state[0].unsqueeze(-1)).squeeze(-1),)


class HenonMap(Recurrent):
    """x' = 1 − 1.4 x² + y, y' = 0.3 x, ten times enlarged so that states drawn from N(0, 1) lie in its basin."""

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size, 2)
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"h": (2,)}

    def project(self, x: Tensor, first_step: int = 0) -> Tensor:  # noqa: ARG002
        return x

    def recur(self, projected_t: Tensor, state: State) -> State:  # noqa: ARG002
        x, y = (state[0] / 10).unbind(-1)
        return (10 * torch.stack([1 - 1.4 * x**2 + y, 0.3 * x], dim=-1),)


def henon_network() -> Network:
    return Network(HenonMap, 2, 2).double()


def probe_of(jacobians: Tensor) -> Probe:
    """A probe whose recurrence has the given Jacobians, shape (B, N, S, S)."""
    batch_size, num_steps, size, _ = jacobians.shape
    network = Network(partial(GivenJacobians, hidden_size=size), size**2, size).double()
    targets = torch.zeros(batch_size, 1, size, dtype=torch.float64)
    return Probe(network, SquaredError(num_steps, size), Batch(jacobians.flatten(2), targets, (num_steps,)))


def one_layer(cell: Callable[..., Recurrent], hidden_size: int = 3) -> Network:
    return Network(partial(cell, hidden_size=hidden_size), 2, 2).double()


def cell_of(network: Network) -> Any:
    """The cell of a network's first layer."""
    return network.layers[0]["forward_cell"]  # type: ignore[index]


def first_layer(probe: Probe, state: State | None = None) -> StepJacobians:
    """One-step Jacobians of a probe's first layer along its inputs."""
    trace = probe.trace.layers[0]
    return StepJacobians(trace.cell, trace.inputs.detach(), state)


# The slow twin: the exact Jacobian of one sample and step at a time, multiplied out, one decomposition at the end.

Place = tuple[int, str]


def slow_jacobians(cell: Recurrent, own_inputs: list[Tensor], state: State | None = None) -> list[np.ndarray]:
    """J_1 … J_N of one sample, from its initial state unless another is given."""
    state, found = cell.initial_state(1) if state is None else state, []
    for t, x_t in enumerate(own_inputs):
        blocks = torch.autograd.functional.jacobian(lambda *parts, x=x_t, t=t: cell.step(x, parts, t), state)
        shape = [part.numel() for part in state]
        rows = [
            torch.cat([block.reshape(n, m) for block, m in zip(row, shape, strict=True)], dim=1)
            for row, n in zip(blocks, shape, strict=True)
        ]
        found.append(torch.cat(rows).detach().numpy())
        state = tuple(part.detach() for part in cell.step(x_t, state, t))
    return found


def jacobians_along_inputs(probe: Probe, num_samples: int) -> dict[Place, list[list[np.ndarray]]]:
    """Layer and direction -> the Jacobians of each sample."""
    found: dict[Place, list[list[np.ndarray]]] = {}
    for b in range(num_samples):
        x = [x_t[None] for x_t in probe.batch.inputs[b]]
        outputs = oracles_gradients.run_one_sample(probe.network, x, probe.batch.loss_steps)[2]
        for index, layer in enumerate(probe.network.layers):
            for name, cell in layer.items():  # type: ignore[operator]
                direction = name.removesuffix("_cell")
                own_inputs = oracles_gradients.inputs_of_layer(probe, x, outputs, index, direction)
                own_inputs = [x_t.detach() for x_t in own_inputs]
                found.setdefault((index, direction), []).append(slow_jacobians(cell, own_inputs))
    return found


def slow_exponents(jacobians: list[np.ndarray], frame: np.ndarray, transient_steps: int) -> np.ndarray:
    """Exponents of one sample, the largest first, in nats per step."""
    whole, transient = (_log_diagonal(jacobians[:count], frame) for count in (len(jacobians), transient_steps))
    return np.sort((whole - transient) / (len(jacobians) - transient_steps))[::-1]


def _log_diagonal(jacobians: list[np.ndarray], frame: np.ndarray) -> np.ndarray:
    """Logarithms of |R_ii| of the product, in 50 digits: 16 would not resolve what nearly vanishes."""
    with mpmath.workdps(50):
        product = mpmath.matrix(frame.tolist())
        for jacobian in jacobians:
            product = mpmath.matrix(jacobian.tolist()) * product
        triangle = mpmath.qr(product, mode="skinny")[1]
        return np.array([float(mpmath.log(abs(triangle[i, i]))) for i in range(frame.shape[1])])


def slow_dimension(exponents: np.ndarray, size: int) -> float:
    """Kaplan–Yorke dimension of one sample, one exponent after the other."""
    total = 0.0
    for count, exponent in enumerate(exponents):
        if total + exponent < 0:
            return count + total / abs(exponent)
        total += exponent
    return size if len(exponents) == size else np.nan


def slow_entropy_rate(exponents: np.ndarray, size: int) -> float:
    """Sum of the positive exponents of one sample."""
    return np.nan if exponents[-1] > 0 and len(exponents) < size else sum(exponents[exponents > 0])


def slow_table(
    jacobians: Mapping[Place, list[list[np.ndarray]]], num_exponents: int | None, transient_steps: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All columns of `lyapunov_spectrum`, from the Jacobians of every sample; and what rounding may change in them."""
    tables = [_slow_rows(*place, found, num_exponents, transient_steps) for place, found in jacobians.items()]
    expected, errors = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    return expected, errors


def _slow_rows(
    layer: int, direction: str, jacobians: list[list[np.ndarray]], num_exponents: int | None, transient_steps: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    size = len(jacobians[0][0])
    count = num_exponents or size
    frames = [np.eye(size)] if count == size else list(random_frames(size, count).numpy())
    spectra = [np.array([slow_exponents(own, frame, transient_steps) for own in jacobians]) for frame in frames]
    dimensions = [slow_dimension(spectrum, size) for spectrum in spectra[0]]
    rates = [slow_entropy_rate(spectrum, size) for spectrum in spectra[0]]
    expected = pd.DataFrame(
        {
            "layer": layer,
            "direction": direction,
            "exponent": range(1, count + 1),
            **{f"exponent_{name}_nats_per_step": np.quantile(spectra[0], p, axis=0) for name, p in QUANTILES.items()},
            "num_samples": len(jacobians),
            "num_non_finite": 0,
            "num_below_resolution": 0,
            "window_steps": len(jacobians[0]) - transient_steps,
            "transient_steps": transient_steps,
            "state_size": size,
            "sum_rule_residual_nats_per_step": 0.0 if count == size else np.nan,
            "frame_residual_nats_per_step": np.nan if count == size else np.abs(spectra[0] - spectra[1]).max(),
            **{f"kaplan_yorke_dimension_{name}": pd.Series(dimensions).quantile(p) for name, p in QUANTILES.items()},
            "num_undefined_dimensions": np.isnan(dimensions).sum(),
            **{f"entropy_rate_{name}_nats_per_step": pd.Series(rates).quantile(p) for name, p in QUANTILES.items()},
            "num_undefined_entropy_rates": np.isnan(rates).sum(),
        }
    )
    errors = [np.array([exponent_errors(own, frame, transient_steps) for own in jacobians]) for frame in frames]
    return expected, _rounding(spectra, errors)


def _rounding(spectra: list[np.ndarray], errors: list[np.ndarray]) -> pd.DataFrame:
    """What rounding may change, from exponents and their errors, a (B, K) array of each per frame.

    A sum errs by the sum of the errors, and ln |det J| by no more. D = k + Σ_{i ≤ k} λ_i /
    |λ_{k+1}| errs by at most Σ_{i ≤ k+1} δ_i / |λ_{k+1}|, the sum in its numerator being smaller than |λ_{k+1}|.
    """
    exponents, own = spectra[0], errors[0]
    sums, is_below = np.cumsum(own, axis=1), np.cumsum(exponents, axis=1) < 0
    with np.errstate(divide="ignore"):  # beside an exponent of 0 a dimension may be anything
        of_dimension = np.take_along_axis(sums / np.abs(exponents), is_below.argmax(axis=1)[:, None], axis=1).max()
    return pd.DataFrame(
        {
            **{f"exponent_{name}_nats_per_step": np.full(own.shape[1], own.max()) for name in QUANTILES},
            "sum_rule_residual_nats_per_step": 2 * sums.max(),
            "frame_residual_nats_per_step": sum(part.max() for part in errors),
            **{f"kaplan_yorke_dimension_{name}": of_dimension for name in QUANTILES},
            **{f"entropy_rate_{name}_nats_per_step": sums.max() for name in QUANTILES},
        }
    )


Read = Callable[[Probe], pd.DataFrame]


def check_measuring_changes_nothing(read: Read) -> None:
    """Parameters, gradients, random state and mode are left as they are, and a second reading has the same bits."""
    network = NETWORKS["bidirectional"]()
    probe = random_probe(network)
    gradients = [torch.full_like(parameter, 2.0) for parameter in probe.network.parameters()]
    for parameter, gradient in zip(probe.network.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    before = [copy.deepcopy(own.state_dict()) for own in (network, probe.network)]
    random_states = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    first = read(probe)
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert (np.random.get_state()[1] == random_states[1]).all()  # type: ignore[index] # noqa: NPY002
    for own, kept in zip((network, probe.network), before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in own.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    for parameter, gradient in zip(probe.network.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
    assert (network.training, probe.network.training) == (True, False)
    torch.manual_seed(99)
    pd.testing.assert_frame_equal(read(probe), first, rtol=0, atol=0)


def check_any_mode_gives_the_same_bits(read: Read) -> None:
    """A validation hook runs in inference mode; gradients may be on or off."""
    network = NETWORKS["deep"]()
    expected = read(random_probe(network))
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            found = read(random_probe(network))
        pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0)


def check_nan_parameters_are_counted(read: Read, num_samples: int) -> None:
    """Every row says that no sample was finite, and holds no number in nats per step."""
    network = NETWORKS["lstm"]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    rows = read(random_probe(network))
    assert (rows["num_samples"] == num_samples).all()
    assert (rows["num_non_finite"] == num_samples).all()
    assert (rows["num_below_resolution"] == 0).all()
    assert rows.filter(like="nats_per_step").isna().all(axis=None)
    assert rows.filter(like="dimension_").isna().all(axis=None)
    assert (rows.filter(like="num_undefined") == num_samples).all(axis=None)


def check_equal(found: pd.DataFrame, expected: pd.DataFrame, errors: pd.DataFrame) -> None:
    """Every column as `slow_table` expects it, but for rounding."""
    assert list(found.columns) == list(expected.columns)
    assert_within(found, expected, errors)
