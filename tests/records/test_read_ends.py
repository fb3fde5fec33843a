"""Profiles of bidirectional networks by the distance to the nearest end that is read, on U-shapes that are known."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from gradhorizon.cells.elman import Elman
from gradhorizon.measurements.input_gradients import InputGradients
from gradhorizon.measurements.probe import Probe
from gradhorizon.measurements.schedule import LogSpaced
from gradhorizon.network import Network
from gradhorizon.records.read_ends import VALUE, by_read_end, is_bidirectional
from gradhorizon.tasks.adding_arjovsky2016 import AddingArjovsky2016
from gradhorizon.tasks.copy_arjovsky2016 import CopyArjovsky2016
from gradhorizon.tasks.task import Task


def rows(norms: np.ndarray, probed_step: int | None = None, has_one_loss: bool = True) -> pd.DataFrame:
    """Rows of one member at one probe; `norms` by input step."""
    t = np.arange(1, len(norms) + 1)
    own = {"gradient_norm_median": norms, "training_loss_gradient_norm_median": norms * (1.0 if has_one_loss else 0.1)}
    lag = (probed_step or len(norms)) - t
    return pd.DataFrame({"t": t, "lag": lag, "lag_from_start": t - 1, VALUE: norms, **own}).assign(seed=0, step=0)


def folded(table: pd.DataFrame) -> dict[int, float]:
    found = by_read_end(table, True)
    assert not found["lag"].duplicated().any()
    return dict(zip(found["lag"], found[VALUE], strict=True))


@pytest.mark.parametrize("input_len", [1, 2, 3, 99, 100])
def test_u_is_folded_on_its_nearest_end(input_len: int) -> None:
    lags = np.arange(input_len)
    found = folded(rows(np.exp(-0.4 * np.minimum(lags, input_len - 1 - lags))))
    assert found == {d: pytest.approx(np.exp(-0.4 * d), rel=1e-12) for d in range((input_len + 1) // 2)}


def test_of_two_steps_at_one_distance_the_larger_gradient_counts() -> None:
    norms = np.array([0.5, 0.1, 0.0, np.nan, 0.3, 1.0])
    assert folded(rows(norms)) == {0: 1.0, 1: 0.3, 2: 0.0}


@pytest.mark.parametrize("has_two_directions", [True, False])
def test_rows_of_one_direction_are_handed_back_as_they_are(has_two_directions: bool) -> None:
    table = rows(np.exp(-0.1 * np.arange(9)))
    assert (by_read_end(table, has_two_directions) is table) == (not has_two_directions)


def test_losses_at_several_steps_are_felt_through_both_directions_at_the_probed_one() -> None:
    norms = np.array([0.1, 0.2, 0.9, 1.0, 0.4, 0.3])
    assert folded(rows(norms, probed_step=4, has_one_loss=False)) == {0: 1.0, 1: 0.9, 2: 0.3, 3: 0.1}
    assert folded(rows(norms, has_one_loss=False)) == {5 - step: norm for step, norm in enumerate(norms)}


def test_members_and_probes_are_folded_apart() -> None:
    first, second = rows(np.array([0.9, 0.1, 1.0])), rows(np.array([0.2, 0.3, 1.0]))
    both = pd.concat([first, second.assign(seed=1), second.assign(step=7)], ignore_index=True)
    found = by_read_end(both, True).groupby(["seed", "step"])[VALUE].apply(sorted)
    assert found.to_dict() == {(0, 0): [0.1, 1.0], (1, 0): [0.3, 1.0], (0, 7): [0.3, 1.0]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model": {"bidirectional": True}}, True),
        ({"model": {"bidirectional": False}}, False),
        ({"model": {}}, False),
        ({"model": "lstm"}, False),
        ({}, False),
    ],
)
def test_direction_is_read_from_the_configuration(config: dict[str, object], expected: bool) -> None:
    assert is_bidirectional(config) is expected


@pytest.mark.parametrize("input_len", [40, 41])
@pytest.mark.parametrize("max_lags", [1024, 6])
def test_network_that_halves_its_gradient_per_step_halves_it_with_the_distance(input_len: int, max_lags: int) -> None:
    probe = _probe(AddingArjovsky2016(seq_len=input_len), readout=1.0)
    table = InputGradients(LogSpaced(1), max_lags).read(probe)
    assert len(table) == input_len if max_lags > input_len else len(table) < input_len
    for distance, norm in folded(table.assign(seed=0, step=0)).items():
        assert norm == pytest.approx(0.5**distance + 0.5 ** (input_len - 1 - distance), rel=1e-6)


def test_measured_profile_of_copy_is_read_at_the_probed_step() -> None:
    probe = _probe(CopyArjovsky2016(seq_len=9), readout=0.1)
    table = InputGradients(LogSpaced(1)).read(probe).assign(seed=0, step=0)
    assert sorted(folded(table)) == list(range(probe.input_len))


def _probe(task: Task, readout: float) -> Probe:
    """Two directions of one unit, h ← tanh(h/2 + 10⁻⁶ x): so small that each halves the gradient per step, exactly."""
    network = Network(partial(Elman, hidden_size=1), task.input_size, task.output_size, bidirectional=True)
    with torch.no_grad():
        for name, parameter in network.layers.named_parameters():
            parameter.fill_(0.5 if "weight_hh" in name else 1e-6 if "weight_ih" in name else 0.0)
        network.readout.get_parameter("affine.weight").fill_(readout)
    return Probe(network, task, task.sample(np.random.default_rng(0), 4))
