"""What a finished sweep must have left on disk: the bits of an undisturbed one, and nothing besides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from gradhorizon.records.files import read_json
from gradhorizon.runs.claims import latest_claim, server_time_s
from gradhorizon.status.sweep import run_folders
from tests.runs_on_disk import assert_same_records

_EXPECTED = re.compile(
    r"config\.yaml|run\.json|\.run\.lock|log\.txt|output\.txt|wandb/.*|"
    r"seed-\d+/(member\.json|checkpoint\.pt|checkpoints/\w+\.pt|records/\w+\.parquet|\.lock|\.owner-\d{6}\.json)|"
    r"seed-\d+/records/[\w./-]+\.parquet\.aside\d*"  # set aside, never deleted
)

_OF_LAUNCHES = dict.fromkeys(("launch", "launches", "superseded", "digest"))  # which parts were merged: of its commits


def complaints(found: Path, undisturbed: Path, seeds: range) -> list[str]:
    """All that is wrong with an experiment's folder.

    Args:
        found: the folder.
        undisturbed: the same experiment, trained by one process that nobody disturbed.
        seeds: members of each run.
    """
    names, expected = ({path.name for path in run_folders(folder)} for folder in (found, undisturbed))
    said = [f"{name}: there is no such run" for name in expected - names]
    said += [f"{name}: there is such a run" for name in names - expected]
    for name in sorted(names & expected):
        said += [f"{name}: {words}" for words in _of_run(found / name, undisturbed / name, seeds)]
    return said


def _of_run(run: Path, undisturbed: Path, seeds: range) -> Iterator[str]:
    sheet, expected = read_json(run / "run.json"), read_json(undisturbed / "run.json")
    keys = {**sheet, **expected}.keys() - {"digest", "files"}  # the configuration is compared by itself
    differing = sorted(key for key in keys if sheet.get(key) != expected.get(key))
    if differing:
        yield f"run.json differs: { ({key: sheet.get(key) for key in differing}) }"
    if _configuration(run) != _configuration(undisturbed):
        yield "config.yaml differs"
    files = (path.relative_to(run).as_posix() for path in run.rglob("*") if not path.is_dir())
    yield from (f"{path} was left" for path in files if not _EXPECTED.fullmatch(path))
    for seed in seeds:
        yield from (f"seed {seed}: {words}" for words in _of_member(run, undisturbed, seed))


def _of_member(run: Path, undisturbed: Path, seed: int) -> Iterator[str]:
    member, expected = run / f"seed-{seed}", undisturbed / f"seed-{seed}"
    sheets = [{**read_json(folder / "member.json"), **_OF_LAUNCHES} for folder in (member, expected)]
    if sheets[0] != sheets[1]:
        yield f"member.json says {sheets[0]}, not {sheets[1]}"
    try:
        assert_same_records(undisturbed, run, seed)
    except AssertionError as error:
        yield f"records differ: {error}"
    yield from _of_checkpoints(member, expected)
    yield from _of_locks(member)


def _of_checkpoints(member: Path, undisturbed: Path) -> Iterator[str]:
    found, expected = ({path.relative_to(folder) for path in folder.rglob("*.pt")} for folder in (member, undisturbed))
    if found != expected:
        yield f"checkpoints {sorted(map(str, found ^ expected))} are missing or too many"
    for path in sorted(found & expected):
        first, second = (torch.load(folder / path, weights_only=True) for folder in (member, undisturbed))
        if not _is_same({**first, **_OF_LAUNCHES}, {**second, **_OF_LAUNCHES}):
            yield f"{path} differs"


def _is_same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return bool(torch.equal(first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_is_same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_is_same, first, second))
    return bool(first == second)


def _of_locks(member: Path) -> Iterator[str]:
    claim = latest_claim(member)
    if claim is None or claim.is_alive(server_time_s(member)):
        yield f"somebody still owns it, or nobody ever did: {claim}"
    if len(list(member.glob(".owner*"))) != 1:
        yield f"claims were left: {sorted(path.name for path in member.glob('.owner*'))}"
    try:
        with FileLock(member / ".lock", timeout=0):
            pass
    except Timeout:
        yield "its lock is held"


def _configuration(run: Path) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    return {key: value for key, value in content.items() if key != "logger"}
