"""One run from its configuration to its records: build the parts, check them, fit, close."""

from __future__ import annotations

import hashlib
import logging
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from gradhorizon import runs
from gradhorizon.cells.cell import Recurrent
from gradhorizon.config import ConfigError, RunConfig
from gradhorizon.ensemble import Ensemble, Member, kept_rng
from gradhorizon.measurements.kernel_gate import KernelMismatchError, check_kernel
from gradhorizon.measurements.measurement import Program
from gradhorizon.measurements.probe import Probe
from gradhorizon.mirrors.mirror import RunInfo
from gradhorizon.network import Network
from gradhorizon.parts import Parts, build_parts
from gradhorizon.progress import ProgressDisplay
from gradhorizon.recording import MemberFiles, Recorder
from gradhorizon.records import MemberRecords, RecordsError
from gradhorizon.run_callback import RunCallback
from gradhorizon.run_sheet import RunSheet
from gradhorizon.streams import probe_batch, validation_batches
from gradhorizon.tasks.task import Task
from gradhorizon.training import EnsembleModule, TrainingStream

log = logging.getLogger(__name__)

_VALIDATION_BATCH = 250
_LIGHTNING_CHATTER = (
    ".*does not have many workers.*",  # batches are drawn in microseconds
    ".*`IterableDataset` has `__len__`.*",
    ".*LeafSpec.*",  # Lightning's own use of a torch function that torch has deprecated
    ".*GPU available but not used.*",
)


