r"""Parity of the first bits of a sequence, due at its end: the answer must be carried over all that follows.

One sequence at T = 8 with two bits that count::

    t        1    2    3    4    5    6    7    8
    bit      1    0    1    1    0    1    0    0
    class                                       1 = (1 + 0) mod 2

Notation: B batch, T steps, k bits that count.
"""

from __future__ import annotations

import math

import numpy as np

from gradhorizon.tasks.task import Batch, LastStepTask, SoftmaxTask, one_answer


class DelayedParity(SoftmaxTask, LastStepTask):
    """Whether the first `num_bits` bits hold an odd number of ones.

    Chance: both classes are equally likely whatever the other bits are. Loss ln 2, accuracy 1/2.

    Solved: held-out accuracy of at least 99 %.

    Args:
        seq_len: T, steps fed.
        num_bits: k, those that count.

    Raises:
        ValueError: `num_bits` outside 1 … T.
    """

    input_size = 1  # a bit
    output_size = 2  # even, odd
    chance = {"loss": math.log(2), "accuracy": 0.5}
    solved_levels = {"accuracy": 0.99}

    def __init__(self, seq_len: int, num_bits: int = 2) -> None:
        super().__init__(seq_len)
        if not 1 <= num_bits <= seq_len:
            raise ValueError(f"`num_bits` must lie in 1 … {seq_len}, got {num_bits}")
        self.num_bits = num_bits

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        """A batch, drawn from `generator` and from nothing else."""
        bits = generator.integers(0, 2, (batch_size, self.seq_len, 1))
        targets = bits[:, : self.num_bits].sum(axis=1) % 2
        return one_answer(bits.astype(np.float32), targets)
