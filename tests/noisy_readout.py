"""A readout of a user's own that draws noise while it trains."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout

from gradhorizon.readouts import StateReadout


class NoisyReadout(StateReadout):
    """The state readout behind dropout."""

    def forward(self, queries: Tensor, features: Tensor | None = None, is_visible: Tensor | None = None) -> Tensor:
        return super().forward(dropout(queries, 0.5, self.training), features, is_visible)


def is_noisy(readout: NoisyReadout) -> bool:
    """Whether two passes differ."""
    queries = torch.ones(1, 1, readout.num_features)
    return not torch.equal(readout(queries), readout(queries))
