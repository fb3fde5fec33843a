"""Every cell on every device in every dtype: how far `segment` is from the float64 loop over `step`.

What the kernel gate asks on the way to a measurement is asked here of all shipped cells, over more steps, and answered
with numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradhorizon.cells.cell import Recurrent
from gradhorizon.composition.composing import composed_train
from gradhorizon.composition.explanations import explanation
from gradhorizon.composition.keys import check_keys
from gradhorizon.config import ConfigError
from gradhorizon.kernels.contract import check_contract
from gradhorizon.kernels.gate import (
    TOLERANCES,
    check_independent_samples,
    configuration,
    is_noisy_in_training,
    kernel_errors,
)
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.machine.randomness import forked_rng
from gradhorizon.terminal.words import one_line

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
"""Name -> dtype that is surveyed."""
GROUPS = ("outputs", "final_state", "input_gradient", "initial_state_gradient", "parameter_gradient")
"""Quantities that are compared; of state components and parameters, the one with the largest error counts."""
INPUT_SIZE = 3
_BATCH_SIZE = 3
_ALWAYS_SUPPORTED = [("cpu", "float64"), ("cpu", "float32")]
_UNSUPPORTED = re.compile(
    r"not implemented for|not[ _](currently )?supported|n[o']t support|unsupported|Could not run 'aten::", re.IGNORECASE
)


@dataclass(frozen=True)
class Subject:
    """A cell, and the models that run its code.

    Attributes:
        name: its class, and settings that choose its code.
        models: their labels.
        cell: with the weights of the first of them.
    """

    name: str
    models: tuple[str, ...]
    cell: Recurrent


@dataclass(frozen=True)
class Place:
    """Where kernels run.

    Attributes:
        device: cpu, cuda, cuda:<index> or mps.
        is_native: whether cuDNN is off, as it is in probes; without meaning but on CUDA.
    """

    device: str
    is_native: bool = False

    @property
    def name(self) -> str:
        """The device, and on CUDA whose kernels."""
        if not self.device.startswith("cuda"):
            return self.device
        return f"{self.device} {'native' if self.is_native else 'cuDNN'}"


@dataclass(frozen=True)
class Finding:
    """How far a cell's `segment` is from its definition, at one place in one dtype.

    Attributes:
        cell: the cell's name.
        models: labels of the models that it serves.
        place: name of the place.
        dtype: name of the dtype.
        tolerance: largest relative error that passes, dimensionless.
        errors: one of `GROUPS` -> largest relative error, dimensionless; empty if nothing could be compared.
        verdict: pass, FAIL, unsupported (the dtype is not implemented there) or untested (from these weights even the
            float64 loop overflows).
        problem: what was raised, in its own words, or nothing.
    """

    cell: str
    models: tuple[str, ...]
    place: str
    dtype: str
    tolerance: float
    errors: dict[str, float]
    verdict: str
    problem: str = ""


def shipped_subjects(overrides: Sequence[str]) -> list[Subject]:
    """One subject per cell class and configuration, over all of ``conf/model``.

    Args:
        overrides: of ``train.yaml``.
    """
    # A model that others are deltas of comes first, and lends its weights: the calmest of them.
    files = [path for path in (CONF_DIR / "model").glob("*.yaml") if path.stem != "external"]
    files.sort(key=lambda path: ("defaults" in OmegaConf.load(path), path.stem))
    found: dict[object, Subject] = {}
    for path in files:
        label, cell = _built([f"model={path.stem}", *overrides])
        if isinstance(cell, Recurrent):
            key = configuration(cell)
            known = found.get(key, Subject(_name(cell), (), cell))
            found[key] = Subject(known.name, (*known.models, label), known.cell)
    return sorted(found.values(), key=lambda subject: subject.name)


def external_subject(target: str, overrides: Sequence[str]) -> Subject:
    """A cell of the user's own, built as ``model=external`` builds it.

    Args:
        target: import path of its class.
        overrides: of ``train.yaml``, such as ``+model.cell.time_constant=5``.

    Raises:
        ConfigError: it cannot be built, or is no recurrence.
    """
    label = target.rpartition(".")[2]
    own = ["model=external", f"model.label={label}", f"model.cell._target_={target}"]
    label, cell = _built([*own, *overrides])
    if not isinstance(cell, Recurrent):
        raise ConfigError(
            f"`--cell` must name a subclass of gradhorizon.cells.cell.Recurrent, got {target}: "
            f"a {type(cell).__name__} has no `step` that its `segment` could be compared with"
        )
    return Subject(_name(cell), (label,), cell)


def _built(overrides: Sequence[str]) -> tuple[str, object]:
    try:
        cfg = composed_train(["logger=none", *overrides])
        check_keys(cfg)
        model = cfg.model
        with forked_rng(0):
            return str(model.label), instantiate(model.cell)(input_size=INPUT_SIZE)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        words = explanation(error, overrides) if isinstance(error, HydraException) else one_line(error)
        raise ConfigError(f"the cell cannot be built: {words.removeprefix('Error: ')}") from error


def _name(cell: Recurrent) -> str:
    settings = {
        name: value
        for name, value in vars(cell).items()
        if isinstance(value, bool | int | float | str) and name not in ("training", "input_size", "hidden_size")
    }
    each = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )
    return type(cell).__name__ + (f" ({each})" if each else "")


def present_devices() -> list[str]:
    """Devices of this machine: cpu, then cuda and mps where they are."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    return ["cpu", *["cuda"] * has_cuda, *["mps"] * has_mps]


