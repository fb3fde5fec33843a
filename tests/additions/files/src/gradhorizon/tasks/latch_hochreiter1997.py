r"""Latch: the sign of the first three values, to be kept through noise on the same channel.

One sequence at T = 10, N = 11::

    t        1    2    3    4    5    6    7    8    9   10   11
    value   −1   −1   −1  .31 −.52  .07  .55 −.18  .64 −.40 −.11
    target                                                    0

Notation: B batch, N steps, K = 1 loss step, O = 1 output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from gradhorizon.tasks.task import Batch, ErrorRateTask, drawn_length, one_answer

NUM_INFORMATIVE = 3
NOISE_VARIANCE = 0.2
TOLERANCE = 0.2


class LatchHochreiter1997(ErrorRateTask):
    r"""Class of a sequence whose first three values are all 1 or all −1, due at the last step by a logistic unit.

    N is uniform over T … T + ⌊T/10⌋. Classes are equally likely: class 1 has the target y = 1 and opens with three
    values 1, the other has y = 0 and opens with three values −1. All later values are noise from N(0, 0.2). With the
    prediction a,

    .. math:: L = (\sigma(a) - y)^2

    Metrics: ``loss``; ``accuracy``, the fraction with abs(σ(a) − y) < 0.2.

    Chance: the constant 1/2 gives the loss 1/4; one class at all times is right for 1/2.

    Solved: none of 256 wrong, the paper's first stopping criterion.

    Args:
        seq_len: T, the shortest length.

    Raises:
        ValueError: `seq_len` below 4.

    Source: Hochreiter & Schmidhuber (1997), section 5.3, task 3a with three informative elements,
        https://doi.org/10.1162/neco.1997.9.8.1735, after the 2-sequence problem of Bengio, Simard & Frasconi (1994).

    Deviations: one N a batch (the paper trains on one sequence at a time). The paper's second criterion also asks for a
        mean absolute error below 0.01.

    Example:
        >>> LatchHochreiter1997(seq_len=100).sample(np.random.default_rng(0), batch_size=3, input_len=104).inputs.shape
        torch.Size([3, 104, 1])
    """

    name: ClassVar[str] = "latch_hochreiter1997"
    min_seq_len: ClassVar[int] = NUM_INFORMATIVE + 1
    min_seq_len_reason: ClassVar[str] = "a step of noise after three informative ones"
    input_size = 1  # the value
    output_size = 1  # the class, before the logistic function
    max_error_rate = 0.5 / 256  # half a sequence of slack: means over samples are rounded

    @property
    def chance(self) -> Mapping[str, float]:
        """See the class."""
        return {"loss": 1 / 4, "accuracy": 1 / 2}

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        """A batch; its factor ``sign``, shape (B,), is what the first three values are.

        Raises:
            ValueError: `input_len` outside T … T + ⌊T/10⌋.
        """
        input_len = drawn_length(self, generator, input_len)
        sign = 2 * generator.integers(2, size=batch_size) - 1
        inputs = generator.normal(scale=NOISE_VARIANCE**0.5, size=(batch_size, input_len, 1)).astype(np.float32)
        inputs[:, :NUM_INFORMATIVE, 0] = sign[:, np.newaxis]
        return one_answer(inputs, (sign > 0).astype(np.float32).reshape(-1, 1, 1), sign=sign)

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Squared error of the logistic output, shape (B, 1)."""
        return (predictions.sigmoid() - targets).square().squeeze(-1)

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """An absolute error of the logistic output below 0.2, shape (B, 1)."""
        return ((predictions.sigmoid() - targets).abs() < TOLERANCE).squeeze(-1)
