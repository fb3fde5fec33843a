r"""Temporal order of the LSTM paper (task 6a): which of X, Y came first and second, between E and B.

One sequence at T = 20, N = 21 (E start, B trigger, a … d distractors)::

    t        1                 10                    21
    input    E d X a c c b d a b a Y d c a b b d c a B
    class                                            1     X, Y -> R

Notation: B batch, N steps, K = 1 loss step, O = 4 classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import one_hot

from gradhorizon.tasks.task import Batch, ErrorRateTask, drawn_length, one_answer

ALPHABET = "EBabcdXY"
NUM_CLASSES = 4
TOLERANCE = 0.3


class TemporalOrderHochreiter1997(ErrorRateTask):
    r"""Class of two symbols X or Y among distractors, due at the last step by four logistic output units.

    Input, one-hot over 8 symbols: E at t = 1, B at t = N, X or Y with equal odds at t₁ and t₂, elsewhere one of
    a, b, c, d. At T = 100, as in the paper: N ∈ [100, 110], t₁ ∈ [10, 20], t₂ ∈ [50, 60], uniform, ends included.
    For other T: N ∈ [T, T + ⌊T/10⌋], t₁ ∈ [⌊T/10⌋, ⌊2T/10⌋], t₂ ∈ [⌊5T/10⌋, ⌊6T/10⌋]. Classes
    Q, R, S, U = 0 … 3 for XX, XY, YX, YY. With the one-hot class y and predictions a,

    .. math:: L = \sum_{k=1}^{4} (\sigma(a_k) - y_k)^2

    Metrics: ``loss``; ``accuracy``, the fraction with abs(σ(a_k) − y_k) < 0.3 for all k.

    Chance: every output 1/4 gives the loss 4 · (1/4)(3/4) = 3/4; one class at all times is right for 1/4.

    Solved: at most 3 of 2560 wrong, the most that the paper reports on a test set. On up to 731 validation sequences
    that means none.

    Args:
        seq_len: T, the shortest length.

    Raises:
        ValueError: `seq_len` below 20.

    Source: Hochreiter & Schmidhuber (1997), section 5.6, task 6a, https://doi.org/10.1162/neco.1997.9.8.1735.

    Deviations: the scaling with T is ours. One N a batch (the paper trains on one sequence at a time); positions count
        from 1. The paper stops training after 2000 correct sequences in a row; here validation decides.

    Example:
        >>> task = TemporalOrderHochreiter1997(seq_len=100)
        >>> tokens = task.sample(np.random.default_rng(0), batch_size=1).inputs.argmax(dim=-1)[0]
        >>> ALPHABET[tokens[0]], ALPHABET[tokens[-1]]
        ('E', 'B')
    """

    name: ClassVar[str] = "temporal_order_hochreiter1997"
    min_seq_len: ClassVar[int] = 20
    min_seq_len_reason: ClassVar[str] = "E before the first window"
    input_size = len(ALPHABET)
    output_size = NUM_CLASSES  # before the logistic function
    max_error_rate = 3.5 / 2560  # half a sequence of slack: means over samples are rounded

    @property
    def chance(self) -> Mapping[str, float]:
        """See the class."""
        prior = 1 / NUM_CLASSES
        return {"loss": NUM_CLASSES * prior * (1 - prior), "accuracy": prior}

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        """A batch; factors ``first_symbol_step`` and ``second_symbol_step`` (t, from 1), shape (B,) each.

        Raises:
            ValueError: `input_len` outside T … T + ⌊T/10⌋.
        """
        input_len = drawn_length(self, generator, input_len)
        rows = np.arange(batch_size)
        first_step = self._position(generator, batch_size, tenth=1)
        second_step = self._position(generator, batch_size, tenth=5)
        first, second = generator.integers(2, size=(2, batch_size))
        tokens = generator.integers(ALPHABET.index("a"), ALPHABET.index("X"), size=(batch_size, input_len))
        tokens[:, 0] = ALPHABET.index("E")
        tokens[:, -1] = ALPHABET.index("B")
        tokens[rows, first_step - 1] = ALPHABET.index("X") + first
        tokens[rows, second_step - 1] = ALPHABET.index("X") + second
        return one_answer(
            np.eye(len(ALPHABET), dtype=np.float32)[tokens],
            (2 * first + second).reshape(-1, 1),
            first_symbol_step=first_step,
            second_symbol_step=second_step,
        )

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Squared error summed over the logistic outputs, shape (B, 1)."""
        return self._errors(predictions, targets).square().sum(dim=-1)

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """An absolute error below 0.3 of every logistic output, shape (B, 1)."""
        return (self._errors(predictions, targets).abs() < TOLERANCE).all(dim=-1)

    def _errors(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return predictions.sigmoid() - one_hot(targets, NUM_CLASSES)

    def _position(self, generator: np.random.Generator, batch_size: int, tenth: int) -> np.ndarray:
        ends = tenth * self.seq_len // 10, (tenth + 1) * self.seq_len // 10
        return generator.integers(*ends, size=batch_size, endpoint=True)
