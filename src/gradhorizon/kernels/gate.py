r"""The kernel gate: no measurement before a cell's `segment` has been held against its float64 `step` loop.

Fused kernels and parallel scans have shipped with gradients that were silently wrong on one device or dtype. So
outputs, final state and every gradient of a short random segment are compared, once per process, cell
configuration, device and dtype, with the textbook equation run one step at a time on the CPU in float64.

Notation: B batch, N steps, D input size; the error of a tensor a against its reference b is ‖a − b‖ / ‖b‖.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Hashable
from inspect import isroutine

import torch

from gradhorizon.cells.called import method_of, name_of
from gradhorizon.cells.cell import Recurrent
from gradhorizon.kernels.casting import cast
from gradhorizon.kernels.conduct import LENGTHS, NOISE, ConductError, check_repeats
from gradhorizon.kernels.quantities import draws_of, quantities_of, relative_errors, run_segment, run_steps
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.terminal.once import say_once

TOLERANCES: dict[torch.dtype, float] = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 2e-1,
    torch.bfloat16: 2e-1,
}
"""Largest relative error that rounding may cause in a short segment; dimensionless.

Correct kernels err by a few units of roundoff (1e-16, 1e-7, 1e-3, 1e-2), a chaotic network of gain 5 by up to a hundred
times that, and in 16 bits a ReLU at its kink may take the other side. A dropped term, a stale state or a transposed
weight is wrong by about 1. TensorFloat-32 (some 1e-3) does not pass for float32.
"""

_ONLY_WHILE_TRAINING = (
    "note: {name} draws random numbers while it trains and none in evaluation mode, in which it is measured: tables of "
    "states and inputs are those of the cell without noise"
)

_passed: set[Hashable] = set()
log = logging.getLogger(__name__)


class KernelMismatchError(RuntimeError):
    """A cell's `segment` computes something else than the loop over its `step`."""


class SamplesInteractError(ConductError):
    """A cell lets one sample of a batch feel another."""


def check_kernel(cell: Recurrent, device: torch.device | str, dtype: torch.dtype, training: bool = True) -> None:
    """Refuse a cell whose `segment` differs from its `step` loop on `device` in `dtype`.

    A cell without a kernel of its own that draws random numbers in training mode alone (dropout, zoneout) trains by
    its definition. A pass is remembered for the process, per class, configuration, device, dtype, mode and cuDNN
    switch. Weights from which even the float64 loop overflows test no kernel: then nothing is checked and nothing
    remembered.

    Args:
        cell: left as it is: parameters, their gradients, mode and all random states.
        device: where `segment` will run.
        dtype: float64, float32, float16 or bfloat16.
        training: in training mode, else in evaluation mode, as probes run.

    Raises:
        KernelMismatchError: an error above `TOLERANCES`, or one that is NaN; or the loop itself gives other numbers
            when it is run again.
        ConductError: in evaluation mode, the cell keeps something between calls.
        ValueError: another dtype.
    """
    device = torch.device(device)
    key = (*configuration(cell), device, dtype, training, torch.backends.cudnn.enabled)
    if key in _passed:
        return
    if not training:
        _check_repeats(cell)
    errors = kernel_errors(cell, device, dtype, training=training)
    for quantity, error in errors.items():
        if not error <= TOLERANCES[dtype]:
            if training and is_noisy_in_training(cell):
                say_once(log, _ONLY_WHILE_TRAINING.format(name=name_of(cell)))
                break
            said = NOISE.format(name=method_of(cell, "step")) if _is_random(cell, training) else None
            raise KernelMismatchError(said or _message(cell, device, dtype, quantity, error))
    if errors:
        _passed.add(key)


