r"""What was written, told from what lies there: digests (SHA-256) that are kept with what they belong to.

Four kinds of file, four places for the digest: a JSON object carries it under the key ``digest``, a text in its last
line, a checkpoint (a zip archive, which any ``torch.load`` still reads) in the archive's comment; a table, and
whatever else a member keeps, is listed with its digest where it was committed: in the checkpoint and in
``member.json``. What was recorded before there were digests carries none, and is read as it is. Imports the standard
library alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = "digest"
"""Of a JSON object's own digest."""

_LINE = re.compile(rb"# sha256 ([0-9a-f]{64})\n")
_RELATIVE = re.compile(r"(?:(?!\.\.?/)[^/\x00]{1,255}/){0,2}(?!\.\.?$)[^/\x00]{1,255}")
_COMMENT = re.compile(rb"sha256 ([0-9a-f]{64})")
_COMMENT_BYTES = 71
_NO_COMMENT = b"\0\0"  # how long a zip archive says that its comment is
_END_OF_ARCHIVE = b"PK\x05\x06"
_END_BYTES = 22  # of the record that begins so and ends with the comment's length


class SealError(ValueError):
    """What lies there is not what was written."""


@dataclass(frozen=True)
class Entry:
    """A file as it was committed.

    Attributes:
        digest: SHA-256 of its bytes, hexadecimal.
        num_bytes: its size.
        rows: of a table or part, None of any other file.
        commits: how many commits of rows a part holds.
    """

    digest: str
    num_bytes: int
    rows: int | None = None
    commits: int = 1

    @classmethod
    def of(cls, content: bytes, rows: int | None = None, commits: int = 1) -> Entry:
        """The entry of a file with this content."""
        return cls(digest(content), len(content), rows, commits)

    @classmethod
    def parsed(cls, plain: Mapping[str, Any]) -> Entry:
        """The entry that `plain` was made of.

        Raises:
            SealError: it is none.
        """
        try:
            found = cls(plain["sha256"], plain["bytes"], plain.get("rows"), plain.get("commits", 1))
        except (KeyError, TypeError, AttributeError) as error:
            raise SealError(f"lists a file without its digest and size, got {plain!r}") from error
        numbers = [found.num_bytes, found.commits, 0 if found.rows is None else found.rows]
        if not isinstance(found.digest, str) or not all(type(number) is int and number >= 0 for number in numbers):
            raise SealError(f"lists a file with something other than text and counts, got {plain!r}")
        return found

    @property
    def plain(self) -> dict[str, Any]:
        """What JSON and checkpoints hold of it."""
        of_table = {} if self.rows is None else {"rows": self.rows}
        return {
            "sha256": self.digest,
            "bytes": self.num_bytes,
            **of_table,
            **({"commits": self.commits} if self.commits > 1 else {}),
        }

    def check(self, content: bytes) -> None:
        """Make sure that `content` is what was committed.

        Raises:
            SealError: it is not.
        """
        if len(content) != self.num_bytes:
            raise SealError(f"has {len(content)} bytes, and {self.num_bytes} were committed")
        if digest(content) != self.digest:
            raise SealError("is not what was committed: its digest is another")


def parsed_listing(plain: object) -> dict[str, Entry]:
    """Files by their path relative to the folder of their member, with slashes, from what JSON or a checkpoint holds.

    Raises:
        SealError: it was none.
    """
    if not isinstance(plain, Mapping):
        raise SealError(f"must list files in an object, got {type(plain).__name__}")
    for path in plain:  # which may be a stranger's, and is read, or removed once it is merged
        if not isinstance(path, str) or not _RELATIVE.fullmatch(path):
            raise SealError(f"must list files by their place in the member's folder, got {str(path)[:100]!r}")
    return {str(path): Entry.parsed(entry) for path, entry in plain.items()}


def plain_listing(listing: Mapping[str, Entry]) -> dict[str, dict[str, Any]]:
    """What JSON and checkpoints hold of a listing."""
    return {path: entry.plain for path, entry in listing.items()}


def digest(content: bytes) -> str:
    """SHA-256 of `content`, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_of_json(content: Mapping[str, Any]) -> str:
    """Digest of a JSON object, however it is laid out, without the one that it carries."""
    others = {key: value for key, value in content.items() if key != KEY}
    return digest(json.dumps(others, sort_keys=True, separators=(",", ":")).encode())


def sealed_json(content: Mapping[str, Any]) -> bytes:
    """The file of a JSON object that carries its digest."""
    plain = json.loads(json.dumps(content))  # as it will be read: with text for keys
    whole = {**plain, KEY: digest_of_json(plain)}
    return (json.dumps(whole, indent=2, sort_keys=True) + "\n").encode()


def is_sealed_json(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object that was read carries its digest.

    Raises:
        SealError: it carries another's.
    """
    if KEY not in content:
        return False
    if content[KEY] != digest_of_json(content):
        raise SealError("is not what was written: its digest is another")
    return True


def sealed_text(text: str) -> bytes:
    """The file of a text whose last line is its digest, as a comment."""
    content = text.encode()
    return content + f"# sha256 {digest(content)}\n".encode()


def opened_text(content: bytes) -> tuple[bytes, bool]:
    """A text without the line that is its digest, and whether it had one.

    Raises:
        SealError: it has another's.
    """
    body, _, last = content[:-1].rpartition(b"\n")
    found = _LINE.fullmatch(last + content[-1:])
    if found is None:
        return content, False
    body += b"\n"
    if digest(body) != found[1].decode():
        raise SealError("is not what was written: its digest is another")
    return body, True


def sealed_archive(content: bytes) -> bytes:
    """A zip archive without comment, with its digest as comment."""
    if content[-len(_NO_COMMENT) :] != _NO_COMMENT:
        raise ValueError("an archive must have no comment, to be given its digest")
    return content[: -len(_NO_COMMENT)] + _COMMENT_BYTES.to_bytes(2, "little") + f"sha256 {digest(content)}".encode()


def is_sealed_archive(content: bytes) -> bool:
    """Whether a zip archive carries its digest.

    Raises:
        SealError: it carries another's, or has lost or gained bytes at its end.
    """
    at = content.rfind(_END_OF_ARCHIVE)
    if at < 0:  # no archive, as whoever opens it will say
        return False
    bare = content[: at + _END_BYTES - len(_NO_COMMENT)] + _NO_COMMENT
    num_bytes = int.from_bytes(content[len(bare) - len(_NO_COMMENT) : len(bare)], "little")
    comment = content[len(bare) :]
    if len(comment) != num_bytes:
        raise SealError("is not what was written: its end is not where it says")
    if not comment:
        return False
    found = _COMMENT.fullmatch(comment)
    if found is None or digest(bare) != found[1].decode():
        raise SealError("is not what was written: its digest is another")
    return True