def configure_torch(run: RunConfig) -> None:
    """Set threads, and turn reduced-precision matrix products off: the one place where precision flags are set."""
    torch.set_num_threads(run.num_threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


def fit(
    cfg: DictConfig,
    run: RunConfig,
    device: str,
    folder: Path,
    identity: str,
    todo: list[runs.MemberState],
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
    configure_torch(run)
    parts = build_parts(cfg, run)
    runs.create(folder)
    with _members_locked(folder, [state.seed for state in todo]), _log_file(folder / "log.txt"), ExitStack() as stack:
        # Another process may have finished some between the first look and the lock.
        seeds = [state.seed for state in todo if runs.member_state(folder, state.seed).status != "finished"]
        _check_kernels(parts, device, run)
        try:
            info = _run_info(cfg, run, parts.task, folder, identity, seeds)
            summary = stack.enter_context(parts.mirror.opened(info))
        except ValueError as error:
            raise ConfigError(f"logger: {error}") from error
        sheet = RunSheet(cfg, run, parts.task, parts.num_parameters, folder, identity, facts, seeds)
        sheet.write("running", {})
        status = "failed"
        measuring_s: defaultdict[str, float] = defaultdict(float)
        try:
            candidates = sorted((_candidate(run, parts, folder, seed) for seed in seeds), key=lambda item: item.step)
            for _, group in groupby(candidates, key=lambda item: item.step):
                _fit_side_by_side(run, parts, device, folder, list(group), facts, measuring_s)
            status = "finished"
            _say_cost_of_measuring(measuring_s, time.time() - sheet.started_at)
        except (KeyboardInterrupt, SystemExit):
            status = "running"
            raise
        except Exception as error:
            raise runs.RunFailedError(
                f"{folder.name} failed: {type(error).__name__}: {error}; its traceback is in {folder / 'log.txt'}"
            ) from error
        finally:
            outcomes = sheet.write(status, measuring_s)
            summary.update({str(seed): outcomes.get(str(seed)) for seed in seeds})


@dataclass(frozen=True)
class _Candidate:
    """A member and what its checkpoint holds: the step comes from there, the only file that moves with the weights."""

    member: Member
    optimizer_state: dict[str, Any] | None
    step: int


def _candidate(run: RunConfig, parts: Parts, folder: Path, seed: int) -> _Candidate:
    # In float64 before the weights are restored, or restoring would round them.
    member = Member(seed, parts.build_network).to(_dtype(run))
    checkpoint = _load_checkpoint(folder / f"seed-{seed}" / "checkpoint.pt")
    if checkpoint is None:
        return _Candidate(member, None, 0)
    member.restore(checkpoint["member"])
    return _Candidate(member, checkpoint["optimizer"], checkpoint["step"])


def _fit_side_by_side(
    run: RunConfig, parts: Parts, device: str, folder: Path, candidates: list[_Candidate], facts: dict[str, Any],
    measuring_s: defaultdict[str, float],
) -> None:  # fmt: skip
    """Train members that have completed the same number of steps; those that had ended are only closed."""
    first_step = candidates[0].step
    files = {item.member.seed: _member_files(run, parts, folder, item, facts) for item in candidates}
    for item in candidates:
        if not item.member.is_training:
            files[item.member.seed].finish(item.member, first_step)
    going = [item for item in candidates if item.member.is_training]
    if not going:
        return
    ensemble = Ensemble([item.member for item in going], parts.task, run.clip_norm)
    probed = probe_batch(parts.task, run.data_seed, run.probe_batch_size)
    recorder = Recorder(
        parts.measurements, {seed: own.records for seed, own in files.items()}, parts.mirror,
        lambda member: Probe(member.network, parts.task, probed, run.num_cuts),
        lambda member: program_of(member.network, parts, run), run.num_steps, measuring_s,
    )  # fmt: skip
    module = EnsembleModule(
        ensemble, parts.build_optimizer, run.data_seed, first_step, recorder, parts.settings.log_every_steps,
        [item.optimizer_state for item in going if item.optimizer_state is not None],
    )  # fmt: skip
    module.to(_dtype(run))
    validation = validation_batches(parts.task, run.data_seed, run.val_size, _VALIDATION_BATCH)
    callback = RunCallback(
        module, recorder, files, [batch.to(device, _dtype(run)) for batch in validation],
        ProgressDisplay(interval_s=parts.settings.progress_every_s),
        parts.settings, run.num_steps, run.val_every_steps, run.stop_when_solved,
        title=f"{run.model['label']} {parts.task.name} T={parts.task.seq_len}",
    )  # fmt: skip
    stream = TrainingStream(ensemble, parts.task, run.data_seed, run.batch_size, first_step, run.num_steps)
    with warnings.catch_warnings():
        for pattern in _LIGHTNING_CHATTER:
            warnings.filterwarnings("ignore", pattern)
        _trainer(run, device, callback).fit(module, stream.loader())


def program_of(network: Network, parts: Parts, run: RunConfig) -> Program:
    """What cost measurements run: the training of `network` as `run` configures it."""
    return Program(network, parts.task, run.batch_size, parts.build_optimizer, run.clip_norm, run.precision)


def _say_cost_of_measuring(seconds: Mapping[str, float], wall_s: float) -> None:
    if seconds:
        total_s = sum(seconds.values())
        dearest_first = sorted(seconds.items(), key=lambda item: -item[1])
        each = ", ".join(f"{name} {own_s:.2g} s" for name, own_s in dearest_first)
        log.info("  measuring took %.2g s, %.0f %% of the run: %s", total_s, 100 * total_s / wall_s, each)


def _member_files(
    run: RunConfig, parts: Parts, folder: Path, candidate: _Candidate, facts: dict[str, Any]
) -> MemberFiles:
    member = folder / f"seed-{candidate.member.seed}"
    lead = {
        "experiment": run.experiment_name, "run": folder.name, "model": run.model["label"], "task": parts.task.name,
        "seq_len": parts.task.seq_len, "input_len": parts.task.input_len, "seed": candidate.member.seed,
    }  # fmt: skip
    records = MemberRecords(member, lead, None if candidate.optimizer_state is None else candidate.step)
    if records.set_aside:
        log.warning("  %d parts later than the checkpoint were set aside: %s", len(records.set_aside), records.folder)
    return MemberFiles(member, records, facts)


def _dtype(run: RunConfig) -> torch.dtype:
    return torch.float64 if run.precision == "64-true" else torch.float32


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


def _load_checkpoint(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RecordsError(
            f"{path} cannot be read ({error}); move its member's whole folder out of the run to train it from its start"
        ) from error


def _check_kernels(parts: Parts, device: str, run: RunConfig) -> None:
    """Hold what trains, and what probes run on (native kernels: cuDNN is off there), against the textbook loop."""
    with kept_rng():
        network = parts.build_network()
    try:
        for cell in {type(cell): cell for cell in network.cells() if isinstance(cell, Recurrent)}.values():
            check_kernel(cell, device, _dtype(run))
            if run.precision == "bf16-mixed":
                check_kernel(cell, device, torch.bfloat16)
            with torch.backends.cudnn.flags(enabled=False):
                check_kernel(cell, "cpu" if device.startswith("mps") else device, torch.float64)
    except KernelMismatchError as error:
        raise ConfigError(str(error)) from error


def _run_info(cfg: DictConfig, run: RunConfig, task: Task, folder: Path, identity: str, seeds: list[int]) -> RunInfo:
    config = OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(vars(run))), resolve=True)
    return RunInfo(
        name=folder.name,
        experiment=run.experiment_name,
        model=run.model["label"],
        task=task.name,
        seq_len=task.seq_len,
        seeds=tuple(seeds),
        config=config,  # type: ignore[arg-type]
        folder=folder,
        resume_id=hashlib.sha256(repr((run.experiment_name, identity, sorted(seeds))).encode()).hexdigest()[:16],
        tags=(run.model["label"], task.name, f"T={task.seq_len}"),
    )


@contextmanager
def _members_locked(folder: Path, seeds: list[int]) -> Iterator[None]:
    with ExitStack() as stack:
        for seed in seeds:
            (folder / f"seed-{seed}").mkdir(exist_ok=True)
            try:
                stack.enter_context(FileLock(folder / f"seed-{seed}" / ".lock", blocking=False))
            except Timeout as error:
                raise ConfigError(
                    f"seed {seed} of {folder.name} must be trained by one process at a time, and another one is at it; "
                    "wait for it, or end it"
                ) from error
        yield


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except Exception:
        exception = sys.exc_info()
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "the run failed", (), exception))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