def kernel_errors(
    cell: Recurrent,
    device: torch.device | str,
    dtype: torch.dtype,
    input_len: int = 7,
    batch_size: int = 3,
    training: bool = True,
) -> dict[str, float]:
    """Relative errors of `segment` on `device` in `dtype` against the float64 `step` loop on the CPU.

    Both run on the same weights, inputs and non-zero initial state, rounded to `dtype` beforehand.

    Args:
        cell: left as it is.
        device: where `segment` runs.
        dtype: float64, float32, float16 or bfloat16.
        input_len: N; short, so that a chaotic network does not amplify rounding into an error.
        batch_size: B.
        training: in training mode, else in evaluation mode, in which cuDNN knows no backward pass.

    Returns:
        Quantity -> relative error, dimensionless: ``outputs``, ``final_state/<component>``, ``input_gradient``,
        ``initial_state_gradient/<component>``, ``parameter_gradient/<name>``. Empty if the reference itself is
        not finite. Of parameters, relative to a hundredth of the norm of them all where their own is smaller.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in TOLERANCES:
        raise ValueError(f"`dtype` must be one of {', '.join(map(str, TOLERANCES))}, got {dtype}")
    device = torch.device(device)
    with own_surroundings(device):
        tested = cast(copy.deepcopy(cell), dtype, device).train(training)
        loop = cast(copy.deepcopy(tested), torch.float64, "cpu")
        draws = draws_of(cell, dtype, input_len, batch_size)
        expected = quantities_of(loop, draws, run_steps)
        if not all(tensor.isfinite().all() for tensor in expected.values()):
            return {}
        found = quantities_of(tested, {name: draw.to(device, dtype) for name, draw in draws.items()}, run_segment)
    return relative_errors(found, expected)


def is_noisy_in_training(cell: Recurrent) -> bool:
    """Whether `cell` draws random numbers in training mode alone, and runs its own `step` there: nothing to compare.

    Args:
        cell: left as it is.
    """
    has_kernel = type(cell).segment is not Recurrent.segment
    return not has_kernel and _is_random(cell, training=True) and not _is_random(cell, training=False)


def check_independent_samples(cell: Recurrent, batch_size: int = 3) -> None:
    """Refuse a cell that lets one sample feel another in evaluation mode: norms per sample would be those of a mixture.

    A pass is remembered for the process, per class and configuration.

    Args:
        cell: left as it is: parameters, their gradients, mode and all random states.
        batch_size: B, at least 2.

    Raises:
        SamplesInteractError: the last sample's outputs or final state depend on another sample.
    """
    key = (*configuration(cell), "independent samples")
    if key in _passed:
        return
    with own_surroundings():
        loop = cast(copy.deepcopy(cell), torch.float64, "cpu").eval()
        draws = draws_of(cell, torch.float64, input_len=2, batch_size=batch_size)
        felt = [draws["x"], *(draws[f"state/{name}"] for name in cell.state_shapes)]
        x, *state = (own.requires_grad_() for own in felt)
        outputs, final_state = run_steps(loop, x, tuple(state))
        of_last = torch.stack([part[-1].sum() for part in (outputs, *final_state)]).sum()
        gradients = torch.autograd.grad(of_last, felt, materialize_grads=True)
    # Where numbers overflow, 0 · NaN reaches every sample.
    if any(bool((gradient[:-1].isfinite() & (gradient[:-1] != 0)).any()) for gradient in gradients):
        raise SamplesInteractError(
            f"samples must not interact, got a {name_of(cell)} whose last sample depends on others of its batch "
            "in evaluation mode: every norm per sample would be that of a mixture; reduce over features, not over "
            "dimension 0"
        )
    _passed.add(key)


def _check_repeats(cell: Recurrent) -> None:
    with own_surroundings():
        loop = cast(copy.deepcopy(cell), torch.float64, "cpu").eval()
        draws = draws_of(cell, torch.float64, max(LENGTHS), batch_size=2)
        x, state = draws["x"], tuple(draws[f"state/{name}"] for name in cell.state_shapes)
        with torch.no_grad():
            check_repeats(loop, lambda length: run_steps(loop, x[:, :length], state), tolerance=TOLERANCES[x.dtype])


def _is_random(cell: Recurrent, training: bool) -> bool:
    """Whether the loop over `step` draws from PyTorch's generator, or gives other numbers when it is run again."""
    with own_surroundings():
        loop = cast(copy.deepcopy(cell), torch.float64, "cpu").train(training)
        draws = draws_of(cell, torch.float64, input_len=2, batch_size=2)
        random_state = torch.get_rng_state()
        first, second = (quantities_of(loop, draws, run_steps) for _ in range(2))
        if not torch.equal(random_state, torch.get_rng_state()):
            return True
    return not all(torch.equal(first[name], second[name]) for name in first)


def configuration(cell: Recurrent) -> tuple[Hashable, ...]:
    """What decides which code a cell runs: its class, plain settings and shapes, and not the values of its weights."""
    settings = [
        (name, type(module), *sorted((key, value) for key, value in vars(module).items() if _is_setting(key, value)))
        for name, module in cell.named_modules()
    ]
    return (*settings, *((name, parameter.shape) for name, parameter in cell.named_parameters()))


def _is_setting(key: str, value: object) -> bool:
    # A function that a cell was given is known by itself: two cells of one class may differ in nothing else.
    return key != "training" and (isinstance(value, bool | int | float | str) or isroutine(value))


def _message(cell: Recurrent, device: torch.device, dtype: torch.dtype, quantity: str, error: float) -> str:
    tf32 = device.type == "cuda" and dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return (
        f"`{name_of(cell)}.segment` must equal the loop over its `step`: on {device} in {dtype} its "
        f"{quantity} is off by {error:.2g}, relative to its norm (tolerance {TOLERANCES[dtype]:.0e}). "
        "Nothing measured with it would be true; mend `segment`, delete it (the default loops over `recur`), or use "
        "another device or dtype"
        + ("; TF32 is allowed and may be the cause: set torch.backends.cudnn.allow_tf32 = False" if tf32 else "")
    )
