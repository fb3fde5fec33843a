"""Docstrings of the house as Sphinx reads them.

Labelled paragraphs (Source, Notation, Chance) get their label in bold; bars mean absolute values, not substitutions; a
size that is explained by its letter alone begins no list; what is said of an attribute is not taken for its type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_LABEL = re.compile(r"^([A-Z][a-z]+): (?=\S)")
_LETTER = re.compile(r"(?<=: )([A-Z])\.$")
_QUOTED = re.compile(r"(`+[^`]+`+)")


def as_markup(lines: list[str]) -> list[str]:
    r"""A docstring's lines with every label bold, its paragraph flush, and every bar in prose escaped.

    Example:
        >>> as_markup(["Source: Elman (1990),", "    Finding structure.", "", "|a| of `|b|`, in", ".. math:: |c|"])
        ['**Source.** Elman (1990),', 'Finding structure.', '', '\\|a\\| of `|b|`, in', '.. math:: |c|']
    """
    return list(_labelled(_escaped(lines)))


def _labelled(lines: list[str]) -> Iterator[str]:
    is_within = is_labelled = False  # within a paragraph; within one that begins with a label
    for line in lines:
        if not is_within:
            is_labelled = bool(_LABEL.match(line))
            line = _LABEL.sub(r"**\1.** ", line)  # noqa: PLW2901
        is_within = bool(line.strip())
        yield line.lstrip() if is_labelled else line


def _escaped(lines: list[str]) -> list[str]:
    changed = []
    block: int | None = None  # the indentation of what opened a block that is no prose: a directive, literal lines
    for line in lines:
        indentation = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indentation <= block:
            block = None
        is_opening = line.lstrip().startswith((".. ", ">>> ")) or line.endswith("::")
        block = indentation if block is None and is_opening else block
        changed.append(line if block is not None else _escaped_line(line))
    return changed


def _escaped_line(line: str) -> str:
    parts = _QUOTED.split(_LETTER.sub(r"\1\.", line))
    return "".join(part if index % 2 else part.replace("|", r"\|") for index, part in enumerate(parts))


def without_type(lines: list[str]) -> list[str]:
    """An attribute's lines as they were written, where napoleon has taken what precedes a colon for its type.

    Example:
        >>> without_type(["seen so far.", "", ":type: Steps"])
        ['Steps: seen so far.']
    """
    for index, line in enumerate(lines):
        if line.startswith(":type: "):
            first, *others = lines[:index]
            return [f"{line.removeprefix(':type: ')}: {first}", *others[:-1]]
    return lines


def _before(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    lines[:] = as_markup(lines)


def _after(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    lines[:] = without_type(lines) if what in ("attribute", "data", "property") else lines


def setup(app: Sphinx) -> dict[str, bool]:
    """Have autodoc pass every docstring through, before napoleon reads its sections and after."""
    app.connect("autodoc-process-docstring", _before, priority=400)
    app.connect("autodoc-process-docstring", _after, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
