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


def save_table(table: pd.DataFrame, path: Path, digest: str, float_format: str | None = None) -> Path:
    """Write a CSV file, whose last column is the digest of the records; returns its path.

    The digest is marked as such: some sixteen hexadecimal digits are a number to those who read CSV.

    Args:
        table: its rows; the index is left out.
        path: overwritten; its folder is made if need be.
        digest: of the records that it was made of.
        float_format: how numbers are written; in full if None.
    """
    return save_text(
        table.assign(records_digest=f"sha256:{digest}").to_csv(index=False, float_format=float_format), path
    )


def origin(digest: str) -> str:
    """One line that says what was read.

    Args:
        digest: of the records.
    """
    return f"Drawn from records with digest {digest}, which gradhorizon-verify prints of the same folders."
