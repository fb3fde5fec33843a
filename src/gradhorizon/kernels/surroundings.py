"""One set of surroundings for every measurement, whatever the caller has set for its own purposes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_AUTOCAST = ("cpu", "cuda")


@contextmanager
def own_surroundings(device: torch.device | str = "cpu") -> Iterator[None]:
    """Gradients on; inference mode, autocast and anomaly mode off; float32 and no device by default; random state kept.

    So the same module gives the same numbers under ``torch.no_grad``, ``torch.autocast``,
    ``torch.set_default_dtype`` or ``torch.set_default_device``.

    Args:
        device: whose random state is restored on leaving, beside the CPU's.
    """
    device = torch.device(device)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for kind in {*_AUTOCAST, device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        stack.enter_context(_default_dtype(torch.float32))
        if torch.get_default_device().type != "cpu":  # a device context slows every operation inside
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
