r"""The contract of a task: a named protocol that draws batches from a generator it is given.

Notation: B batch, N = `input_len` steps fed, K loss steps, D input size, O outputs, T = `seq_len` as printed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradhorizon.terminal.words import snake_case


@dataclass(frozen=True)
class Batch:
    """One batch of a protocol.

    Attributes:
        inputs: shape (B, N, D), float32.
        targets: class indices (B, K), int64, or values (B, K, O), float32.
        loss_steps: ascending t in 1 … N at which predictions are due.
        factors: what each sample was made with (positions, delays, …), name -> (B, …); metrics are sliced by them.
    """

    inputs: Tensor
    targets: Tensor
    loss_steps: tuple[int, ...]
    factors: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The same batch on `device`, with floating-point tensors in `dtype`."""
        targets = self.targets.to(device, dtype if self.targets.is_floating_point() else None)
        return replace(self, inputs=self.inputs.to(device, dtype), targets=targets)

    def split(self, batch_size: int) -> list[Batch]:
        """The same samples in batches of at most `batch_size`."""
        return [self._rows(slice(start, start + batch_size)) for start in range(0, len(self.inputs), batch_size)]

    def _rows(self, rows: slice) -> Batch:
        factors = {name: values[rows] for name, values in self.factors.items()}
        return replace(self, inputs=self.inputs[rows], targets=self.targets[rows], factors=factors)


class Task(ABC):
    """A named protocol. Randomness is an argument; a task holds no state that sampling changes.

    Numpy's generators are used because `numpy.random.SeedSequence` keeps all bits of a composite seed, while
    torch's CPU generator keeps the lowest 32 of an integer.

    Args:
        seq_len: T, the length that the protocol's paper prints.

    Raises:
        ValueError: `seq_len` below `min_seq_len`.
    """

    name: ClassVar[str]
    """The protocol's name: that of its module and of its file in ``conf/task``; by default the class's own, with
    underscores. A run takes the name of the file that chose a task from outside the package, if one did."""
    min_seq_len: ClassVar[int] = 1
    min_seq_len_reason: ClassVar[str] = "at least one step"

    num_held_out: int | None = None
    """How many samples the held-out set has, where it is finite; validation then sees each at most once."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):  # an inherited one would be that of another protocol
            cls.name = snake_case(cls.__name__)

    def __init__(self, seq_len: int) -> None:
        if seq_len < self.min_seq_len:
            raise ValueError(
                f"`seq_len` must be at least {self.min_seq_len} for {self.name} ({self.min_seq_len_reason}), "
                f"got {seq_len}"
            )
        self.seq_len = seq_len

    @property
    @abstractmethod
    def input_size(self) -> int:
        """D, features per step."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """O, outputs per loss step."""

    @property
    @abstractmethod
    def input_len(self) -> int:
        """N, steps fed; the smallest one where the protocol draws it at random. Probes use exactly this length."""

    @property
    @abstractmethod
    def chance(self) -> Mapping[str, float]:
        """Metric -> value of the best predictor that knows the clock and is blind to the symbols; has ``loss``."""

    @abstractmethod
    def sample(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        """A training batch.

        Args:
            generator: the only source of randomness.
            batch_size: B.
            input_len: fixes N where the protocol draws it at random; ignored by protocols of one length.
        """

    def sample_held_out(self, generator: np.random.Generator, batch_size: int, input_len: int | None = None) -> Batch:
        """A batch for validation and probes; synthetic protocols draw it as a training batch, from another stream."""
        return self.sample(generator, batch_size, input_len)

    @abstractmethod
    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Loss of each sample at each loss step, shape (B, K); its mean over both is what is minimised."""

    @abstractmethod
    def metrics(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> dict[str, Float[Tensor, " B"]]:
        """Per-sample metrics, shape (B,) each, averaged over samples by the caller; has ``loss`` and ``accuracy``."""

    @property
    @abstractmethod
    def solved_levels(self) -> Mapping[str, float]:
        """Metric -> the level that `is_solved` asks for: at least it, or, for a loss, less; drawn in figures."""

    @abstractmethod
    def is_solved(self, metrics: Mapping[str, float]) -> bool:
        """Whether validation metrics (means over held-out samples) meet the protocol's criterion."""
