"""What a launch mends of what a fault has left in a member's folder: it says so, and deletes nothing that was whole.

What belongs to no checkpoint is set aside, and measured again as training goes on. Where a file is damaged that the
checkpoint builds upon, or the checkpoint itself, the member's files are set aside, and it is trained from its start, to
the same bits. Only members that are not finished are ever touched.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradhorizon.records import safely
from gradhorizon.records.checkpoints import load_checkpoint
from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.files import put_aside, remove_strays, write_json
from gradhorizon.records.layout import CHECKPOINT, KEPT, MEMBER_SHEET, RECORDS, member_folder, seed_in
from gradhorizon.records.listing import FILES, Listing
from gradhorizon.records.sheets import read_member_sheet
from gradhorizon.records.tables import Table
from gradhorizon.records.writing import MemberRecords
from gradhorizon.terminal.words import one_line
from gradhorizon.training.ensemble import Member

log = logging.getLogger(__name__)

_REMEDY = "if you trust it, mend it; else move its member's whole folder out of the run to train it from its start"


def mended(
    member: Path, identity: str, lead: dict[str, Any], tables: Sequence[Table]
) -> tuple[dict[str, Any] | None, MemberRecords]:
    """A member's checkpoint, None if it starts, and its records up to there.

    Args:
        member: the member's folder, whose lock must be held.
        identity: its run's.
        lead: values of the lead columns.
        tables: those that it will write.

    Raises:
        RecordsError: the checkpoint holds something other than tensors and plain values, is of another network, or the
            records were written by another version.
    """
    try:
        safely.refuse_links(member)
    except OSError as error:
        raise RecordsError(str(error)) from error
    _refuse_other_kinds(member)
    for path in remove_strays(member):
        log.info("  %s: removed %s, half-written when a launch was killed", member.name, path.name)
    _mend_sheet(member)
    path = member / CHECKPOINT
    try:
        checkpoint = _checkpoint(path, {"seed": seed_in(member.name), "identity": identity})
        if checkpoint is not None:
            listing = Listing.read(checkpoint, path)
            records = MemberRecords(member, lead, checkpoint["step"], tables, listing)
            return checkpoint, records
    except DamagedFileError as error:
        words = "  %s: %s; its checkpoint and records are set aside, and it is trained from its start"
        log.warning(words, member.name, error.fact)
        put_aside(path)
    else:
        _say_lost(member, path)
    _list_nothing(member)
    return None, MemberRecords(member, lead, None, tables)


def _refuse_other_kinds(member: Path) -> None:
    """Refuse files where folders belong, and the other way round, before anything is trained."""
    for folder in (member / RECORDS, member / KEPT):
        if folder.exists() and not folder.is_dir():
            raise RecordsError(f"{folder} is a file, where a folder was expected; move it away")
    for path in sorted((member / KEPT).glob("*")):
        if path.is_dir():
            raise RecordsError(f"{path} is a folder, where a file was expected; move it away")


def restore(member: Member, checkpoint: dict[str, Any], folder: Path) -> None:
    """Give a member the weights and the fate that its checkpoint holds.

    Args:
        member: as it is built now.
        checkpoint: what `mended` returned.
        folder: the run's folder.

    Raises:
        RecordsError: the checkpoint is of another network.
    """
    try:
        member.restore(checkpoint["member"])
    except (KeyError, TypeError, RuntimeError) as error:
        path = member_folder(folder, member.seed) / CHECKPOINT
        fact = f"does not fit the network that is built now ({one_line(error)})"
        raise RecordsError(f"{path} {fact}; {_REMEDY}") from error


def _mend_sheet(member: Path) -> None:
    path = member / MEMBER_SHEET
    try:
        read_member_sheet(member)
    except DamagedFileError as error:
        log.warning("  %s: %s; it is set aside, and written anew", member.name, error.fact)
        put_aside(path)


def _say_lost(member: Path, checkpoint: Path) -> None:
    if read_member_sheet(member).get("step", 0) > 0:
        words = "  %s: %s is missing, though steps were committed; its records are set aside, and it is trained anew"
        log.warning(words, member.name, checkpoint)


def _list_nothing(member: Path) -> None:
    """Have a member's sheet list no files, before these are set aside: its readers never look for what is gone."""
    content = read_member_sheet(member)
    if content.get(FILES):
        write_json({**content, "step": 0, **Listing().plain}, member / MEMBER_SHEET)


def _checkpoint(path: Path, own: dict[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    # What is cut short is no archive any more. What is one, but is refused, holds what we have not written.
    if not zipfile.is_zipfile(path):
        raise DamagedFileError(f"{path} cannot be read: it is no checkpoint, or was cut short")
    content = load_checkpoint(path, _REMEDY)
    missing = [key for key in ("member", "optimizer", "step") if key not in content]
    if missing:
        raise RecordsError(f"{path} is no checkpoint of a member, it lacks {', '.join(missing)}; {_REMEDY}")
    if type(content["step"]) is not int or content["step"] < 0:
        raise RecordsError(f"{path} is no checkpoint of a member, its step is {content['step']!r}; {_REMEDY}")
    for name, value in own.items():
        if content.get(name, value) != value:
            raise DamagedFileError(f"{path} is another member's: its {name} is {content[name]}, not {value}")
    return content
