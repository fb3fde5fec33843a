"""The cases in which a kernel is compared: lengths around the chunks of kernels, batches, sizes, cuts, early losses.

Kernels are written in chunks of 16, 32 or 64 steps, with another path for what is left over, for one step, or for a
batch of one: that is where their gradients are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradhorizon.terminal.words import counted

BATCH_SIZE = 3
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65)
"""Steps: one, two, and chunks of 16, 32 and 64, and one less and one more."""
ODD_SIZES = (5, 7)
"""Values of `hidden_size` beside the one that is asked for: no vector of a kernel is full.

Not 1: a norm over one feature is 0, and its gradient nothing but rounding.
"""
_LONGEST = max(LENGTHS)
_LENGTHS_OF_SIZES = (1, 2, 17, 33, 65)
_CUTS = ((1,), (16,), (17, 33), (64,))
_READ_STEPS = (1, 16, 17, 33)


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        num_steps: N.
        batch_size: B.
        hidden_size: H.
        cuts: the sequence is run in pieces that end after these steps, the state handed on.
        read_step: t of the only output that the loss reads; it reads all outputs and the final state if None.
    """

    num_steps: int
    batch_size: int
    hidden_size: int
    cuts: tuple[int, ...] = ()
    read_step: int | None = None

    @property
    def words(self) -> str:
        """The case as a user is told of it."""
        parts = [counted(self.num_steps, "step"), f"batch {self.batch_size}", f"hidden_size {self.hidden_size}"]
        parts += [f"cut after {', '.join(map(str, self.cuts))}"] * bool(self.cuts)
        parts += [f"loss read at step {self.read_step}"] * (self.read_step is not None)
        return ", ".join(parts)


def sweep(hidden_size: int, odd_sizes: Sequence[int], is_recurrent: bool) -> list[Case]:
    """All cases, shorter sequences first.

    Args:
        hidden_size: that is asked for.
        odd_sizes: others, in which the cell was built too.
        is_recurrent: whether it has a state that can be handed on.
    """
    found = [Case(length, batch, hidden_size) for length in LENGTHS for batch in (1, BATCH_SIZE)]
    found += [Case(length, BATCH_SIZE, size) for size in odd_sizes for length in _LENGTHS_OF_SIZES]
    found += [Case(17, 1, size) for size in odd_sizes]
    found += [Case(_LONGEST, BATCH_SIZE, hidden_size, read_step=step) for step in _READ_STEPS]
    if is_recurrent:
        found += [Case(_LONGEST, BATCH_SIZE, hidden_size, cuts=cuts) for cuts in _CUTS]
        found.append(Case(_LONGEST, 1, hidden_size, cuts=(32,)))
    return sorted(found, key=lambda case: case.num_steps)


def pattern(wrong: Iterable[Case], right: Iterable[Case]) -> str:
    """What tells the cases that are wrong from those that are right, in words; nothing if none or all are.

    Example:
        >>> pattern([Case(17, 1, 8), Case(33, 1, 8)], [Case(16, 1, 8), Case(16, 3, 8)])
        'only at 17, 33 steps (right at 16); only with batch 1'
    """
    wrong, right = list(wrong), list(right)
    if not wrong or not right:
        return ""
    said = []
    for words, name, unit in (("at", "num_steps", " steps"), ("with", "batch_size", ""), ("with", "hidden_size", "")):
        bad, good = ({getattr(case, name) for case in cases} for cases in (wrong, right))
        if good - bad:
            own = ", ".join(map(str, sorted(bad)))
            subject = {"batch_size": "batch ", "hidden_size": "hidden_size "}.get(name, "")
            fine = f" (right at {', '.join(map(str, sorted(good - bad)))})" if unit else ""
            said.append(f"only {words} {subject}{own}{unit}{fine}")
    for words, is_such in (("a sequence that is cut", lambda case: case.cuts), ("an early loss", _reads_early)):
        if all(map(is_such, wrong)) and not all(map(is_such, right)):
            said.append(f"only with {words}")
    return "; ".join(said)


def _reads_early(case: Case) -> bool:
    return case.read_step is not None
