"""The contract of a mirror: it shows what a run records, and can neither stop nor change the training."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class RunInfo:
    """What a mirror is told about the run that it shows.

    Attributes:
        name: name of the run's folder.
        experiment: the experiment that the run belongs to.
        model: the model's label.
        task: name of the task's protocol.
        seq_len: T, steps, as the protocol's paper prints it.
        seeds: seeds of all members that the launch asks for, those included that earlier launches have trained.
        config: the resolved configuration, plain containers and scalars only.
        folder: the run's folder, which exists.
        resume_id: the same for every launch of the same members of the same run folder, and for no other.
        tags: further words to find the run by.
    """

    name: str
    experiment: str
    model: str
    task: str
    seq_len: int
    seeds: Sequence[int]
    config: Mapping[str, Any]
    folder: Path
    resume_id: str
    tags: Sequence[str] = field(default=())


def resume_id(experiment: str, identity: str, seeds: Sequence[int]) -> str:
    """Sixteen hexadecimal digits that name a set of members of a run.

    Args:
        experiment: the experiment that the run belongs to.
        identity: the run's identity.
        seeds: seeds of the members.
    """
    return hashlib.sha256(repr((experiment, identity, sorted(seeds))).encode()).hexdigest()[:16]


class Mirror(ABC):
    """A copy of the records elsewhere. The records on disk are the truth: what a mirror misses is not lost."""

    @abstractmethod
    def open(self, run: RunInfo) -> None:
        """Begin to show `run`.

        Raises:
            ValueError: the mirror is configured so that it can never work; raised before any training.
        """

    @abstractmethod
    def log_scalars(self, step: int, scalars: Mapping[str, Mapping[int, float]]) -> None:
        """Show values of single members.

        Args:
            step: optimizer steps completed.
            scalars: ``split/quantity`` -> seed -> value; members that are frozen may be left out.
        """

    @abstractmethod
    def log_table(self, table: str, frame: pd.DataFrame) -> None:
        """Show the rows of one measurement of one member.

        Args:
            table: the table's name.
            frame: its rows at one probe, lead columns included (`gradhorizon.records.tables.LEAD_COLUMNS`).
        """

    @abstractmethod
    def close(self, status: str, summary: Mapping[str, Any]) -> None:
        """End what `open` began, whatever has happened since; harmless without `open` and when repeated.

        Args:
            status: finished or failed.
            summary: the run's outcome: values, or mappings of seeds to values.
        """

    @contextmanager
    def opened(self, run: RunInfo) -> Iterator[dict[str, Any]]:
        """The run's summary, to be filled in the block; the mirror is closed at its end, also by an exception."""
        summary: dict[str, Any] = {}
        status = "failed"
        self.open(run)
        try:
            yield summary
            status = "finished"
        finally:
            self.close(status, summary)


class NoMirror(Mirror):
    """No copy anywhere: the records on disk alone."""

    def open(self, run: RunInfo) -> None:
        """Do nothing."""

    def log_scalars(self, step: int, scalars: Mapping[str, Mapping[int, float]]) -> None:
        """Do nothing."""

    def log_table(self, table: str, frame: pd.DataFrame) -> None:
        """Do nothing."""

    def close(self, status: str, summary: Mapping[str, Any]) -> None:
        """Do nothing."""
