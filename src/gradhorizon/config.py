"""The schema of ``conf/train.yaml``: types, units and ranges of every root scalar, and checks of their combinations."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradhorizon.machine.data_files import data_digest
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.terminal.words import shortened

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
_MOST_SHOWN = 100  # characters of a wrong value
_MINE = {"model.cell": "MyCell", "task": "MyTask", "measurement": "MyMeasurement", "optimizer": "MyOptimizer"}
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


class ConfigError(ValueError):
    """A configuration that cannot run: what was wrong, what was received, what to do."""


@dataclass
class RunConfig:
    """Root of the configuration; groups are plain nodes whose schema is their constructor.

    Raises:
        ConfigError: a scalar outside its range.
    """

    model: Any = MISSING
    task: Any = MISSING
    measurement: Any = None
    optimizer: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING

    seed: int = MISSING
    num_seeds: int = MISSING
    data_seed: int = MISSING
    seq_len: int = MISSING
    hidden_size: int = MISSING
    num_layers: int = MISSING
    batch_size: int = MISSING
    num_steps: int = MISSING
    val_every_steps: int = MISSING
    val_size: int = MISSING
    probe_batch_size: int = MISSING
    num_cuts: int = MISSING
    learning_rate: float = MISSING
    clip_norm: float | None = None
    recompute_every: int | None = None
    stop_when_solved: bool = MISSING
    experiment_name: str = MISSING
    runs_dir: str = MISSING
    device: str = MISSING
    precision: str = MISSING
    num_threads: int = MISSING
    plan: bool = MISSING

    def __post_init__(self) -> None:
        for name in ("seed", "data_seed"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "must not be negative")
            _check(name, getattr(self, name), getattr(self, name) <= _LARGEST, f"must be at most {_LARGEST}")
        for name in _COUNTS:
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "must be at least 1")
            _check(name, value, value is None or value <= _LARGEST, f"must be at most {_LARGEST}")
        _check(
            "learning_rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "must be positive and finite"
        )
        _check("clip_norm", self.clip_norm, self.clip_norm is None or self.clip_norm > 0, "must be positive, or null")
        _check("precision", self.precision, self.precision in PRECISIONS, f"must be one of {', '.join(PRECISIONS)}")
        _check(
            "device", self.device, bool(_DEVICE.fullmatch(self.device)), "must be auto, cpu, mps, cuda or cuda:<index>"
        )
        is_name = (
            bool(re.fullmatch(r"[\w.,=+-]{1,100}", self.experiment_name)) and self.experiment_name.strip(".") != ""
        )
        _check(
            "experiment_name",
            self.experiment_name,
            is_name,
            "must be one folder name of 1 to 100 letters, digits and ._-",
        )


_LARGEST = 2**31 - 1  # what every table, file name and generator can hold
_COUNTS = [
    field.name for field in fields(RunConfig) if str(field.type).startswith("int") and not field.name.endswith("seed")
]


@dataclass(frozen=True)
class TrainerSettings:
    """How a run is driven; nothing here can change a member's numbers.

    Args:
        log_every_steps: optimizer steps between recorded training scalars.
        checkpoint_every_s: least seconds between two commits of records and checkpoint, made at validations.
        progress_every_s: seconds between progress lines where the output is no terminal.
        keep_probe_checkpoints: keep a checkpoint at every probe, not at first, solved and last alone.

    Raises:
        ConfigError: an interval that is not positive.
    """

    log_every_steps: int = 50
    checkpoint_every_s: float = 30.0
    progress_every_s: float = 10.0
    keep_probe_checkpoints: bool = False

    def __post_init__(self) -> None:
        _check("trainer.log_every_steps", self.log_every_steps, self.log_every_steps >= 1, "must be at least 1")
        _check("trainer.checkpoint_every_s", self.checkpoint_every_s, self.checkpoint_every_s >= 0, "must be 0 or more")
        _check("trainer.progress_every_s", self.progress_every_s, self.progress_every_s > 0, "must be positive")


ConfigStore.instance().store(name="run_config_schema", node=RunConfig)
OmegaConf.register_new_resolver("gradhorizon.class_name", lambda target: str(target).rpartition(".")[2], replace=True)
OmegaConf.register_new_resolver("gradhorizon.digest", data_digest, replace=True)


def validate(cfg: DictConfig) -> RunConfig:
    """The configuration's root as an object, with every range and combination checked.

    Args:
        cfg: the composed configuration.

    Raises:
        ConfigError: a value out of range or of the wrong type, or a label that belongs to another cell.
    """
    absent = next((name for name in RunConfig.__dataclass_fields__ if _is_absent(cfg, name)), None)
    if absent is not None:
        raise ConfigError(f"`{absent}` {demand(absent)}, got nothing; write {absent}=…")
    target = OmegaConf.select(cfg, "model.cell", throw_on_missing=False)
    if OmegaConf.is_dict(target) and OmegaConf.is_missing(target, "_target_"):
        raise ConfigError(
            "`model.cell._target_` must be the import path of a cell or layer, got nothing; write "
            "model.cell._target_=my_package.MyCell"
        )
    # Hydra appends its own node to the task's configuration only under `hydra`, which is not ours to check.
    fields = {name: cfg._get_node(name) for name in RunConfig.__dataclass_fields__}  # noqa: SLF001
    try:
        scalars = {
            name: OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else cfg[name]
            for name, node in fields.items()
        }
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be resolved: {str(error).splitlines()[0]}") from error
    run = RunConfig(**scalars)  # type: ignore[arg-type]
    _check_groups(run)
    _check_model(run.model)
    return run


def _is_absent(cfg: DictConfig, name: str) -> bool:
    return name not in cfg or OmegaConf.is_missing(cfg, name)


def demand(name: str) -> str:
    """What a key of the root must be: of a group the name of a file, of those that are shipped or of one's own.

    Args:
        name: the key.
    """
    options = ", ".join(sorted(path.stem for path in (CONF_DIR / name).glob("*.yaml")))
    words = f"must be the name of a configuration file, such as {options}" if options else "must have a value"
    return f"{words}; for none write measurement=[]" if name == "measurement" else words


def runs_root(runs_dir: str) -> Path:
    """The folder of all runs; a relative one is below the folder of the launch, wherever Hydra has gone since.

    Args:
        runs_dir: as it is configured.

    Raises:
        ConfigError: it names a user whose home is not known.
    """
    try:
        folder = Path(runs_dir).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"`runs_dir` must be a folder, got {runs_dir}: {error}") from error
    has_left = HydraConfig.initialized() and HydraConfig.get().job.chdir
    return Path(HydraConfig.get().runtime.cwd) / folder if has_left else folder


@cache
def shipped_cells() -> dict[str, str]:
    """Label -> `_target_` of its cell, for every file in ``conf/model`` but the template for external cells."""
    cells = {}
    for path in sorted((CONF_DIR / "model").glob("*.yaml")):
        label = _model_value(path, "label")
        if label is not None and "${" not in label:  # of the template, it is the class's
            cells[label] = _model_value(path, "cell._target_") or ""
    return cells


def _model_value(path: Path, key: str) -> str | None:
    # A variant is a delta: what it does not say itself, the file named in its defaults list says.
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    for at in (f"model.{key}", key):
        value: Any = node
        for name in at.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return str(value)
    parents = [entry.split("@")[0] for entry in node.get("defaults", []) if isinstance(entry, str)]  # type: ignore[union-attr]
    parents = [parent for parent in parents if parent != "_self_"]
    return _model_value(path.with_name(f"{Path(parents[0]).name}.yaml"), key) if parents and key != "label" else None


def _check_groups(run: RunConfig) -> None:
    nodes = {"model.cell": (run.model or {}).get("cell")} if isinstance(run.model, dict) else {"model": run.model}
    nodes |= {name: getattr(run, name) for name in ("task", "optimizer", "trainer", "logger")}
    if run.measurement is not None:
        is_mapping = isinstance(run.measurement, dict)
        nodes |= (
            {f"measurement.{key}": node for key, node in run.measurement.items()}
            if is_mapping
            else {"measurement": run.measurement}
        )
    for key, node in nodes.items():
        target = node.get("_target_") if isinstance(node, dict) else None
        if target == "???":
            mine = _MINE.get(key if key == "model.cell" else key.partition(".")[0], "MyClass")
            raise ConfigError(f"`{key}._target_` must name your class, got none: {key}._target_=my_package.{mine}")
        is_target = isinstance(target, str) and re.fullmatch(r"\w+(\.\w+)+", target) is not None
        _check(key, node, is_target, "must be a node whose `_target_` is an import path such as package.module.Name")


def _check_model(model: dict[str, Any]) -> None:
    for key, kinds in (("label", str), ("color", str), ("marker", str), ("bidirectional", bool)):
        value = model.get(key)
        words = "must be true or false" if kinds is bool else "must be text (a number needs two pairs of quotes)"
        _check(f"model.{key}", value, value is None or isinstance(value, kinds), words)
    label = str(model.get("label"))
    if label in ("None", "???"):
        raise ConfigError("`model.label` must name your model in records and figures, got none: model.label=my_cell")
    if not re.fullmatch(r"[^/\\\x00-\x1f]{1,60}", label):
        raise ConfigError(f"`model.label` must be 1 to 60 characters without slashes, got {label!r}")
    target = str((model.get("cell") or {}).get("_target_"))
    shipped = shipped_cells().get(label, target)
    if shipped != target:
        raise ConfigError(
            f"`model.label`={label} belongs to {shipped}, got `model.cell._target_`={target}; "
            "give your cell a label of its own: model=external model.label=my_cell"
        )


def _check(name: str, value: object, is_good: bool, demand: str) -> None:
    if not is_good:
        raise ConfigError(f"`{name}` {demand}, got {shortened(repr(value), _MOST_SHOWN)}")
