"""What wandb would print: dropped, or said once with what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wandb

from gradhorizon.terminal.words import one_line

log = logging.getLogger(__name__)


@contextmanager
def heard_by(listener: Silence) -> Iterator[None]:
    """Hand `listener` what wandb would print."""
    wandb.setup()
    wandb.termsetup(wandb.Settings(silent=True), listener)
    try:
        yield
    finally:
        wandb.termsetup(wandb.setup().settings, None)


class Silence:
    """Takes what wandb would print, and drops it."""

    def info(self, message: str) -> None:
        """Drop what went well."""

    def warning(self, message: str) -> None:
        """Drop a warning: what it leads to is raised."""

    def error(self, message: str) -> None:
        """Drop an error: what it leads to is raised."""


class Complaints(Silence):
    """Says the first thing that goes wrong with a run, and what to do; keeps silent about the rest.

    It also takes wandb's own messages: that an upload was given up reaches nobody else.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.first: str | None = None

    def say(self, words: str) -> None:
        """Log `words` as a warning, or for the debugger alone after the first ones."""
        if self.first is not None:
            log.debug("W&B: %s", words)
            return
        self.first = words
        log.warning(
            "W&B: %s. Training is not affected, and all is recorded: `gradhorizon-wandb-push '%s'` sends it",
            words.rstrip("."),
            self._folder,
        )

    def warning(self, message: str) -> None:
        """Say what wandb warns of."""
        self.say(without_marks(message))

    def error(self, message: str) -> None:
        """Say what wandb reports as an error."""
        self.say(without_marks(message))


def without_marks(error: object) -> str:
    """What went wrong in one line, without wandb's own marks.

    Args:
        error: an exception, or a text.
    """
    return one_line(error).removeprefix("wandb: ").removeprefix("WARNING ").removeprefix("ERROR ")
