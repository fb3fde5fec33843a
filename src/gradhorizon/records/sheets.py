"""The one reader of ``run.json`` and ``member.json``: plain data that was held against its schema, or one message."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradhorizon.records.errors import DamagedFileError, RecordsError
from gradhorizon.records.layout import MEMBER_SHEET, RUN_SHEET, identity_in, seed_in
from gradhorizon.records.plain import read_json

if TYPE_CHECKING:
    from pydantic import BaseModel

_RESTORE = "restore it from a copy, or move the member's whole folder out of the run, and launch again"
_ADVICE = "launch its run again, which sets it aside"


def read_run_sheet(run: Path) -> dict[str, Any]:
    """Content of ``run.json``.

    Args:
        run: the run's folder.

    Raises:
        DamagedFileError: it is cut short, spoiled, or holds what no run writes.
        RecordsError: it is not there, or cannot be read.
    """
    content, _ = look_at_run_sheet(run)
    if not content:
        raise RecordsError(f"{run / RUN_SHEET} cannot be read (No such file or directory)")
    return content


def look_at_run_sheet(run: Path) -> tuple[dict[str, Any], float]:
    """Content of ``run.json``, and when it was changed, seconds since 1970; nothing and 0 if it is not there.

    Args:
        run: the run's folder.

    Raises:
        DamagedFileError: as `read_run_sheet`.
        RecordsError: it cannot be read.
    """
    content, changed_at_s = _look(run / RUN_SHEET, run, "RunSheet")
    own = identity_in(run.name)
    if content and own is not None and content["identity"] != own:
        raise DamagedFileError(f"{run / RUN_SHEET} is that of the run {content['identity']}, and lies in {run.name}")
    return content, changed_at_s


def read_member_sheet(member: Path) -> dict[str, Any]:
    """Content of ``member.json``; empty if there is none.

    Args:
        member: the member's folder.

    Raises:
        DamagedFileError: it is cut short, spoiled, or holds what no member writes.
        RecordsError: it cannot be read.
    """
    return look_at_member_sheet(member)[0]


def look_at_member_sheet(member: Path) -> tuple[dict[str, Any], float]:
    """Content of ``member.json``, and when it was changed, seconds since 1970; nothing and 0 if it is not there.

    Args:
        member: the member's folder.

    Raises:
        DamagedFileError: as `read_member_sheet`.
        RecordsError: it cannot be read.
    """
    path, seed = member / MEMBER_SHEET, seed_in(member.name)
    content, changed_at_s = _look(path, member.parent, "MemberSheet")
    if content and seed is not None and content["seed"] != seed:
        raise DamagedFileError(f"{path} is that of seed {content['seed']}, and lies in the folder of seed {seed}")
    told, own = content.get("identity"), identity_in(member.parent.name)
    if own is not None and (told or own) != own:
        raise DamagedFileError(f"{path} is that of the run {told}, and lies in the folder of {own}")
    return content, changed_at_s


def known_member_sheet(member: Path, run_sheet: dict[str, Any]) -> dict[str, Any]:
    """Content of ``member.json`` of a member of a run; empty if there is none.

    Args:
        member: the member's folder.
        run_sheet: content of the run's ``run.json``.

    Raises:
        DamagedFileError: as `read_member_sheet`; or it is gone, though the member has ended and its folder is there.
        RecordsError: it cannot be read.
    """
    content, path = read_member_sheet(member), member / MEMBER_SHEET
    seed = str(seed_in(member.name))
    is_ended = run_sheet.get("outcomes", {}).get(seed, {}).get("status") == "finished"
    if is_ended and not content and member.is_dir():
        raise DamagedFileError(f"{path} is missing, though {RUN_SHEET} tells how seed {seed} ended", _RESTORE)
    if content.get("identity", run_sheet["identity"]) != run_sheet["identity"]:
        raise DamagedFileError(f"{path} is that of the run {content['identity']}, not of this one", _RESTORE)
    return content


def _look(path: Path, run: Path, schema: str) -> tuple[dict[str, Any], float]:
    try:
        content, changed_at_s = read_json(path, run)
    except FileNotFoundError:
        return {}, 0.0
    check(content, path, schema)
    return content, changed_at_s


def check(content: dict[str, Any], path: Path, schema: str, advice: str = _ADVICE) -> None:
    """Refuse content that does not fit its schema.

    Args:
        content: of a file.
        path: where it lies.
        schema: name of a class of `gradhorizon.records.schemas`.
        advice: what to do.

    Raises:
        DamagedFileError: it does not fit.
    """
    from gradhorizon.records import schemas  # noqa: PLC0415, its library takes longer to load than most files to read

    kind: type[BaseModel] = getattr(schemas, schema)
    problem = schemas.problem_of(content, kind)
    if problem:
        raise DamagedFileError(f"{path}: {problem}", advice)
