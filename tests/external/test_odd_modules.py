"""Modules of people who have never heard of this package: the right numbers, or one line before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from gradhorizon.config import ConfigError, validate
from gradhorizon.measurements.probe import Probe
from gradhorizon.training.build import build_setup
from gradhorizon.training.numerics import check_kernels
from gradhorizon.training.streams import probe_batch
from tests.external.odd_modules import REFUSED, SOUND_CELLS, SOUND_LAYERS
from tests.external.proofs import configuration
from tests.external.specimens import Specimen

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


def checked_probe(kind: type[nn.Module]) -> Probe:
    """What measurements of the untrained network read, after all that is checked before training."""
    cfg = configuration(Specimen("", f"{kind.__module__}.{kind.__name__}"), Path("runs"))
    run = validate(cfg)
    setup = build_setup(cfg, run)
    check_kernels(setup, "cpu", run)
    return Probe(setup.build_network(), setup.task, probe_batch(setup.task, 0, 3), num_cuts=8)


def loss(probe: Probe, last: Tensor) -> Tensor:
    affine: Any = probe.network.readout.affine
    return probe.task.loss(affine(last).unsqueeze(1), probe.batch.targets)[:, -1].sum()


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", SOUND_CELLS, ids=lambda kind: kind.__name__)
def test_a_sound_cell_is_measured_as_its_author_calls_it(kind: type[nn.Module]) -> None:
    probe = checked_probe(kind)
    call: Callable[..., Any] = SOUND_CELLS[kind]
    module = probe.network.cells()[0].module
    x, state, output = probe.batch.inputs.clone().requires_grad_(), None, torch.zeros(())
    reached = []
    for x_t in x.unbind(1):
        output, state = call(module, x_t, state)
        reached.append(state)
    assert_near(probe.input_gradient, torch.autograd.grad(loss(probe, output), x)[0])
    for cut in probe.state_gradients:
        if not 0 < cut.t < x.shape[1]:
            continue
        leaves, form = tree_flatten(tree_map(lambda part: part.detach().requires_grad_(), reached[cut.t - 1]))
        state = tree_unflatten(leaves, form)
        for x_t in probe.batch.inputs.unbind(1)[cut.t :]:
            output, state = call(module, x_t, state)
        expected = torch.autograd.grad(loss(probe, output), leaves, materialize_grads=True)
        for found, own in zip(cut.through_time, expected, strict=False):
            assert_near(found, own)
        assert len(expected) <= len(cut.through_time) <= len(expected) + 1  # an output that is no part of the state


@pytest.mark.parametrize("kind", SOUND_LAYERS, ids=lambda kind: kind.__name__)
def test_a_sound_layer_is_measured_as_its_author_reads_it(kind: type[nn.Module]) -> None:
    probe = checked_probe(kind)
    x = probe.batch.inputs.clone().requires_grad_()
    outputs = SOUND_LAYERS[kind](copy.deepcopy(probe.network.cells()[0].module), x)
    assert_near(probe.input_gradient, torch.autograd.grad(loss(probe, outputs[:, -1]), x)[0])
    assert probe.state_gradients == []


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_measured_is_refused_in_words_of_its_own(kind: type[nn.Module]) -> None:
    lead, rest = REFUSED[kind]
    with pytest.raises(ConfigError) as caught:
        checked_probe(kind)
    said = str(caught.value).removeprefix("model: ")
    assert said.startswith(lead)
    assert rest in said
    assert "\n" not in said
    assert "CalledCell" not in said
    assert ".recur" not in said
