"""Whether a module is a function of its inputs: a call that is repeated gives the same, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradhorizon.kernels.attributes import are_same_tensors, changed, kept

_GPU_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Sums of atomic additions come in any order: some hundred units of roundoff, grown by a recurrence."""

Run = Callable[[], list[Tensor]]


def refuse_kept_state(module: nn.Module, run: Run, between: Run, first: list[Tensor]) -> list[Tensor] | None:
    """Refuse a module whose calls depend on earlier ones.

    After N steps, 2 N, and 3 N − 1, counters of every period but 1 are found at another place. What the first call
    alone leaves behind, a cache, is nobody's concern.

    Args:
        module: what `run` calls, after one call.
        run: calls it on N steps; all tensors that it returns.
        between: calls it on N − 1 steps; may fail, since not every module takes two lengths.
        first: what `run` returned the first time.

    Returns:
        What `between` returned; None if it failed.

    Raises:
        ValueError: other results, or other attributes or buffers, after a second call or a third.
    """
    tolerance = _tolerance(first)
    before = kept(module)
    again = run()
    found = changed(before, kept(module), tolerance)
    if found or not are_same_tensors(first, again, tolerance):
        _refuse(module, found)
    try:
        shorter = between()
    except Exception:  # noqa: BLE001, a module of one length is a module too
        return None
    if not are_same_tensors(first, run(), tolerance):
        _refuse(module, changed(before, kept(module), tolerance))
    return shorter


def _refuse(module: nn.Module, found: list[str]) -> None:
    what = f"`{found[0]}` changed at every call" if found else "a repeated call with another result"
    raise ValueError(
        f"{type(module).__name__} must keep nothing from one call to the next, got {what}; start counters and states "
        "afresh inside of `forward`"
    )


def _tolerance(tensors: list[Tensor]) -> float:
    on_gpu = [tensor for tensor in tensors if tensor.device.type != "cpu"]
    return max((_GPU_TOLERANCES.get(tensor.dtype, 1e-1) for tensor in on_gpu), default=0.0)
