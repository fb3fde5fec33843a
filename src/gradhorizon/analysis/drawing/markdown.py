"""Tables as Markdown files hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def noted_table(header: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """A Markdown table, and below it a note if there is one.

    Args:
        header: column names.
        rows: cells.
        note: a sentence; empty for none.
    """
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([*lines, *(["", note] if note else [])]) + "\n"


def _cell(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return escaped.replace("](", "]\\(").replace("][", "]\\[").replace("`", "\\`")
