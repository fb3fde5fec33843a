"""Which members of a run are done, as their folders tell."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradhorizon.records.errors import DamagedFileError
from gradhorizon.records.layout import (
    CHECKPOINT,
    MEMBER_SHEET,
    member_folder,
    seeds_in,
)
from gradhorizon.records.listing import Listing
from gradhorizon.records.parquet import is_as_committed
from gradhorizon.records.reading import recorded_tables
from gradhorizon.records.sheets import read_member_sheet


@dataclass(frozen=True)
class MemberState:
    """What is on disk of one member.

    Attributes:
        seed: its seed.
        status: finished, resumable (there is a checkpoint) or new.
        step: optimizer steps that its checkpoint or outcome holds.
        launch: what was true of the launch that wrote it last.
        listing: what it has committed; None if it was recorded before that was listed.
    """

    seed: int
    status: str
    step: int
    launch: dict[str, Any]
    listing: Listing | None = None


def member_state(folder: Path, seed: int) -> MemberState:
    """State of the member with `seed` in the run's `folder`."""
    member = member_folder(folder, seed)
    try:
        content = read_member_sheet(member)
    except DamagedFileError:  # its checkpoint says where it stands
        content = {}
    if content.get("status") == "finished":
        listing = Listing.read(content, member / MEMBER_SHEET)
        return MemberState(seed, "finished", content["step"], content["launch"], listing)
    if (member / CHECKPOINT).is_file():
        return MemberState(seed, "resumable", content.get("step", 0), content.get("launch", {}))
    return MemberState(seed, "new", 0, {})


def member_states(folder: Path, first_seed: int, num_seeds: int) -> list[MemberState]:
    """State of each member of a range of seeds that has anything on disk, by seed.

    Args:
        folder: the run's folder.
        first_seed: the first.
        num_seeds: how many there are, which may be far more than lie there.
    """
    return [member_state(folder, seed) for seed in seeds_in(folder) if 0 <= seed - first_seed < num_seeds]


def outcomes_of(folder: Path) -> dict[str, dict[str, Any]]:
    """How each member on disk stands: seed -> status, outcome, outcome_step; those of damaged sheets are left out."""
    found = {}
    for seed in seeds_in(folder):
        with suppress(DamagedFileError):  # its own launch repairs it
            member = read_member_sheet(member_folder(folder, seed))
            if not member:
                continue
            found[str(member["seed"])] = {key: member[key] for key in ("status", "outcome", "outcome_step")}
    return found


def is_finished(folder: Path, outcomes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all members that ever started have ended.

    Args:
        folder: the run's folder.
        outcomes: what `outcomes_of` returned.
    """
    return all(outcomes.get(str(seed), {}).get("status") == "finished" for seed in seeds_in(folder))


def finished_seeds(outcomes: Mapping[str, Mapping[str, Any]]) -> set[int]:
    """Seeds of the members that have ended.

    Args:
        outcomes: what `outcomes_of` returned.
    """
    return {int(seed) for seed, one in outcomes.items() if one["status"] == "finished"}


def damaged_files(folder: Path, state: MemberState) -> list[Path]:
    """Files of a member that are missing, or are not what was committed; large ones are not read.

    Args:
        folder: the run's folder.
        state: of the member.
    """
    listed = {} if state.listing is None else state.listing.files
    member = member_folder(folder, state.seed)
    return [member / path for path, entry in sorted(listed.items()) if not is_as_committed(member / path, entry)]


def tables_of(folder: Path, state: MemberState) -> set[str]:
    """Names of the tables that a member has recorded.

    Args:
        folder: the run's folder.
        state: of the member.
    """
    return recorded_tables(member_folder(folder, state.seed)) if state.listing is None else state.listing.tables
