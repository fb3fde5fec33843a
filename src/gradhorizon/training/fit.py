"""One run from its configuration to its records: build the parts, check them, fit, close."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from gradhorizon.config import ConfigError, RunConfig
from gradhorizon.kernels.casting import cast
from gradhorizon.measurements.probe import Probe
from gradhorizon.mirrors.mirror import RunInfo, resume_id
from gradhorizon.records.errors import RecordsError
from gradhorizon.records.launches import Launch, earlier_launches
from gradhorizon.records.layout import LOG, member_folder
from gradhorizon.records.sheets import read_member_sheet
from gradhorizon.records.tables import METRICS
from gradhorizon.records.writing import MemberRecords
from gradhorizon.runs.endings import is_interruption
from gradhorizon.runs.folders import create
from gradhorizon.runs.locks import MemberHeldError, members_locked
from gradhorizon.runs.log import log_file
from gradhorizon.runs.members import MemberState, member_state
from gradhorizon.runs.task_names import recorded_name, task_name
from gradhorizon.terminal.progress import ProgressDisplay
from gradhorizon.terminal.reasons import attach, phase
from gradhorizon.training.build import Parts, build_parts, program_of
from gradhorizon.training.callback import RunCallback
from gradhorizon.training.ensemble import Ensemble, Member
from gradhorizon.training.module import EnsembleModule, TrainingStream
from gradhorizon.training.numerics import check_kernels, configure_torch, training_dtype
from gradhorizon.training.recorder import MemberFiles, Recorder
from gradhorizon.training.repairs import mended, restore
from gradhorizon.training.sheet import RunSheet
from gradhorizon.training.streams import probe_batch, validation_batches

log = logging.getLogger(__name__)

_VALIDATION_BATCH = 250
_LIGHTNING_CHATTER = (
    ".*does not have many workers.*",  # batches are drawn in microseconds
    ".*`IterableDataset` has `__len__`.*",
    ".*LeafSpec.*",  # Lightning's own use of a torch function that torch has deprecated
    ".*GPU available but not used.*",
    ".*`srun` command is available.*",  # each run is a process of its own, whoever started it
)


def fit(
    cfg: DictConfig,
    run: RunConfig,
    device: str,
    folder: Path,
    identity: str,
    todo: list[MemberState],
    facts: dict[str, Any],
) -> None:
    """Train the members in `todo` to their end, and record the run as finished or failed.

    Args:
        cfg: the composed configuration.
        run: its root.
        device: where it trains.
        folder: the run's folder.
        identity: the run's identity.
        todo: members that are not finished; those at the same step train side by side.
        facts: what is true of this launch.

    Raises:
        ConfigError: the run cannot start.
        RecordsError: what is on disk cannot be continued.
    """
    with phase("building"):
        parts = build_parts(cfg, run, len(todo), device)
        parts = replace(parts, task_name=recorded_name(folder) or task_name(run))
    configure_torch(run)  # after what a user's package has set on import
    with phase("checking kernels"):
        check_kernels(parts, device, run)
    create(folder)
    with members_locked(folder, [state.seed for state in todo]), log_file(folder / LOG), ExitStack() as stack:
        # Another process may have finished some between the first look and the lock.
        seeds = [state.seed for state in todo if member_state(folder, state.seed).status != "finished"]
        with phase("starting or resuming members"):
            candidates = sorted(
                (_candidate(run, parts, folder, identity, seed) for seed in seeds), key=lambda item: item.step
            )
        asked_for = range(run.seed, run.seed + run.num_seeds)
        summary = stack.enter_context(_opened(parts, _run_info(cfg, run, parts, folder, identity, asked_for)))
        own, sheet = Launch(seeds, facts), RunSheet(cfg, run, parts, folder, identity, seeds)
        sheet.write("running")
        status = "failed"
        try:
            for _, group in groupby(candidates, key=lambda item: item.step):
                _fit_side_by_side(run, parts, device, folder, identity, list(group), own)
            status = "finished"
            _say_cost_of_measuring(own)
        except BaseException as error:
            status = "running" if is_interruption(error) else "failed"
            attach(error, "has_started", True)
            raise
        finally:
            outcomes = _written(sheet, status)
            summary.update({str(seed): outcomes.get(str(seed)) for seed in asked_for})


@contextmanager
def _opened(parts: Parts, info: RunInfo) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        with phase("opening the logger"):
            try:
                summary = stack.enter_context(parts.mirror.opened(info))
            except ValueError as error:
                raise ConfigError(f"logger: {error}") from error
        yield summary


def _written(sheet: RunSheet, status: str) -> dict[str, Any]:
    try:
        return sheet.write(status)
    except (RecordsError, MemberHeldError) as error:
        if status == "finished":
            raise
        if isinstance(error, MemberHeldError):
            return {}
        log.warning("  %s", error)  # why the run has ended is said by the error on its way
        return {}


@dataclass(frozen=True)
class _Candidate:
    """A member and what its checkpoint holds: the step comes from there, the only file that moves with the weights."""

    member: Member
    records: MemberRecords
    optimizer_state: dict[str, Any] | None
    step: int
    launches: list[dict[str, Any]]


def _candidate(run: RunConfig, parts: Parts, folder: Path, identity: str, seed: int) -> _Candidate:
    # In float64 before the weights are restored, or restoring would round them.
    member = cast(Member(seed, parts.build_network), training_dtype(run))
    lead = {
        "experiment": run.experiment_name,
        "run": folder.name,
        "model": run.model["label"],
        "task": parts.task_name,
        "seq_len": parts.task.seq_len,
        "input_len": parts.task.input_len,
        "seed": seed,
    }
    tables = [METRICS, *(measurement.table for measurement in parts.measurements)]
    checkpoint, records = mended(member_folder(folder, seed), identity, lead, tables)
    launches = earlier_launches(read_member_sheet(member_folder(folder, seed)), checkpoint or {})
    if checkpoint is None:
        return _Candidate(member, records, None, 0, launches)
    restore(member, checkpoint, folder)
    return _Candidate(member, records, checkpoint["optimizer"], checkpoint["step"], launches)


def _fit_side_by_side(
    run: RunConfig, parts: Parts, device: str, folder: Path, identity: str, candidates: list[_Candidate], launch: Launch
) -> None:
    """Train members that have completed the same number of steps; those that had ended are only closed."""
    first_step = candidates[0].step
    folders = {item.member.seed: member_folder(folder, item.member.seed) for item in candidates}
    files = {
        item.member.seed: MemberFiles(folders[item.member.seed], item.records, launch, identity, item.launches)
        for item in candidates
    }
    for item in candidates:
        if not item.member.is_training:
            files[item.member.seed].close(item.member, item.optimizer_state or {}, first_step)
    going = [item for item in candidates if item.member.is_training]
    if not going:
        return
    ensemble = Ensemble([item.member for item in going], parts.task, run.clip_norm)
    probed = probe_batch(parts.task, run.data_seed, run.probe_batch_size)
    recorder = Recorder(
        parts.measurements,
        {seed: own.records for seed, own in files.items()},
        parts.mirror,
        lambda member: Probe(member.network, parts.task, probed, run.num_cuts),
        lambda member: program_of(member.network, parts, run),
        run.num_steps,
        launch.measuring_s,
    )
    module = EnsembleModule(
        ensemble,
        parts.build_optimizer,
        run.data_seed,
        first_step,
        recorder,
        parts.settings.log_every_steps,
        [item.optimizer_state for item in going if item.optimizer_state is not None],
    )
    cast(module, training_dtype(run))
    validation = validation_batches(parts.task, run.data_seed, run.val_size, _VALIDATION_BATCH)
    callback = RunCallback(
        module,
        recorder,
        files,
        [batch.to(device, training_dtype(run)) for batch in validation],
        ProgressDisplay(interval_s=parts.settings.progress_every_s),
        parts.settings,
        run.num_steps,
        run.val_every_steps,
        run.stop_when_solved,
        title=f"{run.model['label']} {parts.task_name} T={parts.task.seq_len}",
    )
    stream = TrainingStream(ensemble, parts.task, run.data_seed, run.batch_size, first_step, run.num_steps)
    with warnings.catch_warnings():
        for pattern in _LIGHTNING_CHATTER:
            warnings.filterwarnings("ignore", pattern)
        _trainer(run, device, callback).fit(module, stream.loader())
    if not all(one.is_closed for one in files.values()):
        raise RuntimeError("training has ended before its members have, for a reason that nobody gave")


def _say_cost_of_measuring(launch: Launch) -> None:
    if launch.measuring_s:
        wall_s, total_s = launch.wall_s, sum(launch.measuring_s.values())
        dearest_first = sorted(launch.measuring_s.items(), key=lambda item: -item[1])
        each = ", ".join(f"{name} {own_s:.2g} s" for name, own_s in dearest_first)
        log.info("  measuring took %.2g s, %.0f %% of the run: %s", total_s, 100 * total_s / wall_s, each)


def _trainer(run: RunConfig, device: str, callback: pl.Callback) -> pl.Trainer:
    kind, _, index = device.partition(":")
    return pl.Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(index)] if index else 1,
        precision="bf16-mixed" if run.precision == "bf16-mixed" else "32-true",  # float64 is the module's own dtype
        max_epochs=1,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _run_info(
    cfg: DictConfig, run: RunConfig, parts: Parts, folder: Path, identity: str, seeds: Sequence[int]
) -> RunInfo:
    config = OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(vars(run))), resolve=True)
    return RunInfo(
        name=folder.name,
        experiment=run.experiment_name,
        model=run.model["label"],
        task=parts.task_name,
        seq_len=parts.task.seq_len,
        seeds=tuple(seeds),
        config=config,  # type: ignore[arg-type]
        folder=folder,
        resume_id=resume_id(run.experiment_name, identity, seeds),
        tags=(run.model["label"], parts.task_name, f"T={parts.task.seq_len}"),
    )
