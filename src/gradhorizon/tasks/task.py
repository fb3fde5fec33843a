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
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

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
    def input_len(self) -> int:
        """N, steps fed: T by default. The smallest one where the protocol draws it. Probes use exactly this length."""
        return self.seq_len

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

    def is_solved(self, metrics: Mapping[str, float]) -> bool:
        """Whether validation metrics (means over held-out samples) meet the protocol's criterion: all its levels."""
        return all(
            metrics[name] < level if name.endswith("loss") else metrics[name] >= level
            for name, level in self.solved_levels.items()
        )


class LastStepTask(Task):
    """A protocol of one answer, right or wrong, that is due at the last step."""

    @abstractmethod
    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """Whether each prediction counts as right, shape (B, 1)."""

    def metrics(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> dict[str, Float[Tensor, " B"]]:
        """``loss`` and ``accuracy``, shape (B,) each."""
        return {
            "loss": self.loss(predictions, targets).squeeze(1),
            "accuracy": self.is_right(predictions, targets).to(predictions.dtype).squeeze(1),
        }


class ErrorRateTask(LastStepTask):
    """A protocol that is solved when the share of wrong answers is below `max_error_rate`."""

    max_error_rate: ClassVar[float]

    @property
    def solved_levels(self) -> Mapping[str, float]:
        """The accuracy that has to be exceeded."""
        return {"accuracy": 1 - self.max_error_rate}

    def is_solved(self, metrics: Mapping[str, float]) -> bool:
        """Whether fewer are wrong."""
        return metrics["accuracy"] > 1 - self.max_error_rate


class SoftmaxTask(Task):
    """A protocol whose targets are classes (B, K), predicted by a softmax over the outputs."""

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Cross-entropy in nats, shape (B, K)."""
        return cross_entropy(predictions.transpose(1, 2), targets, reduction="none")

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """Whether the class of the largest output is the target, shape (B, K)."""
        return predictions.argmax(dim=-1) == targets


def one_answer(inputs: np.ndarray, targets: np.ndarray, **factors: np.ndarray) -> Batch:
    """A batch whose only loss step is the last one.

    Args:
        inputs: shape (B, N, D), float32.
        targets: one of each sample, of the shape (B, 1) of a class or (B, 1, O) of values.
        factors: name -> what each sample was made with, shape (B, …).
    """
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        loss_steps=(inputs.shape[1],),
        factors={name: torch.from_numpy(values) for name, values in factors.items()},
    )


def drawn_length(task: Task, generator: np.random.Generator, input_len: int | None) -> int:
    """N of a protocol that draws it uniformly over T … T + ⌊T/10⌋, ends included.

    Args:
        task: the protocol.
        generator: draws it.
        input_len: fixes it.

    Raises:
        ValueError: `input_len` outside T … T + ⌊T/10⌋.
    """
    longest = task.seq_len + task.seq_len // 10
    if input_len is None:
        return int(generator.integers(task.seq_len, longest, endpoint=True))
    if not task.seq_len <= input_len <= longest:
        raise ValueError(
            f"`input_len` must lie in {task.seq_len} … {longest} for {task.name} at seq_len {task.seq_len}, "
            f"got {input_len}"
        )
    return input_len
