r"""Temporal order as in Pascanu, Mikolov & Bengio (2013): which of A, B came first and second, no frame.

One sequence at T = 20 (c … f distractors)::

    t        1                 10                  20
    input    d c f B e e c d f c c A d e c f f d e c
    class                                          2     B, A

Notation: B batch, T steps, K = 1 loss step, O = 4 classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from gradhorizon.tasks.task import Batch, ErrorRateTask, SoftmaxTask, one_answer

ALPHABET = "ABcdef"
NUM_CLASSES = 4


class TemporalOrderPascanu2013(SoftmaxTask, ErrorRateTask):
    r"""Class of two symbols A or B among distractors, due at the last step by a softmax.

    Input, one-hot over 6 symbols: A or B with equal odds at t₁ and t₂, elsewhere one of c, d, e, f. With
    w = ⌊T/10⌋, uniform: t₁ ∈ [w + 1, 2w], t₂ ∈ [⌊T/2⌋ + 1, ⌊T/2⌋ + w]. Classes 0 … 3 for AA, AB, BA, BB.

    .. math:: L = -\ln p_T(y)

    Metrics: ``loss``; ``accuracy``.

    Chance: uniform over 4 classes. Loss ln 4, accuracy 1/4.

    Solved: fewer than 1 % wrong, the paper's criterion on 10 000 fresh sequences. (The authors' code trains on until
    none is wrong.)

    Args:
        seq_len: T, steps fed.

    Raises:
        ValueError: `seq_len` below 10.

    Source: Pascanu, Mikolov & Bengio (2013), section 4.1.1, https://arxiv.org/abs/1211.5063; windows and
        symbols as in the authors' code, ``tempOrder.py``, https://github.com/pascanur/trainingRNNs.

    Deviations: one length, T, as in the paper's figure 7; the paper also trains on lengths drawn from 50 … 200. The
        code numbers AB and BA the other way round.

    Example:
        >>> TemporalOrderPascanu2013(seq_len=100).sample(np.random.default_rng(0), batch_size=3).inputs.shape
        torch.Size([3, 100, 6])
    """

    name: ClassVar[str] = "temporal_order_pascanu2013"
    min_seq_len: ClassVar[int] = 10
    min_seq_len_reason: ClassVar[str] = "windows of a tenth of the length hold a step"
    input_size = len(ALPHABET)
    output_size = NUM_CLASSES
    chance: ClassVar[Mapping[str, float]] = {"loss": math.log(NUM_CLASSES), "accuracy": 1 / NUM_CLASSES}
    max_error_rate = 99.5 / 10_000  # half a sequence of slack: means over samples are rounded

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        """A batch; factors ``first_symbol_step`` and ``second_symbol_step`` (t, from 1), shape (B,) each."""
        rows = np.arange(batch_size)
        width = self.seq_len // 10
        first_index = width + generator.integers(width, size=batch_size)
        second_index = self.seq_len // 2 + generator.integers(width, size=batch_size)
        first, second = generator.integers(2, size=(2, batch_size))
        tokens = generator.integers(ALPHABET.index("c"), len(ALPHABET), size=(batch_size, self.seq_len))
        tokens[rows, first_index] = first
        tokens[rows, second_index] = second
        return one_answer(
            np.eye(len(ALPHABET), dtype=np.float32)[tokens],
            (2 * first + second).reshape(-1, 1),
            first_symbol_step=first_index + 1,
            second_symbol_step=second_index + 1,
        )
