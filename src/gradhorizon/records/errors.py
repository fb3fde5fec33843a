"""What is wrong with records, in words; imports nothing, so that those who only look start quickly."""

from __future__ import annotations


class RecordsError(RuntimeError):
    """A records file that cannot be read, or rows that do not fit their table."""


class DamagedFileError(RecordsError):
    """A file whose content is not what was written: cut short, spoiled, or another's.

    Args:
        fact: which, and how that was seen.
        advice: what to do.
    """

    def __init__(self, fact: str, advice: str = "launch its run again, which sets it aside") -> None:
        super().__init__(f"{fact}; {advice}")
        self.fact = fact
