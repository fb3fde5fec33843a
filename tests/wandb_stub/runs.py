"""What the stub keeps of one run, and how W&B's file stream and GraphQL spell it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"
_NO_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass
class StubRun:
    """One run as the server holds it.

    Attributes:
        name: the run's id in URLs.
        fields: what was last upserted of each field (displayName, groupName, jobType, tags, …).
        lines: history rows, the JSON text as it was received.
        whole_summary: key -> value, W&B's own keys included.
        files: path -> content of what was uploaded.
        exit_code: None if the run was not finished.
    """

    name: str
    project: str
    entity: str
    fields: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    whole_summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The configuration without W&B's own keys."""
        content = json.loads(self.fields.get("config") or "{}")
        return {key: entry["value"] for key, entry in content.items() if not key.startswith("_")}

    @property
    def summary(self) -> dict[str, Any]:
        """The summary without W&B's own keys."""
        return _without_own_keys(self.whole_summary)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """History rows in order, without W&B's own keys."""
        return [_without_own_keys(json.loads(line)) for line in self.lines]

    @property
    def x_axes(self) -> dict[str, str]:
        """Metric or glob -> the metric that it is drawn against."""
        entries = json.loads(self.fields.get("config") or "{}").get("_wandb", {}).get("value", {}).get("m", [])
        names = [entry.get("1") or entry.get("2") for entry in entries]  # name or glob, by protobuf field number
        return {
            str(name): str(names[entry["5"] - 1]) for name, entry in zip(names, entries, strict=True) if entry.get("5")
        }

    def curve(self, key: str, x_axis: str = "step") -> list[tuple[Any, Any]]:
        """All (x, value) of one key."""
        return [(row[x_axis], row[key]) for row in self.rows if key in row]

    def update(self, variables: Mapping[str, Any]) -> None:
        """Take over the fields that an upsert sends; those it leaves out stay."""
        self.fields.update({key: value for key, value in variables.items() if value is not None})

    def stream(self, body: Mapping[str, Any]) -> None:
        """Take a file-stream request: lines that replace all from their offset on, and perhaps the end."""
        files = body.get("files") or {}
        if HISTORY in files:
            offset, lines = files[HISTORY]["offset"], files[HISTORY]["content"]
            self.lines[offset:] = lines
        if SUMMARY in files:
            self.whole_summary = json.loads(files[SUMMARY]["content"][-1])
        if body.get("complete"):
            self.exit_code = body.get("exitcode")

    def resume_status(self) -> dict[str, Any]:
        """The bucket as ``RunResumeStatus`` answers it."""
        return {
            "id": self.name,
            "name": self.name,
            "displayName": self.fields.get("displayName"),
            "summaryMetrics": json.dumps(self.whole_summary),
            "config": self.fields.get("config") or "{}",
            "tags": self.fields.get("tags") or [],
            "notes": None,
            "historyLineCount": len(self.lines),
            "historyTail": json.dumps(self.lines[-1:]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "wandbConfig": json.dumps({"t": 1}),
        }


def _without_own_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _number(value) for key, value in content.items() if not key.startswith("_")}


def _number(value: Any) -> Any:
    return _NO_NUMBERS.get(value, value) if isinstance(value, str) else value
