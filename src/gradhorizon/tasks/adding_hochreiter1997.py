r"""Adding problem of the LSTM paper: both marks in the first half, lengths drawn at random.

One sequence at T = 20, N = 21::

    t        1    2    3    4    5    6    7    8    9   10   11   …   20   21
    value   .31 −.92  .07  .55 −.68  .14  .40 −.83  .22  .09 −.51  …  .77 −.36
    mark    −1    0    0    1    0    0    0    0    1    0    0   …   0   −1
    target                                                                .6925  = 0.5 + (.55 + .22)/4

Notation: B batch, N steps, K = 1 loss step, O = 1 output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from gradhorizon.tasks.task import Batch, ErrorRateTask, drawn_length, one_answer

NUM_FIRST_PAIRS = 10
TOLERANCE = 0.04


class AddingHochreiter1997(ErrorRateTask):
    r"""Scaled sum of the two marked values, due at the last step by a logistic output unit.

    N is uniform over T … T + ⌊T/10⌋, values on [−1, 1]. One of the first ten pairs is marked (its value is X₁), then
    one of the first ⌊T/2⌋ − 1 still unmarked pairs (X₂), so that both lie at least T/2 steps before the end. Marked
    pairs carry 1 in the second feature, the first and the last pair −1 unless marked, all others 0. In the rare case
    that the first pair is marked first, X₁ := 0. With y = 1/2 + (X₁ + X₂)/4 and the prediction a,

    .. math:: L = (\sigma(a) - y)^2

    Metrics: ``loss``; ``accuracy``, the fraction with abs(σ(a) − y) < 0.04.

    Chance: the constant 1/2, the mean and the mode of y. X₁ has the variance (9/10)/3 and X₂ 1/3, hence the loss
    (1.9/3)/16 = 1.9/48. Accuracy 0.9 (1 − (1 − 2·0.04)²) + 0.1 · 4·0.04: y has a triangular density, or a uniform one
    on [1/4, 3/4] where X₁ = 0.

    Solved: at most 3 of 2560 wrong, the most that the paper reports on a test set. On up to 731 validation sequences
    that means none.

    Args:
        seq_len: T, the shortest length.

    Raises:
        ValueError: `seq_len` below 20.

    Source: Hochreiter & Schmidhuber (1997), section 5.4, https://doi.org/10.1162/neco.1997.9.8.1735.

    Deviations: one N a batch (the paper trains on one sequence at a time). "The first T/2 − 1 still unmarked pairs" is
        read as T/2 − 1 candidates, which gives the paper's minimal lag of T/2. "We set X₁ to zero" is read as: the
        value of the first pair becomes 0 and its mark stays 1, where it is the first mark; where it is the second
        one, X₂ is kept. The paper stops training after 2000 correct sequences in a row; here validation decides.

    Example:
        >>> AddingHochreiter1997(seq_len=100).sample(np.random.default_rng(0), batch_size=3, input_len=104).loss_steps
        (104,)
    """

    name: ClassVar[str] = "adding_hochreiter1997"
    min_seq_len: ClassVar[int] = 20
    min_seq_len_reason: ClassVar[str] = "the first ten pairs lie in the first half"
    input_size = 2  # value and mark
    output_size = 1  # the scaled sum, before the logistic function
    max_error_rate = 3.5 / 2560  # half a sequence of slack: means over samples are rounded

    @property
    def chance(self) -> Mapping[str, float]:
        """See the class."""
        edge = 1 / NUM_FIRST_PAIRS
        return {
            "loss": ((1 - edge) / 3 + 1 / 3) / 16,
            "accuracy": (1 - edge) * (1 - (1 - 2 * TOLERANCE) ** 2) + edge * 4 * TOLERANCE,
        }

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        """A batch; factors ``first_marked_step`` (of X₁) and ``second_marked_step`` (t, from 1), shape (B,) each.

        Raises:
            ValueError: `input_len` outside T … T + ⌊T/10⌋.
        """
        input_len = drawn_length(self, generator, input_len)
        rows = np.arange(batch_size)
        first = generator.integers(NUM_FIRST_PAIRS, size=batch_size)
        second = generator.integers(self.seq_len // 2 - 1, size=batch_size)
        second += second >= first
        inputs = np.zeros((batch_size, input_len, 2), dtype=np.float32)
        inputs[..., 0] = 2 * generator.random((batch_size, input_len), dtype=np.float32) - 1
        inputs[first == 0, 0, 0] = 0
        inputs[:, [0, -1], 1] = -1
        inputs[rows, first, 1] = 1
        inputs[rows, second, 1] = 1
        targets = 0.5 + (inputs[rows, first, 0] + inputs[rows, second, 0]) / 4
        return one_answer(inputs, targets.reshape(-1, 1, 1), first_marked_step=first + 1, second_marked_step=second + 1)

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Squared error of the logistic output, shape (B, 1)."""
        return (predictions.sigmoid() - targets).square().squeeze(-1)

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """An absolute error of the logistic output below 0.04, shape (B, 1)."""
        return ((predictions.sigmoid() - targets).abs() < TOLERANCE).squeeze(-1)
