r"""Adding problem with one mark in each half of the sequence.

One sequence at T = 8::

    t        1    2    3    4    5    6    7    8
    value   .31  .92  .07  .55  .68  .14  .40  .83
    mark     0    1    0    0    0    0    1    0
    target                                    1.32  = .92 + .40

Notation: B batch, T steps, K = 1 loss step, O = 1 output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from gradhorizon.tasks.task import Batch, LastStepTask, one_answer

TOLERANCE = 0.08


class AddingArjovsky2016(LastStepTask):
    r"""Sum of the two marked values, due at the last step.

    Values are uniform on [0, 1]. The first mark is uniform over t = 1 … ⌊T/2⌋, the second over t = ⌊T/2⌋ + 1 … T;
    marked steps carry 1 in the second feature, all others 0. With targets y = u₁ + u₂,

    .. math:: L = (\hat y - y)^2

    Metrics: ``loss``, the squared error; ``accuracy``, the fraction with an absolute error below 0.08, which is
    Hochreiter & Schmidhuber's 4 % of the range of the target (0.04 on [0, 1]) on this protocol's range [0, 2].

    Chance: the constant 1, the mean and the mode of y. Loss 2/12 = 1/6; accuracy 1 − (1 − 0.08)², as the density of y
    is 1 − abs(y − 1).

    Solved: mean squared error below 0.01. The second mark may touch the end, so that a network which forgets the first
    half still reaches 1/12 = 0.083: a loss above that is a plateau of short memory, not progress. (The paper has no
    threshold; its baseline to beat is 1/6.)

    Args:
        seq_len: T, steps fed.

    Source: Arjovsky, Shah & Bengio (2016), "Adding problem", https://arxiv.org/abs/1511.06464; positions as in the
        authors' code, ``generate_data`` in ``adding_problem.py``, https://github.com/amarshah/complex_RNN.

    Deviations: fresh sequences in each batch instead of 100 000 drawn once. For odd T the second half is the longer
        one; the authors' code then never marks the last step. The accuracy is ours.

    Example:
        >>> AddingArjovsky2016(seq_len=100).sample(np.random.default_rng(0), batch_size=3).inputs.shape
        torch.Size([3, 100, 2])
    """

    name: ClassVar[str] = "adding_arjovsky2016"
    min_seq_len: ClassVar[int] = 2
    min_seq_len_reason: ClassVar[str] = "one mark in each half"
    input_size = 2  # value and mark
    output_size = 1  # the sum
    chance: ClassVar[Mapping[str, float]] = {"loss": 2 / 12, "accuracy": 1 - (1 - TOLERANCE) ** 2}
    solved_levels: ClassVar[Mapping[str, float]] = {"loss": 0.01}

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        """A batch; factors ``first_marked_step`` and ``second_marked_step`` (t, from 1), shape (B,) each."""
        half = self.seq_len // 2
        rows = np.arange(batch_size)
        first = generator.integers(half, size=batch_size)
        second = generator.integers(half, self.seq_len, size=batch_size)
        inputs = np.zeros((batch_size, self.seq_len, 2), dtype=np.float32)
        inputs[..., 0] = generator.random((batch_size, self.seq_len), dtype=np.float32)
        inputs[rows, first, 1] = 1
        inputs[rows, second, 1] = 1
        targets = inputs[rows, first, 0] + inputs[rows, second, 0]
        return one_answer(inputs, targets.reshape(-1, 1, 1), first_marked_step=first + 1, second_marked_step=second + 1)

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Squared error, shape (B, 1)."""
        return (predictions - targets).square().squeeze(-1)

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """An absolute error below 0.08, shape (B, 1)."""
        return ((predictions - targets).abs() < TOLERANCE).squeeze(-1)