def places_of(devices: Sequence[str]) -> list[Place]:
    """Where `devices` run kernels: CUDA twice, with and without cuDNN."""
    return [
        Place(device, is_native)
        for device in devices
        for is_native in ((False, True) if device.startswith("cuda") else (False,))
    ]


def findings(subject: Subject, places: Sequence[Place], dtypes: Sequence[str], input_len: int) -> Iterator[Finding]:
    """One finding per place and dtype.

    Args:
        subject: whose cell is run; it is left as it is.
        places: where.
        dtypes: names of `DTYPES`.
        input_len: N, steps of the segment.
    """
    for place in places:
        for name in dtypes:
            yield _finding(subject, place, name, input_len)


def _finding(subject: Subject, place: Place, dtype_name: str, input_len: int) -> Finding:
    dtype = DTYPES[dtype_name]
    errors: dict[str, float] = {}
    problem = ""
    try:
        check_contract(subject.cell)
        with torch.backends.cudnn.flags(enabled=False) if place.is_native else nullcontext():
            errors = _grouped(_errors_of_modes(subject.cell, place, dtype, input_len))
        check_independent_samples(subject.cell, _BATCH_SIZE)
    except Exception as error:  # noqa: BLE001, whatever a cell raises is a finding
        problem = f"{type(error).__name__}: {one_line(error)}"
    verdict = _verdict(place, dtype_name, errors, problem)
    return Finding(subject.name, subject.models, place.name, dtype_name, TOLERANCES[dtype], errors, verdict, problem)


def _errors_of_modes(cell: Recurrent, place: Place, dtype: torch.dtype, input_len: int) -> dict[str, float]:
    # Probes run in evaluation mode, in which cuDNN knows no backward pass.
    modes = (True, False) if place.is_native or not place.device.startswith("cuda") else (True,)
    if is_noisy_in_training(cell):
        modes = (False,)
    found = {training: kernel_errors(cell, place.device, dtype, input_len, _BATCH_SIZE, training) for training in modes}
    return {f"{name}/{training}": error for training, errors in found.items() for name, error in errors.items()}


def _verdict(place: Place, dtype_name: str, errors: dict[str, float], problem: str) -> str:
    if problem:
        is_excused = _UNSUPPORTED.search(problem) and (place.device, dtype_name) not in _ALWAYS_SUPPORTED
        return "unsupported" if is_excused else "FAIL"
    if not errors:
        return "untested"
    return "pass" if all(error <= TOLERANCES[DTYPES[dtype_name]] for error in errors.values()) else "FAIL"


def _grouped(errors: dict[str, float]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for quantity, error in errors.items():
        groups.setdefault(quantity.partition("/")[0], []).append(error)
    return {name: math.nan if any(map(math.isnan, own)) else max(own) for name, own in groups.items()}
