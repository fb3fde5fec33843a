"""Parts of a network that are no recurrence: encoder, readout, layers that map a whole sequence."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradhorizon.cells.called import name_of
from gradhorizon.cells.cell import Recurrent
from gradhorizon.kernels.conduct import LENGTHS, check_conduct, evaluation_copy
from gradhorizon.kernels.shapes import BATCH_SIZE, in_words
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.network import Network
from gradhorizon.readouts import Readout
from gradhorizon.tasks.task import Task
from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)


def check_modules(network: Network, task: Task) -> None:
    """Refuse an encoder, a readout or a layer without recurrence that is not measured as what it is.

    Args:
        network: left as it is.
        task: whose inputs the encoder is given.

    Raises:
        ConductError: one line: what was found, what to write instead.
    """
    batch = task.sample(np.random.default_rng(0), BATCH_SIZE, task.input_len)
    inputs = batch.inputs[:, : max(LENGTHS)].double()
    with own_surroundings():
        _check_one(network.encoder, inputs)
        for layer in network.cells():
            if not isinstance(layer, Recurrent):
                _check_one(layer, _random(inputs.shape[1], layer.input_size))
        readout = network.readout
        _check_readout(readout, _random(inputs.shape[1], readout.num_features))


def _random(num_steps: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH_SIZE, num_steps, size, generator=generator, dtype=torch.float64)


def _check_one(module: nn.Module, inputs: Tensor) -> None:
    copied = evaluation_copy(module, torch.float64, "cpu")
    with in_words(f"{name_of(module)}.forward"):
        watch = check_conduct(copied, copied, inputs)
    for operation, dtype in watch.narrowed.items():
        say_once(
            log,
            f"note: {name_of(module)} rounds weights to {dtype} ({operation}): gradients are those of rounded weights",
        )


def _check_readout(readout: Readout, features: Tensor) -> None:
    copied = evaluation_copy(readout, torch.float64, "cpu")

    def run(own: Tensor) -> Any:
        if not readout.reads_all_steps:
            return copied(own[:, -1:], None, None)
        return copied(own[:, -1:], own, torch.ones(1, own.shape[1], dtype=torch.bool))

    with in_words(f"{type(readout).__name__}.forward"):
        check_conduct(copied, run, features)
