"""The measured profile with which closed forms are compared."""

from __future__ import annotations

import numpy as np
import torch

from gradhorizon import state_gradient_profile


def through_time(cell: torch.nn.Module, inputs: torch.Tensor, component: str) -> np.ndarray:
    """Median norm of the through-time part at lags 1 … N."""
    rows = state_gradient_profile(cell, inputs, lambda h: h.sum(dim=1), cuts=range(inputs.shape[1]))
    chosen = rows[(rows["part"] == "through_time") & (rows["component"] == component)]
    return chosen.sort_values("lag")["gradient_norm_median"].to_numpy()
