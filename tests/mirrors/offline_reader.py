"""An independent reader of W&B's offline files: a 7-byte header, LevelDB's log framing, protobuf records.

Source: LevelDB log format, https://github.com/google/leveldb/blob/main/doc/log_format.md.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_RECORD: Any = vars(wandb_internal_pb2)["Record"]
HEADER_BYTES = 7
BLOCK_BYTES = 32768
CHUNK_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """Content of one ``.wandb`` file.

    Attributes:
        run: the last run record (id, name, group, tags, job type).
        config: key -> value.
        rows: history rows in order, without W&B's own keys.
        x_axes: glob -> the metric that it is drawn against.
        summary: key -> value.
        exit_code: None if the run was not finished.
    """

    file: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    x_axes: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def curve(self, key: str, x_axis: str = "step") -> list[tuple[Any, Any]]:
        """All (x, value) of one key."""
        return [(row[x_axis], row[key]) for row in self.rows if key in row]

    def media(self, path: str) -> Path:
        """The file that a media value points at."""
        return self.file.parent / "files" / path


def read_offline_run(file: Path) -> OfflineRun:
    """The run in `file`, as far as it was written."""
    content = OfflineRun(file)
    for data in _records(file.read_bytes()):
        record = _RECORD.FromString(data)
        _READERS.get(record.WhichOneof("record_type"), _ignore)(content, record)
    return content


def _records(data: bytes) -> Iterator[bytes]:
    position, parts = HEADER_BYTES, b""
    while position + CHUNK_HEADER.size <= len(data):
        left_in_block = BLOCK_BYTES - position % BLOCK_BYTES
        if left_in_block < CHUNK_HEADER.size:
            position += left_in_block
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(data, position)
        position += CHUNK_HEADER.size
        if kind not in (FULL, FIRST, MIDDLE, LAST) or position + length > len(data):
            return
        parts = (
            data[position : position + length] if kind in (FULL, FIRST) else parts + data[position : position + length]
        )
        position += length
        if kind in (FULL, LAST):
            yield parts


def _ignore(content: OfflineRun, record: Any) -> None:
    del content, record


def _read_run(content: OfflineRun, record: Any) -> None:
    content.run = record.run
    _update(content.config, record.run.config)


def _read_history(content: OfflineRun, record: Any) -> None:
    row: dict[str, Any] = {}
    for item in record.history.item:
        key, *parts = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if parts:  # a media value comes in pieces
            row.setdefault(key, {})[".".join(parts)] = value
        elif not key.startswith("_"):
            row[key] = value
    content.rows.append(row)


def _read_metric(content: OfflineRun, record: Any) -> None:
    content.x_axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric


def _update(target: dict[str, Any], record: Any) -> None:
    target.update({_key(item): json.loads(item.value_json) for item in record.update})


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


_READERS = {
    "run": _read_run,
    "history": _read_history,
    "metric": _read_metric,
    "config": lambda content, record: _update(content.config, record.config),
    "summary": lambda content, record: _update(content.summary, record.summary),
    "exit": lambda content, record: setattr(content, "exit_code", record.exit.exit_code),
}
