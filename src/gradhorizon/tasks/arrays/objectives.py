"""What is asked of data of the user's own: the class of a sequence, or what a series does next.

Notation: B batch, K = 1 loss step, O outputs, n held-out samples.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from gradhorizon.tasks.arrays.parts import Part
from gradhorizon.tasks.arrays.reading import DataError


class Objective(Protocol):
    """A loss, what counts as right, and how well somebody does who looks at nothing.

    Attributes:
        output_size: O.
        chance: metric -> value of a predictor that knows the data's frequencies or mean and sees no input.
        solved_levels: as of `Task`.
    """

    output_size: int
    chance: dict[str, float]
    solved_levels: dict[str, float]

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Loss of each sample, shape (B, 1)."""
        ...

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """Whether each prediction counts as right, shape (B, 1)."""
        ...


class Classes:
    """The class of a sequence, by a softmax.

    Args:
        held_out: the samples whose frequencies are chance.
        num_classes: O.
        solved_error: share of chance's wrong answers that a solved task may leave.
    """

    def __init__(self, held_out: Part, num_classes: int, solved_error: float) -> None:
        frequencies = np.bincount(held_out.targets.ravel(), minlength=num_classes) / len(held_out.targets)
        accuracy = float(frequencies.max())
        self.output_size = num_classes
        self.chance = {"loss": float(-(frequencies * np.log(frequencies)).sum()), "accuracy": accuracy}
        self.solved_levels = {"accuracy": 1 - solved_error * (1 - accuracy)}

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Cross-entropy in nats, shape (B, 1)."""
        return cross_entropy(predictions.transpose(1, 2), targets, reduction="none")

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """Whether the class of the largest output is the target, shape (B, 1)."""
        return predictions.argmax(dim=-1) == targets


class Forecasts:
    """Values of a series some steps ahead.

    Args:
        train: whose mean target is the best constant that can be known.
        held_out: where it is scored.
        solved_error: share of the squared error of chance, or of persistence if that is less, that a solved task may
            leave.

    Attributes:
        persistence: loss of whoever forecasts that nothing changes.

    Raises:
        DataError: what is held out does not change, so that there is nothing to forecast.
    """

    def __init__(self, train: Part, held_out: Part, solved_error: float) -> None:
        targets = held_out.targets[:, 0].astype(np.float64)
        constant = train.targets[:, 0].mean(axis=0, dtype=np.float64)
        assert held_out.last is not None  # noqa: S101, windows have it
        errors = ((targets - constant) ** 2).mean(axis=1)
        self.output_size = targets.shape[1]
        self.persistence = float(((targets - held_out.last) ** 2).mean())
        levels = [level for level in (float(errors.mean()), self.persistence) if level > 0]
        if not levels:
            raise DataError(
                "what is forecast must change in the held-out part, got the training mean throughout; forecast another "
                "column, or hold out more"
            )
        self.tolerated = solved_error * min(levels)
        self.chance = {"loss": float(errors.mean()), "accuracy": float((errors < self.tolerated).mean())}
        self.solved_levels = {"loss": self.tolerated}

    def loss(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Float[Tensor, "B K"]:
        """Squared error, its mean over the targets, shape (B, 1)."""
        return (predictions - targets).square().mean(dim=-1)

    def is_right(self, predictions: Float[Tensor, "B K O"], targets: Tensor) -> Bool[Tensor, "B K"]:
        """A squared error that a solved task may leave, shape (B, 1)."""
        return torch.lt(self.loss(predictions, targets), self.tolerated)
