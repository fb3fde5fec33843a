"""Words as a terminal, a folder's name or a table can show them; imports next to nothing."""

from __future__ import annotations

import re
import sys
from io import TextIOWrapper

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def show_any_text() -> None:
    """Have standard output and error spell what they cannot encode, such as a folder's name of another encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    r"""`text` in one line, without what a terminal would act upon.

    Args:
        text: anything.
        instead: what stands for such a character.

    Example:
        >>> printable("a\x1b[31mb\n")
        'a�[31mb�'
    """
    return "".join(character if character.isprintable() else instead for character in text)


def one_line(said: object, most: int | None = None) -> str:
    """What an exception or a text says, in one line.

    Args:
        said: whatever it is.
        most: characters of it.
    """
    words = " ".join(str(said).split())
    return words if most is None else shortened(words, most)


def shortened(text: str, most: int) -> str:
    """`text` up to `most` characters, with a mark where it was cut off.

    Example:
        >>> shortened("gradient", 4), shortened("gradient", 8)
        ('grad…', 'gradient')
    """
    return text if len(text) <= most else f"{text[:most]}…"


def counted(count: int, noun: str) -> str:
    """How many there are of something.

    Example:
        >>> counted(1, "run"), counted(0, "member")
        ('1 run', '0 members')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def snake_case(name: str) -> str:
    """A class's name in small letters.

    Args:
        name: in capitalised words.

    Example:
        >>> [snake_case(name) for name in ("DelayedRecall", "MNISTRows", "Copy2016")]
        ['delayed_recall', 'mnist_rows', 'copy2016']
    """
    return _WORD_STARTS.sub("_", name).lower()
