"""What a table's file may hold: columns of numbers and texts, of no more rows than it has room for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradhorizon.records.errors import DamagedFileError
from gradhorizon.records.layout import RUN_SHEET
from gradhorizon.records.tables import LEAD_COLUMNS, type_of
from gradhorizon.terminal.words import one_line

OWNER = ("experiment", "run", "seed")
"""Lead columns that tell whose rows they are."""

_PLAIN = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
_VALUE_BYTES = 8
_ROOM_BYTES = 2**26  # that any table may take in memory
_MOST_PACKED = 1000  # bytes in memory for each on disk, beyond that; those of the studies take up to 22
_MOST_SHOWN = 80
_ADVICE = "take it from where the run came from, or move it away"


def is_text(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are texts, however they are kept."""
    return (kind.value_type if pa.types.is_dictionary(kind) else kind) in (pa.string(), pa.large_string())


def check_types(schema: pa.Schema, path: Path) -> None:
    """Refuse columns that no table has, whoever measured it: lists, objects, types that a package would have to build.

    Args:
        schema: that of a file.
        path: where it lies.

    Raises:
        DamagedFileError: a column of another type, or two of one name.
    """
    names = set()
    for name, found in zip(schema.names, schema.types, strict=True):
        if found not in _PLAIN and not is_text(found):
            what = one_line(found)[:_MOST_SHOWN]
            raise DamagedFileError(
                f"{path} is no table of gradhorizon: its column `{name[:_MOST_SHOWN]}` is {what}, expected one of "
                f"{', '.join(map(str, _PLAIN))}",
                _ADVICE,
            )
        if name in names:
            raise DamagedFileError(f"{path} is no table of gradhorizon: it has two columns `{name[:_MOST_SHOWN]}`")
        names.add(name)


def check_size(metadata: pq.FileMetaData, path: Path, num_bytes: int) -> None:
    """Refuse a file that claims more rows than it can have, or unpacks to more than a table needs.

    Args:
        metadata: that of the file.
        path: where it lies.
        num_bytes: its size.

    Raises:
        DamagedFileError: it does.
    """
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    needed = max(unpacked, metadata.num_rows * metadata.num_columns * _VALUE_BYTES)
    if needed > _ROOM_BYTES + num_bytes * _MOST_PACKED or metadata.num_rows < 0:
        raise DamagedFileError(
            f"{path} has {num_bytes} bytes and claims {metadata.num_rows} rows, which would take {needed:.3g} bytes"
        )


def check_lead(schema: pa.Schema, path: Path) -> None:
    """Refuse a table without the columns that lead every one.

    Args:
        schema: that of the table.
        path: where it lies.

    Raises:
        DamagedFileError: one is missing, or of another type.
    """
    found = dict(zip(schema.names, schema.types, strict=True))
    for column in LEAD_COLUMNS:
        if found.get(column.name) != type_of(column):
            words = f"its column `{column.name}` is {found.get(column.name, 'missing')}, expected {column.dtype}"
            raise DamagedFileError(f"{path} is no table of gradhorizon: {words}", _ADVICE)


def check_owner(table: pa.Table, path: Path, owner: Mapping[Any, Any]) -> None:
    """Refuse rows of another member than their sheets tell of: nothing would be known of it.

    Args:
        table: of one member.
        path: where it lies.
        owner: `OWNER` -> what the sheets say.

    Raises:
        DamagedFileError: they are another's.
    """
    for column in OWNER:
        other = next((value for value in pc.unique(table[column]).to_pylist() if value != owner[column]), None)
        if other is not None:
            words = f"has rows of the {column} {other!r:.100}, where {RUN_SHEET} says {owner[column]!r:.100}"
            raise DamagedFileError(f"{path} {words}", _ADVICE)
