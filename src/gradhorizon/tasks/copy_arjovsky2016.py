r"""Copy memory: ten symbols, a long wait, a cue, and the ten symbols again.

One sequence at T = 6, N = T + 20 (· blank, | delimiter, 0 … 7 symbols)::

    t        1                 10          16                  26
    input    3 1 4 1 5 7 2 6 5 3 · · · · · | · · · · · · · · · ·
    target   · · · · · · · · · · · · · · · · 3 1 4 1 5 7 2 6 5 3

Notation: B batch, N = T + 20 steps, K = N loss steps, O = 9 classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.tasks.task import Batch, SoftmaxTask

NUM_SYMBOLS = 8
NUM_RECALLED = 10
BLANK = NUM_SYMBOLS
DELIMITER = NUM_SYMBOLS + 1
SOLVED_ACCURACY = 0.99
SOLVED_FRACTION_OF_CHANCE = 0.1


class CopyArjovsky2016(SoftmaxTask):
    r"""Recall of 10 symbols of an alphabet of 8, T + 10 steps after each was shown.

    Input, one-hot over 10 tokens: 10 symbols, T − 1 blanks, the delimiter at t = T + 10, 10 blanks. A prediction
    is due at every step: blank for t ≤ T + 10, then the symbols in their order, the first one step after the delimiter.

    .. math:: L = \frac{1}{T + 20} \sum_{t=1}^{T + 20} -\ln p_t(y_t)

    Metrics: ``loss`` over all steps; ``recall_loss`` and ``accuracy`` over the 10 recall steps alone, as blanks would
    give an accuracy of (T + 10)/(T + 20) for nothing; ``error_rate``, the fraction of sequences with any recalled
    symbol wrong.

    Chance: blanks are certain, recalled symbols uniform over 8. Loss 10 ln 8/(T + 20), recall loss ln 8,
    accuracy 1/8, error rate 1 − 8⁻¹⁰.

    Solved: recall accuracy of at least 99 % and a loss below a tenth of chance. (The paper has no threshold.)

    Args:
        seq_len: T, the blanks between the symbols and the delimiter, plus one.

    Source: Arjovsky, Shah & Bengio (2016), "Copying memory problem", https://arxiv.org/abs/1511.06464; layout as in
        the authors' code, ``generate_data`` in ``memory_problem.py``, https://github.com/amarshah/complex_RNN.

    Deviations: fresh sequences in each batch instead of 100 000 drawn once. Tokens are numbered as in the paper
        (symbols 0 … 7, blank 8, delimiter 9); the code has blank 0.

    Example:
        >>> CopyArjovsky2016(seq_len=100).sample(np.random.default_rng(0), batch_size=3).inputs.shape
        torch.Size([3, 120, 10])
    """

    name: ClassVar[str] = "copy_arjovsky2016"
    min_seq_len: ClassVar[int] = 1
    min_seq_len_reason: ClassVar[str] = "the delimiter follows the symbols"
    input_size = NUM_SYMBOLS + 2
    output_size = NUM_SYMBOLS + 1  # the symbols and the blank

    @property
    def input_len(self) -> int:
        """T + 20."""
        return self.seq_len + 2 * NUM_RECALLED

    @property
    def chance(self) -> Mapping[str, float]:
        """See the class."""
        recall_loss = math.log(NUM_SYMBOLS)
        return {
            "loss": NUM_RECALLED * recall_loss / self.input_len,
            "recall_loss": recall_loss,
            "accuracy": 1 / NUM_SYMBOLS,
            "error_rate": 1 - NUM_SYMBOLS**-NUM_RECALLED,
        }

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        """A batch; its factor ``symbols``, shape (B, 10), is what is to be recalled."""
        symbols = generator.integers(NUM_SYMBOLS, size=(batch_size, NUM_RECALLED))
        tokens = np.full((batch_size, self.input_len), BLANK)
        targets = tokens.copy()
        tokens[:, :NUM_RECALLED] = symbols
        tokens[:, -NUM_RECALLED - 1] = DELIMITER
        targets[:, -NUM_RECALLED:] = symbols
        return Batch(
            inputs=torch.from_numpy(np.eye(self.input_size, dtype=np.float32)[tokens]),
            targets=torch.from_numpy(targets),
            loss_steps=tuple(range(1, self.input_len + 1)),
            factors={"symbols": torch.from_numpy(symbols)},
        )

    def metrics(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> dict[str, Float[Tensor, " B"]]:
        """``loss``, ``recall_loss``, ``accuracy`` and ``error_rate``, shape (B,) each."""
        losses = self.loss(predictions, targets)
        is_right = self.is_right(predictions[:, -NUM_RECALLED:], targets[:, -NUM_RECALLED:])
        return {
            "loss": losses.mean(dim=1),
            "recall_loss": losses[:, -NUM_RECALLED:].mean(dim=1),
            "accuracy": is_right.to(predictions.dtype).mean(dim=1),
            "error_rate": (~is_right.all(dim=1)).to(predictions.dtype),
        }

    @property
    def solved_levels(self) -> Mapping[str, float]:
        """Metric -> the level that `is_solved` asks for."""
        return {"accuracy": SOLVED_ACCURACY, "loss": SOLVED_FRACTION_OF_CHANCE * self.chance["loss"]}
