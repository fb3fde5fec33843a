"""Every program that reads runs, called in this process, and what it reads of a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig

from gradhorizon.analysis import verdicts
from gradhorizon.analysis.reading.cohort import open_lines, read_cohort
from gradhorizon.late_measurement.command import composed
from gradhorizon.late_measurement.members import FinishedMember, KeptCheckpoint
from gradhorizon.late_measurement.run import FinishedRun
from gradhorizon.mirrors.rebuilt import RecordedRun
from gradhorizon.mirrors.recorded import recorded_scalars
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.files import files_of
from gradhorizon.records.layout import (
    CONFIG,
    RECORDS,
    RUN_SHEET,
    identity_in,
    member_folder,
    seeds_in,
    table_in,
)
from gradhorizon.records.listing import FILES, SUPERSEDED
from gradhorizon.records.reading import read_runs
from gradhorizon.records.sheets import read_member_sheet
from gradhorizon.status.run import RunLook
from gradhorizon.status.sweep import SweepReader
from gradhorizon.training.ensemble import Member
from gradhorizon.training.repairs import mended
from tests.torture_outcomes import Reader, Thunk

SKIPPED = "unfinished, skipped"
"""What is said of a member that is not measured, since its sheet does not call it finished."""

_LEAD = ("experiment", "run", "model", "task", "seq_len", "input_len")


def _tables(run: Path, _: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
    """``read_runs``, and every table that is there."""
    yield "members", lambda: dataclasses.astuple(read_runs([run]))
    runs = _quietly(lambda: read_runs([run]))
    for name in _table_names(run) if runs is not None else ():
        yield name, partial(runs.table, name)


def _table_names(run: Path) -> list[str]:
    found = {
        table_in(path.name) or path.name
        for seed in seeds_in(run)
        for path in (member_folder(run, seed) / RECORDS).glob("*")
        if path.is_dir() or table_in(path.name)
    }
    return sorted(found)


def _quietly(thunk: Thunk) -> Any:
    logging.disable(logging.CRITICAL)
    try:
        return thunk()
    except Exception:  # noqa: BLE001, it was told by the thing before
        return None
    finally:
        logging.disable(logging.NOTSET)


def _status(experiment: Path, _: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
    """What ``gradhorizon-status`` shows, times of day aside."""

    def read() -> Any:
        return [_without_times(run) for run in SweepReader([experiment]).read().runs]

    yield "all", read


def _without_times(run: RunLook) -> RunLook:
    members = [dataclasses.replace(member, committed_at_s=None) for member in run.members]
    return dataclasses.replace(run, members=members, changed_at_s=0.0)


def _cohort(run: Path, _: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
    """What figures and report draw upon."""

    def read() -> Any:
        cohort = read_cohort([run], is_partial=True)
        return cohort.members, cohort.runs.chance, cohort.look, cohort.sweep.summary, open_lines(cohort.sweep)

    yield "members", read


def _verdicts(run: Path, _: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
    """The verdict table."""
    yield "table", lambda: verdicts.summarise(read_cohort([run], is_partial=True))


@cache
def _chosen() -> DictConfig:
    return composed(["measurement=lyapunov_spectrum", "measurement.lyapunov_spectrum.num_exponents=2"])


@lru_cache(maxsize=1)
def _finished_run(run: Path, *_: bytes) -> FinishedRun:
    """The run, built anew whenever its configuration or its sheet are others."""
    return FinishedRun(run, _chosen())


def _measure(run: Path, seeds: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
    """What ``gradhorizon-measure`` builds of a run, and the networks that it kept."""

    def built() -> FinishedRun:
        known = [path.read_bytes() if path.is_file() else b"" for path in (run / CONFIG, run / RUN_SHEET)]
        return _finished_run(run, *known)

    def told() -> Any:
        found = built()
        return vars(found.run), {name: found.sheet.get(name) for name in _LEAD}, found.trained_with

    yield "configuration", told
    finished = _quietly(built)
    for seed in seeds if finished is not None else ():
        yield f"seed {seed} is there", partial(_whether_finished, run, seed)
        if _quietly(partial(_whether_finished, run, seed)) != "finished":
            continue
        member = FinishedMember(run, seed, finished.run)
        yield f"seed {seed}", partial(_kept, member)
        network = Member(0, finished.setup.build_network).network
        for checkpoint in _quietly(member.checkpoints) or ():
            yield f"seed {seed}, {checkpoint.path.name}", partial(_restored, checkpoint, network)


def _whether_finished(run: Path, seed: int) -> str:
    return "finished" if read_member_sheet(member_folder(run, seed)).get("status") == "finished" else SKIPPED


def _kept(member: FinishedMember) -> Any:
    return member.outcome, member.checkpoints(), member.launch


def _restored(checkpoint: KeptCheckpoint, network: torch.nn.Module) -> Any:
    checkpoint.restore(network)
    return dict(network.state_dict())


def _push(run: Path, seeds: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
    """What ``gradhorizon-wandb-push`` tells W&B."""
    yield "run", lambda: RecordedRun.read(run)
    for seed in seeds if _quietly(partial(RecordedRun.read, run)) is not None else ():
        yield f"scalars of seed {seed}", partial(recorded_scalars, run, [seed])


def _resume(run: Path, seeds: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
    """What a launch goes on from: the checkpoint, and the records up to there."""
    for seed in seeds:
        yield f"seed {seed}", partial(_mended if member_folder(run, seed).is_dir() else _left_out, run, seed)


def _left_out(*_: object) -> str:
    return SKIPPED


def _mended(run: Path, seed: int) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / run.name / member_folder(run, seed).name
        shutil.copytree(member_folder(run, seed), copy)
        checkpoint, _ = mended(copy, identity_in(run.name) or "", {}, ())
        if checkpoint is None:
            return "trained from its start"
        found = [(name, files_of(copy, name)) for name in _table_names(copy.parent)]
        rows = [(name, [pd.read_parquet(path, partitioning=None) for path in paths]) for name, paths in found]
        # Its list names every file, and would hide that one of them is named.
        return {key: value for key, value in checkpoint.items() if key not in (FILES, SUPERSEDED)}, rows


def _verify(run: Path, _: Sequence[int]) -> Iterator[tuple[str, Thunk]]:
    """``gradhorizon-verify``, where there is one."""
    try:
        program = importlib.import_module("gradhorizon.status.verify")
    except ImportError:
        return

    def verified() -> str:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            if program.main([str(run)]):
                raise RecordsError(shown.getvalue())
        return "verified"

    yield "all", verified


READERS: dict[str, Reader] = {
    "tables": _tables,
    "status": _status,
    "cohort": _cohort,
    "measure": _measure,
    "push": _push,
    "resume": _resume,
    "verify": _verify,
    "verdicts": _verdicts,
}
"""Program -> the things that it reads, each with how."""

_OF_SHEETS = ("tables", "status", "cohort", "measure", "push", "verify")


def readers_of(kind: str) -> dict[str, Reader]:
    """The readers of one kind of file: those that never open it would only cost time.

    Args:
        kind: of `tests.torture_specimens.KINDS`.
    """
    if kind.endswith(".pt"):
        names: tuple[str, ...] = ("resume", "verify") if kind == "checkpoint.pt" else ("measure", "verify")
    elif "table" in kind:
        names = ("tables", "push", "verify", *(("resume",) if kind.startswith("part") else ()))
    elif kind.endswith("unfinished"):
        names = (*_OF_SHEETS[:3], "push", *(("resume",) if kind.startswith("member") else ()), "verify")
    elif kind.startswith("sweeps"):
        names = ("status",)
    elif kind == "config.yaml":
        names = ("measure", "push", "verify")
    elif kind in (".owner-….json", "failed.json", "log.txt"):
        names = ("status", "cohort")
    else:
        names = _OF_SHEETS
    return {name: READERS[name] for name in names}
