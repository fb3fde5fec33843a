"""Members' records as a run leaves them: rows, and the sheet that lists what is committed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gradhorizon.records.files import read_json, write_json
from gradhorizon.records.layout import CHECKPOINT, CONFIG, MEMBER_SHEET, RECORDS, RUN_SHEET
from gradhorizon.records.listing import Listing
from gradhorizon.records.seals import Entry
from gradhorizon.records.tables import METRICS
from gradhorizon.records.writing import MemberRecords
from gradhorizon.training.recorder import save_atomically

LEAD = {"experiment": "e", "run": "r", "model": "m", "task": "t", "seq_len": 10, "input_len": 12, "seed": 0}


def rows(value: float) -> pd.DataFrame:
    """One row of metrics."""
    return pd.DataFrame([{"split": "train", "metric": "loss", "value": value}])


def commit(records: MemberRecords, last_step: int) -> None:
    """Commit as a run does, without its checkpoint."""
    records.commit(last_step)
    list_files(records, step=last_step)
    records.remove_superseded()


def end(records: MemberRecords, **facts: Any) -> None:
    """Merge as a run does when a member has ended."""
    records.merge()
    ended: dict[str, Any] = {"status": "finished", "outcome": "budget exhausted", "outcome_step": 100}
    list_files(records, **{**ended, **facts})
    records.remove_superseded()


def list_files(records: MemberRecords, **facts: Any) -> None:
    """Write the sheet of a member, or what it lists into the one that is there."""
    path = records.member / MEMBER_SHEET
    new = {
        "seed": records.lead["seed"],
        "status": "running",
        "outcome": None,
        "outcome_step": None,
        "step": 0,
        "launch": {},
    }
    content = {**new, **(read_json(path) if path.is_file() else {}), **facts}
    write_json({**content, **records.listing.plain}, path)


def written(folder: Path, *steps: int) -> MemberRecords:
    """Records with one row per step, committed one part per step."""
    records = MemberRecords(folder, LEAD)
    for step in steps:
        records.append(METRICS, rows(float(step)), step, "train")
        commit(records, step)
    return records


def list_as_found(member: Path, seed: int = 0) -> None:
    """Have a member's sheet, made where there is none, list the whole tables that lie there."""
    path = member / MEMBER_SHEET
    new = {"seed": seed, "status": "running", "outcome": None, "outcome_step": None, "step": 0, "launch": {}}
    content: dict[str, Any] = read_json(path) if path.is_file() else new
    tables = sorted((member / RECORDS).glob("*.parquet"))
    listed = {f"{RECORDS}/{table.name}": Entry.of(table.read_bytes(), 1).plain for table in tables}
    write_json({**content, "files": {**content.get("files", {}), **listed}}, path)


def rewrite_config(run: Path, content: str | bytes) -> None:
    """Give a run another ``config.yaml``, and have its sheet list it, as whoever makes up a run would."""
    raw = re.sub(rb"# sha256 [0-9a-f]{64}\n", b"", content if isinstance(content, bytes) else content.encode())
    (run / CONFIG).write_bytes(raw)
    sheet = read_json(run / RUN_SHEET)
    if "files" in sheet:
        write_json({**sheet, "files": {CONFIG: Entry.of(raw).plain}}, run / RUN_SHEET)


def relist(member: Path) -> None:
    """Have a member's sheet and checkpoint list its files as they are now, as if they had been written so."""
    path = member / MEMBER_SHEET
    content = read_json(path)
    listed = {
        name: Entry.of((member / name).read_bytes(), entry.get("rows")).plain
        for name, entry in content["files"].items()
    }
    write_json({**content, "files": listed}, path)
    checkpoint = member / CHECKPOINT
    if checkpoint.is_file():
        save_atomically({**torch.load(checkpoint, weights_only=True), "files": listed}, checkpoint)


def without_listing(member: Path) -> None:
    """Have a member's sheet and checkpoint be as they were before files were listed."""
    path, lost = member / MEMBER_SHEET, ("files", "superseded", "digest", "identity")
    content = {key: value for key, value in read_json(path).items() if key not in lost}
    path.write_text(json.dumps(content), encoding="utf-8")
    checkpoint = member / CHECKPOINT
    if checkpoint.is_file():
        content = torch.load(checkpoint, weights_only=True)
        torch.save({key: value for key, value in content.items() if key not in (*lost, "seed")}, checkpoint)


def resumed(folder: Path, checkpoint_step: int) -> MemberRecords:
    """Records that go on from a checkpoint that lists what the sheet lists up to there."""
    path = folder / MEMBER_SHEET
    listing = Listing.read(read_json(path), path)
    return MemberRecords(folder, LEAD, checkpoint_step, [METRICS], listing)
