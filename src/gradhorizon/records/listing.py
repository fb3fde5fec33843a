"""What a member has committed: its tables, parts and kept checkpoints, each with rows and digest.

The list lies in the checkpoint, and so appears with it at once, and in ``member.json``, where readers find it. What a
commit has merged into larger files is listed too, as superseded, until it is removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gradhorizon.records.errors import DamagedFileError
from gradhorizon.records.layout import RECORDS, steps_in, table_in
from gradhorizon.records.seals import Entry, SealError, parsed_listing, plain_listing

FILES = "files"
"""The key of a list in ``member.json`` and in a checkpoint; what was written before there were lists has none."""

SUPERSEDED = "superseded"
"""The key of the files that were merged into listed ones and may still be there."""


@dataclass
class Listing:
    """What a member has committed.

    Attributes:
        files: path relative to the member's folder -> what was committed of it.
        superseded: the same of what was merged into others.
    """

    files: dict[str, Entry] = field(default_factory=dict)
    superseded: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> Listing | None:
        """The list in a checkpoint or a ``member.json``; None if it was written before there were lists.

        Args:
            content: what was read.
            path: where.

        Raises:
            DamagedFileError: it is no list.
        """
        if FILES not in content:
            return None
        try:
            return cls(parsed_listing(content[FILES]), parsed_listing(content.get(SUPERSEDED, {})))
        except SealError as error:
            raise DamagedFileError(f"{path} {error}") from error

    @property
    def plain(self) -> dict[str, Any]:
        """What a checkpoint and ``member.json`` hold of it."""
        return {FILES: plain_listing(self.files), SUPERSEDED: plain_listing(self.superseded)}

    @property
    def tables(self) -> set[str]:
        """Names of the tables of which there are rows."""
        return {name for path in self.files if (name := table_of(path)) is not None}

    def of_table(self, name: str) -> dict[str, Entry]:
        """The whole table `name`, or its parts by optimizer step."""
        own = {path: entry for path, entry in self.files.items() if table_of(path) == name}
        return dict(sorted(own.items(), key=lambda item: _steps(item[0])))

    def replace(self, old: Mapping[str, Entry], new: Mapping[str, Entry]) -> None:
        """List `new`, into which `old` was merged."""
        for path in old:
            del self.files[path]
        self.superseded |= {path: entry for path, entry in old.items() if path not in new}
        self.files |= new

    def kept(self) -> Iterator[tuple[str, Entry]]:
        """Whatever is listed and is no table."""
        yield from ((path, entry) for path, entry in self.files.items() if table_of(path) is None)


def table_of(path: str) -> str | None:
    """The table to which a file belongs.

    Args:
        path: relative to the member's folder.

    Example:
        >>> table_of("records/gates.parquet"), table_of("records/gates/00000000-00000500.parquet")
        ('gates', 'gates')
        >>> table_of("checkpoints/init.pt")
    """
    match PurePosixPath(path).parts:
        case (folder, name) if folder == RECORDS:
            return table_in(name)
        case (folder, table, name) if folder == RECORDS and steps_in(name) is not None:
            return table
    return None


def _steps(path: str) -> tuple[int, int]:
    return steps_in(PurePosixPath(path).name) or (0, 0)
