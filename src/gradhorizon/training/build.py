"""What a configuration describes, built and checked before anything is trained or written."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gradhorizon.cells.cell import Recurrent
from gradhorizon.composition.arguments import check_arguments
from gradhorizon.composition.sizes import Need, needs_of_batches, refuse
from gradhorizon.config import ConfigError, RunConfig, TrainerSettings
from gradhorizon.kernels.casting import num_real_numbers
from gradhorizon.kernels.conduct import refuse_legacy_hooks
from gradhorizon.kernels.external import layer_builder
from gradhorizon.kernels.shapes import check_shapes
from gradhorizon.kernels.surroundings import default_dtype
from gradhorizon.machine.randomness import kept_rng
from gradhorizon.measurements.measurement import Measurement, Program, StepMeasurement
from gradhorizon.mirrors.mirror import Mirror
from gradhorizon.network import Network
from gradhorizon.records.tables import LEAD_COLUMNS, METRICS, Table
from gradhorizon.tasks.conduct import check_declared, check_samples
from gradhorizon.tasks.task import Task
from gradhorizon.terminal.reasons import reason_of
from gradhorizon.terminal.words import counted, one_line
from gradhorizon.training.ensemble import LoneTraining

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a configuration describes, built and checked."""

    task: Task
    build_network: Callable[[], Network]
    build_optimizer: Callable[..., torch.optim.Optimizer]
    measurements: list[Measurement]
    settings: TrainerSettings
    mirror: Mirror
    num_parameters: int
    task_name: str


def build_setup(cfg: DictConfig, run: RunConfig, num_members: int = 1, device: str = "cpu") -> Setup:
    """What a run consists of, each built from its group of the configuration.

    Args:
        cfg: the composed configuration.
        run: its root.
        num_members: how many are to be trained side by side.
        device: where.

    Raises:
        ConfigError: this machine cannot hold it; or a group refuses its arguments, in words of its own.
    """
    for group in ("task", "measurement", "model", "trainer", "logger"):
        with _as_config_error(group):
            check_arguments(getattr(run, group), group)
    with _as_config_error("task"):
        task: Task = _built(cfg.task, Task)
        check_declared(task, run.seq_len)
    with _as_config_error("measurement"):
        measurements = [_built(node, Measurement) for node in (cfg.measurement or {}).values()]
        _check_tables(measurements, list(cfg.measurement or ()))
        for measurement in measurements:
            measurement.schedule.check(run.num_steps, sees_solved=not isinstance(measurement, StepMeasurement))
    _refuse_too_large(cfg, run, task, num_members, device)
    with _as_config_error("task"):
        check_samples(task)
    with _as_config_error("model"):
        build_network = network_builder(cfg, run, task)
        with kept_rng():
            network = build_network()
        for cell in network.cells():
            refuse_legacy_hooks(cell)
            if isinstance(cell, Recurrent):
                check_shapes(cell)
        refuse_legacy_hooks(network)
    with _as_config_error("measurement"):
        for measurement in measurements:
            measurement.check(network, task)
    with _as_config_error("optimizer"):
        build_optimizer = instantiate(cfg.optimizer)
        _check_kind(build_optimizer(network.parameters()), torch.optim.Optimizer, cfg.optimizer)
        num_parameters = num_real_numbers(network)
    with _as_config_error("trainer"):
        settings = _built(cfg.trainer, TrainerSettings)
    with _as_config_error("logger"):
        mirror = _built(cfg.logger, Mirror)
    return Setup(task, build_network, build_optimizer, measurements, settings, mirror, num_parameters, task.name)


def _check_tables(measurements: Sequence[Measurement], keys: Sequence[str]) -> None:
    """Refuse tables that could not be told apart, or that no file or column can be called by."""
    tables = [getattr(item, "table", None) for item in measurements]
    for item, table in zip(measurements, tables, strict=True):
        name = type(item).__name__
        if not isinstance(table, Table):
            raise TypeError(f"`{name}.table` must be a gradhorizon.records.tables.Table, got {type(table).__name__}")
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", table.name) or table.name == METRICS.name:
            raise ValueError(
                f"`{name}.table` must be called by small letters, digits and _, and not metrics, got {table.name!r}"
            )
        columns = Counter([column.name for column in (*LEAD_COLUMNS, *table.columns)])
        twice = next((column for column, count in columns.items() if count > 1), None)
        if twice is not None:
            raise ValueError(
                f"`{name}.table` must have each column once, those that lead every table included, got `{twice}` twice"
            )
    if len({table.name for table in tables if table is not None}) < len(tables):
        raise ValueError(f"each table can be measured once at a time, got {', '.join(keys)}; leave one out")


