"""What a launch finds of its run before it trains anything, and what it says of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradhorizon.config import RunConfig
from gradhorizon.records.absent_tables import OF_TRAINING, remedy, table_of
from gradhorizon.records.layout import member_name
from gradhorizon.runs.members import MemberState, damaged_files, tables_of
from gradhorizon.runs.provenance import say_differences
from gradhorizon.terminal.progress import format_seeds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What a launch finds before it trains anything; to know it takes no heavy package.

    Attributes:
        run: the configuration's root.
        device: where it trains.
        identity: the run's identity.
        folder: where it lies.
        states: what is on disk of each member that has anything there.
        facts: what is true of this launch.
    """

    run: RunConfig
    device: str
    identity: str
    folder: Path
    states: list[MemberState]
    facts: dict[str, Any]

    @property
    def seeds(self) -> range:
        """Seeds of all members that the launch asks for."""
        return range(self.run.seed, self.run.seed + self.run.num_seeds)

    @property
    def todo(self) -> list[MemberState]:
        """Members that are not finished, those without anything on disk included."""
        known = {state.seed: state for state in self.states}
        everyone = (known.get(seed) or MemberState(seed, "new", 0, {}) for seed in self.seeds)
        return [state for state in everyone if state.status != "finished"]

    @property
    def finished(self) -> list[MemberState]:
        """Members that are."""
        return [state for state in self.states if state.status == "finished"]

    def say_what_is_done(self) -> None:
        """Say where the run lies, which members are finished, and from where others go on."""
        log.info("%s", self.folder)
        if self.finished:
            log.info("  finished, skipped: %s", format_seeds([state.seed for state in self.finished]))
        for state in self.states:
            if state.status == "resumable":
                log.info("  seed %d: resumes from step %d", state.seed, state.step)

    def say_notes(self) -> None:
        """Say what finished members lack, and what has changed since they were trained."""
        self._say_damaged_files()
        self._say_absent_tables()
        say_differences(self.states, self.facts)

    def _say_absent_tables(self) -> None:
        lacking: dict[tuple[str, ...], list[int]] = {}
        for state in self.finished:
            recorded = tables_of(self.folder, state)
            measured = (self.run.measurement or {}).items()
            asked = {*(table_of(name, node) for name, node in measured), *OF_TRAINING}
            absent = sorted(asked - recorded - set(state.launch.get("measurements", ())))
            lacking.setdefault(tuple(absent), []).append(state.seed)
        for names, seeds in lacking.items():
            if names:
                how = remedy(names, self.run.measurement, str(self.folder))
                are = "is" if len(seeds) == 1 else "are"
                log.warning("  note: %s %s finished without %s: %s", format_seeds(seeds), are, ", ".join(names), how)

    def _say_damaged_files(self) -> None:
        words = (
            "  note: %s is missing, or has changed since seed %d finished; finished members are left as they are: "
            "restore it from a copy, or move the folder %s out of the run and launch again"
        )
        for state in self.finished:
            for path in damaged_files(self.folder, state):
                log.warning(words, path, state.seed, member_name(state.seed))
