r"""Handwritten digits, one pixel a step: real data that ships with scikit-learn.

The first two rows of one image of eight (ink 0 … 16), and the start and end of the sequence, in sixteenths::

    row 1    0  0  5 13  9  1  0  0
    row 2    0  0 13 15 10 15  5  0

    t        1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16  …  64
    input    0  0  5 13  9  1  0  0  0  0 13 15 10 15  5  0  …   0
    class                                                        0

Notation: B batch, N = 64 steps, K = 1 loss step, O = 10 classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gradhorizon.tasks.task import Batch, LastStepTask, SoftmaxTask, one_answer

NUM_PIXELS = 64
NUM_CLASSES = 10
MAX_INK = 16
SPLIT_SEED = 0
HELD_OUT_FRACTION = 0.2


class DigitsSequential(SoftmaxTask, LastStepTask):
    r"""Class of an 8×8 image read row by row, from left to right, due after the last pixel by a softmax.

    .. math:: L = -\ln p_{64}(y)

    1797 images, values scaled to [0, 1], split once and for all, stratified by class: 1437 to train on, 360 held out.
    The split is that of `SPLIT_SEED` whatever generator samples it.
    Training batches are drawn with replacement, held-out ones without as long as 360 suffice.

    Metrics: ``loss``; ``accuracy``.

    Chance: the class frequencies of the held-out images. Loss −Σ f ln f (about ln 10), accuracy max f (about 1/10).

    Solved: held-out accuracy of at least 95 %, ours, as there is no published protocol. A support vector machine
    (C = 10, Gaussian kernel) reaches 92 % on the last 32 pixels alone and 96 % on the last 40, so that memory has to
    reach beyond half of the image.

    Args:
        seq_len: T, which is 64.

    Raises:
        ValueError: `seq_len` other than 64.

    Source: Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998), test part, as in
        ``sklearn.datasets.load_digits``, https://archive.ics.uci.edu/dataset/80; read pixel by pixel in the manner of
        Le, Jaitly & Hinton (2015), https://arxiv.org/abs/1504.00941.

    Deviations: 8×8 images in place of MNIST's 28×28, so that the lag is at most 63 steps. The split is by image: one
        writer may appear on both sides.

    Example:
        >>> DigitsSequential(seq_len=64).sample(np.random.default_rng(0), batch_size=3).inputs.shape
        torch.Size([3, 64, 1])
    """

    name: ClassVar[str] = "digits_sequential"
    min_seq_len: ClassVar[int] = NUM_PIXELS
    min_seq_len_reason: ClassVar[str] = "one step per pixel of 8×8"
    input_size = 1  # the ink of one pixel
    output_size = NUM_CLASSES
    solved_levels: ClassVar[Mapping[str, float]] = {"accuracy": 0.95}

    def __init__(self, seq_len: int = NUM_PIXELS) -> None:
        super().__init__(seq_len)
        if seq_len != NUM_PIXELS:
            raise ValueError(
                f"`seq_len` must be {NUM_PIXELS} for {self.name} ({self.min_seq_len_reason}), got {seq_len}"
            )
        self._inputs, self._targets, self._train, self._held_out = _images()
        self.num_held_out = self._held_out.size

    @property
    def chance(self) -> Mapping[str, float]:
        """See the class."""
        frequencies = np.bincount(self._targets[self._held_out]) / self._held_out.size
        return {"loss": float(-(frequencies * np.log(frequencies)).sum()), "accuracy": float(frequencies.max())}

    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        """A training batch; its factor ``image``, shape (B,), is the row in scikit-learn's array."""
        return self._batch(generator.choice(self._train, batch_size))

    def sample_held_out(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:  # noqa: ARG002
        """A batch of images never trained on, each at most once if `batch_size` allows."""
        return self._batch(generator.choice(self._held_out, batch_size, replace=batch_size > self._held_out.size))

    def _batch(self, images: np.ndarray) -> Batch:
        return one_answer(self._inputs[images, :, None], self._targets[images, None], image=images)


@cache
def _images() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    digits = load_digits()
    targets = digits.target.astype(np.int64)
    train, held_out = train_test_split(
        np.arange(targets.size), test_size=HELD_OUT_FRACTION, stratify=targets, random_state=SPLIT_SEED
    )
    return (digits.data / MAX_INK).astype(np.float32), targets, train, held_out
