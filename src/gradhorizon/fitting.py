"""One run from its configuration to its records: build the parts, check them, fit, close."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradhorizon import runs
from gradhorizon.cells.cell import Recurrent
from gradhorizon.config import ConfigError, RunConfig, TrainerSettings
from gradhorizon.ensemble import Ensemble, Member
from gradhorizon.measurements.kernel_gate import check_kernel
from gradhorizon.measurements.measurement import Measurement
from gradhorizon.measurements.probe import Probe
from gradhorizon.mirrors.mirror import Mirror, RunInfo
from gradhorizon.network import Network
from gradhorizon.progress import ProgressDisplay
from gradhorizon.recording import MemberFiles, Recorder, RunCallback
from gradhorizon.records import MemberRecords, RecordsError
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


@dataclass(frozen=True)
class Parts:
    """What a configuration describes, built and checked."""

    task: Task
    build_network: Callable[[], Network]
    build_optimizer: Callable[..., torch.optim.Optimizer]
    measurements: list[Measurement]
    settings: TrainerSettings
    mirror: Mirror


def build_parts(cfg: DictConfig, run: RunConfig) -> Parts:
    """The parts of a run.

    Args:
        cfg: the composed configuration.
        run: its root.

    Raises:
        ConfigError: a part refuses its arguments, with that part's own words.
    """
    with _as_config_error("task"):
        task: Task = instantiate(cfg.task)
    with _as_config_error("measurement"):
        measurements = [instantiate(node) for node in (cfg.measurement or {}).values()]
        for measurement in measurements:
            measurement.schedule.check(run.num_steps)
    with _as_config_error("model"):
        build_network = network_builder(cfg, run, task)
        with torch.random.fork_rng():
            network = build_network()
    with _as_config_error("optimizer"):
        build_optimizer = instantiate(cfg.optimizer)
        build_optimizer(network.parameters())
    with _as_config_error("trainer"):
        settings = instantiate(cfg.trainer)
    with _as_config_error("logger"):
        mirror = instantiate(cfg.logger)
    return Parts(task, build_network, build_optimizer, measurements, settings, mirror)


def network_builder(cfg: DictConfig, run: RunConfig, task: Task) -> Callable[[], Network]:
    """A function without arguments that builds the run's network from torch's global generator."""
    model = cfg.model
    encoder = instantiate(model.encoder) if model.get("encoder") is not None else None

    def build() -> Network:
        return Network(
            cell=instantiate(model.cell),
            input_size=task.input_size,
            output_size=task.output_size,
            num_layers=run.num_layers,
            bidirectional=model.bidirectional,
            readout=instantiate(model.readout),
            encoder=encoder,
            recompute_every=run.recompute_every,
        )

    return build


@contextmanager
def _as_config_error(group: str) -> Iterator[None]:
    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__
        words = str(cause) if isinstance(cause, ValueError) else str(error)
        raise ConfigError(f"{group}: {words}") from error
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{group}: {error}") from error


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
    with _log_file(folder / "log.txt"):
        seeds = [state.seed for state in todo]
        _check_kernels(parts, device, run)
        parts.mirror.open(_run_info(cfg, run, parts.task, folder, identity, seeds))
        sheet = RunSheet(cfg, run, parts.task, _num_parameters(parts), folder, identity, facts)
        sheet.write("running")
        status = "failed"
        try:
            for step, states in groupby(sorted(todo, key=lambda state: state.step), key=lambda state: state.step):
                _fit_members(run, parts, device, folder, [state.seed for state in states], step, facts)
            status = "finished"
        except (KeyboardInterrupt, SystemExit):
            status = "running"
            raise
        except Exception as error:
            raise runs.RunFailedError(
                f"{folder.name} failed: {type(error).__name__}: {error}; its traceback is in {folder / 'log.txt'}"
            ) from error
        finally:
            outcomes = sheet.write(status)
            parts.mirror.close(status, {str(seed): outcomes.get(str(seed)) for seed in seeds})


def _fit_members(
    run: RunConfig, parts: Parts, device: str, folder: Path, seeds: list[int], first_step: int, facts: dict[str, Any]
) -> None:
    members = [Member(seed, parts.build_network) for seed in seeds]
    checkpoints = [_load_checkpoint(folder / f"seed-{seed}", first_step) for seed in seeds]
    for member, checkpoint in zip(members, checkpoints, strict=True):
        if checkpoint is not None:
            member.restore(checkpoint["member"])
    lead = {
        "experiment": run.experiment_name, "run": folder.name, "model": run.model["label"], "task": parts.task.name,
        "seq_len": parts.task.seq_len, "input_len": parts.task.input_len,
    }  # fmt: skip
    records = {seed: MemberRecords(folder / f"seed-{seed}", {**lead, "seed": seed}, first_step) for seed in seeds}
    for record in records.values():
        if record.set_aside:
            log.warning("  %d parts later than the checkpoint were set aside: %s", len(record.set_aside), record.folder)
    ensemble = Ensemble(members, parts.task, run.clip_norm)
    probed = probe_batch(parts.task, run.data_seed, run.probe_batch_size)
    recorder = Recorder(
        parts.measurements, records, parts.mirror,
        lambda member: Probe(member.network, parts.task, probed, run.num_cuts), run.num_steps,
    )  # fmt: skip
    module = EnsembleModule(
        ensemble, parts.build_optimizer, run.data_seed, first_step, recorder, parts.settings.log_every_steps,
        [checkpoint["optimizer"] for checkpoint in checkpoints if checkpoint is not None],
    )  # fmt: skip
    dtype = torch.float64 if run.precision == "64-true" else torch.float32
    module.to(dtype)
    batches = validation_batches(parts.task, run.data_seed, run.val_size, _VALIDATION_BATCH)
    callback = RunCallback(
        recorder,
        {seed: MemberFiles(folder / f"seed-{seed}", records[seed], facts) for seed in seeds},
        [batch.to(device, dtype) for batch in batches],
        ProgressDisplay(interval_s=parts.settings.progress_every_s),
        parts.settings, run.num_steps, run.val_every_steps, run.stop_when_solved,
        title=f"{run.model['label']} {parts.task.name} T={parts.task.seq_len}",
    )  # fmt: skip
    stream = TrainingStream(ensemble, parts.task, run.data_seed, run.batch_size, first_step, run.num_steps)
    with warnings.catch_warnings():
        for pattern in _LIGHTNING_CHATTER:
            warnings.filterwarnings("ignore", pattern)
        _trainer(run, device, callback).fit(module, stream.loader())


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


def _load_checkpoint(member: Path, step: int) -> dict[str, Any] | None:
    path = member / "checkpoint.pt"
    if step == 0 or not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RecordsError(
            f"{path} cannot be read ({error}); move it away to train this member from its start"
        ) from error


def _num_parameters(parts: Parts) -> int:
    with torch.random.fork_rng():
        return sum(parameter.numel() for parameter in parts.build_network().parameters())


def _check_kernels(parts: Parts, device: str, run: RunConfig) -> None:
    with torch.random.fork_rng():
        network = parts.build_network()
    for cell in {type(cell): cell for cell in network.cells() if isinstance(cell, Recurrent)}.values():
        for dtype in {torch.float64, torch.float64 if run.precision == "64-true" else torch.float32}:
            if not (device.startswith("mps") and dtype == torch.float64):
                check_kernel(cell, torch.device(device), dtype)


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
        resume_id=f"{identity}-{'-'.join(map(str, seeds))}"[:64],
        tags=(run.model["label"], task.name, f"T={task.seq_len}"),
    )


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
