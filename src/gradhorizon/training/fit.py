"""One run from its configuration to its records: build what it consists of, check it, fit, close."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
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
from gradhorizon.runs.look import Look
from gradhorizon.runs.members import member_state
from gradhorizon.runs.task_names import recorded_name, task_name
from gradhorizon.terminal.progress import ProgressDisplay
from gradhorizon.terminal.reasons import attach, phase
from gradhorizon.training.build import Setup, build_setup, program_of
from gradhorizon.training.callback import Outputs, RunCallback, Validation
from gradhorizon.training.ensemble import Ensemble, Member
from gradhorizon.training.module import EnsembleModule, TrainingStream
from gradhorizon.training.numerics import check_kernels, configure_torch, training_dtype
from gradhorizon.training.recorder import MemberFiles, Recorder
from gradhorizon.training.repairs import mended, restore
from gradhorizon.training.run_files import RunFiles
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


def fit(cfg: DictConfig, seen: Look) -> None:
    """Train the members that are not finished to their end, and record the run as finished or failed.

    Args:
        cfg: the composed configuration.
        seen: what the launch has found; of its members, those at the same step train side by side.

    Raises:
        ConfigError: the run cannot start.
        RecordsError: what is on disk cannot be continued.
    """
    run, folder, todo = seen.run, seen.folder, [state.seed for state in seen.todo]
    with phase("building"):
        setup = build_setup(cfg, run, len(todo), seen.device)
        setup = replace(setup, task_name=recorded_name(folder) or task_name(run))
    configure_torch(run)  # after what a user's package has set on import
    with phase("checking kernels"):
        check_kernels(setup, seen.device, run)
    create(folder)
    with members_locked(folder, todo), log_file(folder / LOG), ExitStack() as stack:
        # Another process may have finished some between the first look and the lock.
        seeds = [seed for seed in todo if member_state(folder, seed).status != "finished"]
        with phase("starting or resuming members"):
            candidates = sorted((_candidate(seen, setup, seed) for seed in seeds), key=lambda item: item.step)
        summary = stack.enter_context(_opened(setup, _run_info(cfg, seen, setup)))
        launch, run_files = Launch(seeds, seen.facts), RunFiles(cfg, seen, setup, seeds)
        run_files.write("running")
        status = "failed"
        try:
            for _, group in groupby(candidates, key=lambda item: item.step):
                _fit_side_by_side(seen, setup, list(group), launch)
            status = "finished"
            _say_cost_of_measuring(launch)
        except BaseException as error:
            status = "running" if is_interruption(error) else "failed"
            attach(error, "has_started", True)
            raise
        finally:
            outcomes = _written(run_files, status)
            summary.update({str(seed): outcomes.get(str(seed)) for seed in seen.seeds})


@contextmanager
def _opened(setup: Setup, info: RunInfo) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        with phase("opening the logger"):
            try:
                summary = stack.enter_context(setup.mirror.opened(info))
            except ValueError as error:
                raise ConfigError(f"logger: {error}") from error
        yield summary


def _written(run_files: RunFiles, status: str) -> dict[str, Any]:
    try:
        return run_files.write(status)
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


def _candidate(seen: Look, setup: Setup, seed: int) -> _Candidate:
    # In float64 before the weights are restored, or restoring would round them.
    member = cast(Member(seed, setup.build_network), training_dtype(seen.run))
    lead = {
        "experiment": seen.run.experiment_name,
        "run": seen.folder.name,
        "model": seen.run.model["label"],
        "task": setup.task_name,
        "seq_len": setup.task.seq_len,
        "input_len": setup.task.input_len,
        "seed": seed,
    }
    tables = [METRICS, *(measurement.table for measurement in setup.measurements)]
    folder = member_folder(seen.folder, seed)
    checkpoint, records = mended(folder, seen.identity, lead, tables)
    launches = earlier_launches(read_member_sheet(folder), checkpoint or {})
    if checkpoint is None:
        return _Candidate(member, records, None, 0, launches)
    restore(member, checkpoint, seen.folder)
    return _Candidate(member, records, checkpoint["optimizer"], checkpoint["step"], launches)


def _fit_side_by_side(seen: Look, setup: Setup, candidates: list[_Candidate], launch: Launch) -> None:
    """Train members that have completed the same number of steps; those that had ended are only closed."""
    run, first_step = seen.run, candidates[0].step
    files = {
        item.member.seed: MemberFiles(item.records.member, item.records, launch, seen.identity, item.launches)
        for item in candidates
    }
    for item in candidates:
        if not item.member.is_training:
            files[item.member.seed].close(item.member, item.optimizer_state or {}, first_step)
    going = [item for item in candidates if item.member.is_training]
    if not going:
        return
    ensemble = Ensemble([item.member for item in going], setup.task, run.clip_norm)
    recorder = _recorder(run, setup, {seed: own.records for seed, own in files.items()}, launch)
    states = [item.optimizer_state for item in going if item.optimizer_state is not None]
    log_every_steps = setup.settings.log_every_steps
    module = EnsembleModule(
        ensemble, setup.build_optimizer, run.data_seed, first_step, recorder, log_every_steps, states
    )
    cast(module, training_dtype(run))
    title = f"{run.model['label']} {setup.task_name} T={setup.task.seq_len}"
    outputs = Outputs(recorder, files, ProgressDisplay(interval_s=setup.settings.progress_every_s), title)
    callback = RunCallback(module, outputs, _validation(seen, setup), setup.settings, run.num_steps)
    stream = TrainingStream(ensemble, setup.task, run.data_seed, run.batch_size, first_step, run.num_steps)
    with warnings.catch_warnings():
        for pattern in _LIGHTNING_CHATTER:
            warnings.filterwarnings("ignore", pattern)
        _trainer(run, seen.device, callback).fit(module, stream.loader())
    if not all(one.is_closed for one in files.values()):
        raise RuntimeError("training has ended before its members have, for a reason that nobody gave")


def _recorder(run: RunConfig, setup: Setup, records: dict[int, MemberRecords], launch: Launch) -> Recorder:
    probed = probe_batch(setup.task, run.data_seed, run.probe_batch_size)
    return Recorder(
        setup.measurements,
        records,
        setup.mirror,
        lambda member: Probe(member.network, setup.task, probed, run.num_cuts),
        lambda member: program_of(member.network, setup, run),
        run.num_steps,
        launch.measuring_s,
    )


def _validation(seen: Look, setup: Setup) -> Validation:
    batches = validation_batches(setup.task, seen.run.data_seed, seen.run.val_size, _VALIDATION_BATCH)
    held_out = [batch.to(seen.device, training_dtype(seen.run)) for batch in batches]
    return Validation(held_out, seen.run.val_every_steps, seen.run.stop_when_solved)


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


def _run_info(cfg: DictConfig, seen: Look, setup: Setup) -> RunInfo:
    run = seen.run
    config: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(vars(run))), resolve=True)
    return RunInfo(
        name=seen.folder.name,
        experiment=run.experiment_name,
        model=run.model["label"],
        task=setup.task_name,
        seq_len=setup.task.seq_len,
        seeds=tuple(seen.seeds),
        config=config,
        folder=seen.folder,
        resume_id=resume_id(run.experiment_name, seen.identity, seen.seeds),
        tags=(run.model["label"], setup.task_name, f"T={setup.task.seq_len}"),
    )
