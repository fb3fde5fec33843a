"""What a run computes with: threads, precision flags, dtype, and kernels that were held against their definition."""

from __future__ import annotations

import logging

import torch

from gradhorizon.cells.cell import Recurrent
from gradhorizon.config import ConfigError, RunConfig
from gradhorizon.kernels.casting import NoComplexFormatError
from gradhorizon.kernels.conduct import ConductError
from gradhorizon.kernels.contract import check_contract, check_training_memory
from gradhorizon.kernels.gate import (
    KernelMismatchError,
    SamplesInteractError,
    check_independent_samples,
    check_kernel,
)
from gradhorizon.kernels.network_modules import check_modules
from gradhorizon.machine.randomness import kept_rng
from gradhorizon.training.build import Setup


def configure_torch(run: RunConfig) -> None:
    """Set the threads of a run, and its precision flags."""
    torch.set_num_threads(run.num_threads)
    configure_precision()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


def configure_precision() -> None:
    """Make float32 the default and turn reduced-precision matrix products off: the one place for such flags."""
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def training_dtype(run: RunConfig) -> torch.dtype:
    """Dtype of the parameters while they train."""
    return torch.float64 if run.precision == "64-true" else torch.float32


def check_kernels(setup: Setup, device: str, run: RunConfig) -> None:
    """Hold what trains, and what probes run on (native kernels in evaluation mode), against the textbook loop.

    Before that, every part must be a fixed function of what it is given; see `gradhorizon.kernels`.

    Args:
        setup: whose network is checked.
        device: where it runs.
        run: says in which precision.

    Raises:
        ConfigError: a cell's `segment` computes something else than the loop over its `step`, its samples interact, or
            a part of the network is not measured as what it is.
    """
    with kept_rng():
        network = setup.build_network()
    try:
        check_modules(network, setup.task)
        for cell in {type(cell): cell for cell in network.cells() if isinstance(cell, Recurrent)}.values():
            check_contract(cell)
            if run.recompute_every is not None:
                check_training_memory(cell)
            check_kernel(cell, device, training_dtype(run))
            if run.precision == "bf16-mixed":
                check_kernel(cell, device, torch.bfloat16)
            with torch.backends.cudnn.flags(enabled=False):
                check_kernel(cell, "cpu" if device.startswith("mps") else device, torch.float64, training=False)
            check_independent_samples(cell)
    except (KernelMismatchError, SamplesInteractError, ConductError, NoComplexFormatError) as error:
        raise ConfigError(str(error)) from error