def _refuse_too_large(cfg: DictConfig, run: RunConfig, task: Task, num_members: int, device: str) -> None:
    is_here = device == "cpu"  # elsewhere, what is held here is what is built before it is moved
    num_bytes = _bytes_of_weights(cfg, run, task, with_gradients=is_here)
    keys = ("num_seeds", "hidden_size", "num_layers") if num_members > 1 else ("hidden_size", "num_layers")
    words = "weights and their gradients" if is_here else "weights"
    needs = [Need(f"{words} of {counted(num_members, 'member')}", num_members * num_bytes, keys)]
    if is_here:
        needs += needs_of_batches(run, task.input_len, task.input_size, task.num_held_out)
    refuse(needs, run)


def _bytes_of_weights(cfg: DictConfig, run: RunConfig, task: Task, with_gradients: bool) -> int:
    """What one network's tensors take; 0 where that is only known once they are there.

    Every layer from the second on is like the second, so that three tell of a million.
    """
    sizes = []
    try:
        for num_layers in sorted({min(run.num_layers, least) for least in (2, 3)}):
            with kept_rng(), torch.device("meta"):
                network = network_builder(cfg, replace(run, num_layers=num_layers), task)()
            tensors = [*network.parameters(), *network.buffers()]
            sizes.append(sum(_bytes_of(tensor, run, with_gradients) for tensor in tensors))
    except Exception as error:  # noqa: BLE001, whatever it is will be said when the network is built
        log.debug("its size is not known: %s", error)
        return 0
    return sizes[-1] + max(run.num_layers - 3, 0) * (sizes[-1] - sizes[0])


def _bytes_of(tensor: torch.Tensor, run: RunConfig, with_gradients: bool) -> int:
    is_doubled = run.precision == "64-true" and tensor.dtype == torch.float32
    return tensor.numel() * tensor.element_size() * (1 + is_doubled) * (1 + (with_gradients and tensor.requires_grad))


def _built(node: DictConfig, kind: type) -> Any:
    found = instantiate(node)
    _check_kind(found, kind, node)
    return found


def _check_kind(found: object, kind: type, node: DictConfig) -> None:
    if not isinstance(found, kind):
        raise TypeError(f"`_target_` must build a {kind.__name__}, got {node.get('_target_')}")


def network_builder(cfg: DictConfig, run: RunConfig, task: Task) -> Callable[[], Network]:
    """A function without arguments that builds the run's network from torch's global generator."""
    model = cfg.model
    encoder = instantiate(model.encoder) if model.get("encoder") is not None else None

    def build() -> Network:
        cell, readout = layer_builder(instantiate(model.cell)), instantiate(model.readout)
        with default_dtype(torch.float32):  # which a package of the user's own may have changed on import
            return Network(
                cell=cell,
                input_size=task.input_size,
                output_size=task.output_size,
                num_layers=run.num_layers,
                bidirectional=model.bidirectional,
                readout=readout,
                encoder=encoder,
                recompute_every=run.recompute_every,
            )

    return build


def program_of(network: Network, setup: Setup, run: RunConfig) -> Program:
    """What cost measurements run: the training of `network` as `run` configures it."""
    build_training = partial(LoneTraining, task=setup.task, clip_norm=run.clip_norm)
    return Program(network, setup.task, run.batch_size, setup.build_optimizer, build_training, run.precision)


def _said(error: InstantiationException) -> str:
    words = one_line(str(error).partition(", set env var")[0])
    if not words.startswith("Error locating") or error.__cause__ is None:
        return words
    why = one_line(error.__cause__)  # which begins with the same path once more
    return f"{words}: {why.partition(': ')[2] if why.startswith('Error loading') else why}"


@contextmanager
def _as_config_error(group: str) -> Iterator[None]:
    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__
        has_own_words = isinstance(cause, ValueError) and str(cause).strip()
        raise ConfigError(f"{group}: {cause if has_own_words else _said(error)}") from error
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{group}: {error if str(error).strip() else reason_of(error)}") from error
    except Exception as error:
        raise ConfigError(f"{group}: {reason_of(error)}") from error
