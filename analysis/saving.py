"""What analysis writes: each file whole or not at all, so that a killed call or a full disk leaves the old one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradhorizon.records.files import write_atomically


def save_text(text: str, path: Path) -> Path:
    """Write a text file; returns its path.

    Args:
        text: what no encoding knows, such as a folder's name in none, becomes ``?``.
        path: overwritten; its folder is made if need be.
    """
    write_atomically(text.encode(errors="replace"), path)
    return path


def save_table(table: pd.DataFrame, path: Path, float_format: str | None = None) -> Path:
    """Write a CSV file; returns its path.

    Args:
        table: its rows; the index is left out.
        path: overwritten; its folder is made if need be.
        float_format: how numbers are written; in full if None.
    """
    return save_text(table.to_csv(index=False, float_format=float_format), path)
