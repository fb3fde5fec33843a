"""Surroundings that callers may have set for purposes of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "anomaly": partial(torch.autograd.set_detect_anomaly, True),
    "device": partial(torch.device, "meta"),
}
