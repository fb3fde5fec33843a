r"""Readouts: from the features of the last recurrent layer to predictions at the task's loss steps.

Notation: B batch, N steps, K loss steps, F features (H, or 2H if bidirectional), O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Readout(nn.Module, ABC):
    """A map from features to predictions at the loss steps.

    Args:
        num_features: F.
        output_size: O.
    """

    reads_all_steps: bool = False
    """Whether the features of every step are needed, or those of the loss steps alone."""

    def __init__(self, num_features: int, output_size: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.output_size = output_size

    @abstractmethod
    def forward(
        self,
        queries: Float[Tensor, "B K F"],
        features: Float[Tensor, "B N F"] | None,
        is_visible: Bool[Tensor, "K N"] | None,
    ) -> Float[Tensor, "B K O"]:
        """Predictions, shape (B, K, O).

        Args:
            queries: features at the loss steps, shape (B, K, F).
            features: features at every step, shape (B, N, F); None unless `reads_all_steps`.
            is_visible: shape (K, N), whether loss step k may look at step t; None unless `reads_all_steps`.
        """


class StateReadout(Readout):
    r"""Affine map of the features at the loss step: :math:`\hat y = W q + b`.

    Args:
        num_features: F.
        output_size: O.
    """

    def __init__(self, num_features: int, output_size: int) -> None:
        super().__init__(num_features, output_size)
        self.affine = nn.Linear(num_features, output_size)

    def forward(
        self,
        queries: Float[Tensor, "B K F"],
        features: Float[Tensor, "B N F"] | None = None,  # noqa: ARG002
        is_visible: Bool[Tensor, "K N"] | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "B K O"]:
        """Predictions, shape (B, K, O)."""
        predictions: Tensor = self.affine(queries)
        return predictions


class AttentionReadout(Readout):
    r"""Affine map of query and context, the context being an attention-weighted mean of all visible features.

    .. math::
        e_{kt} = \mathrm{score}(q_k, y_t), \quad a_k = \mathrm{softmax}_t(e_{kt}), \quad
        \hat y_k = W [q_k; \textstyle\sum_t a_{kt} y_t] + b

    Args:
        num_features: F.
        output_size: O.
        score: module (queries (B, K, F), features (B, N, F)) -> scores (B, K, N), built with ``num_features``.

    Source: Bahdanau, Cho & Bengio (2015), §3.1 and appendix A.1.2 (additive), https://arxiv.org/abs/1409.0473;
        Vaswani et al. (2017), §3.2.1 (scaled dot product), https://arxiv.org/abs/1706.03762. The query is the
        recurrent state itself, not a decoder's.
    """

    reads_all_steps = True

    def __init__(self, num_features: int, output_size: int, score: type[nn.Module]) -> None:
        super().__init__(num_features, output_size)
        self.score = score(num_features)
        self.affine = nn.Linear(2 * num_features, output_size)

    def forward(
        self,
        queries: Float[Tensor, "B K F"],
        features: Float[Tensor, "B N F"] | None,
        is_visible: Bool[Tensor, "K N"] | None,
    ) -> Float[Tensor, "B K O"]:
        """Predictions, shape (B, K, O)."""
        if features is None or is_visible is None:
            raise ValueError("attention reads the features of every step, got those of the loss steps alone")
        scores = self.score(queries, features).masked_fill(~is_visible, -torch.inf)
        context = scores.softmax(dim=-1) @ features
        predictions: Tensor = self.affine(torch.cat([queries, context], dim=-1))
        return predictions


class AdditiveScore(nn.Module):
    r"""Additive attention score, :math:`e = v^\top \tanh(W q + U y)`.

    Args:
        num_features: F.

    Source: Bahdanau, Cho & Bengio (2015), appendix A.1.2, https://arxiv.org/abs/1409.0473.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.query = nn.Linear(num_features, num_features, bias=False)
        self.key = nn.Linear(num_features, num_features, bias=False)
        self.vector = nn.Linear(num_features, 1, bias=False)

    def forward(self, queries: Float[Tensor, "B K F"], features: Float[Tensor, "B N F"]) -> Float[Tensor, "B K N"]:
        """Scores, shape (B, K, N)."""
        mixed = torch.tanh(self.query(queries).unsqueeze(2) + self.key(features).unsqueeze(1))
        scores: Tensor = self.vector(mixed)
        return scores.squeeze(-1)


class ScaledDotProductScore(nn.Module):
    r"""Scaled dot-product attention score, :math:`e = (W q)^\top (U y) / \sqrt{F}`.

    Args:
        num_features: F.

    Source: Vaswani et al. (2017), equation 1, https://arxiv.org/abs/1706.03762.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.query = nn.Linear(num_features, num_features, bias=False)
        self.key = nn.Linear(num_features, num_features, bias=False)
        self.scale = num_features**-0.5

    def forward(self, queries: Float[Tensor, "B K F"], features: Float[Tensor, "B N F"]) -> Float[Tensor, "B K N"]:
        """Scores, shape (B, K, N)."""
        scores: Tensor = self.scale * self.query(queries) @ self.key(features).transpose(1, 2)
        return scores
