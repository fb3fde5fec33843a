"""What the oracles of tasks share.

A task called ``x`` has them in ``tests/tasks/test_x.py``: ``targets(inputs)``, read off the inputs alone,
``perfect(batch)``, what a perfect predictor gives, ``blind(task, batch)``, what one gives that is blind to the
symbols, and ``SHORTEST``, the shortest T in which the protocol fits.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot

from gradhorizon.tasks.task import Batch

CERTAIN = 50.0


def certain_of_class(batch: Batch, num_classes: int) -> Tensor:
    """Logits (B, K, classes) that leave no doubt of the targets."""
    return CERTAIN * (2.0 * one_hot(batch.targets, num_classes).double() - 1.0)
