"""What tells the runs of a sweep apart, in the words of whoever launched them; imports next to nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SHOWN_ANYWAY = ("model", r"model\.label", "task", "seq_len", "experiment")
TELL_NO_RUN = ("experiment_name", "seed", "num_seeds", "measurement", "logger", "trainer", "runs_dir", "plan", "hydra")
"""Root keys that cannot change a member's numbers, so that they tell no run from another."""
_NOT_TOLD = re.compile(rf"[+~]*({'|'.join(_SHOWN_ANYWAY)}|({'|'.join(TELL_NO_RUN)})([./@][^=]*)?)(=|$)")
_BEFORE_KEY = re.compile(r"[- ](?=[^-=\s]+=)")


def variant(overrides: Iterable[Any]) -> str:
    """All that a run was launched with, but for what is shown anyway or tells no run from another.

    Args:
        overrides: as Hydra has them.

    Example:
        >>> variant(["model=lstm", "+model.cell.gain=2", "num_seeds=3", "learning_rate=0.01"])
        'model.cell.gain=2 learning_rate=0.01'
    """
    return " ".join(item.lstrip("+~") for item in map(str, overrides) if not _NOT_TOLD.match(item))


def settings(words: str) -> list[str]:
    """The single settings of a variant, or of the readable part of a folder's name.

    Args:
        words: joined by spaces or by dashes.

    Example:
        >>> settings("hidden_size=8-optimizer.lr=1e-3")
        ['hidden_size=8', 'optimizer.lr=1e-3']
    """
    return _BEFORE_KEY.split(words) if words else []
