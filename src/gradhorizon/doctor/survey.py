"""Every cell on every device in every dtype: how far it is from what is right, over lengths, batches and sizes.

What the kernel gate asks on the way to a measurement is asked here of all shipped cells, or of one from outside, over
more steps and cases, and answered with numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from hydra.errors import HydraException
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gradhorizon.cells.called import name_of
from gradhorizon.cells.cell import Layer, Recurrent
from gradhorizon.composition.composing import composed_train
from gradhorizon.composition.explanations import explanation
from gradhorizon.composition.keys import check_keys
from gradhorizon.config import ConfigError
from gradhorizon.doctor.cases import BATCH_SIZE, ODD_SIZES, Case, sweep
from gradhorizon.doctor.comparison import Outcome, Place, compared
from gradhorizon.doctor.findings import DTYPES, Finding
from gradhorizon.doctor.methods import Method, method_of
from gradhorizon.doctor.stepping import stepped
from gradhorizon.kernels.external import layer_builder
from gradhorizon.kernels.gate import configuration
from gradhorizon.machine.installed import CONF_DIR
from gradhorizon.machine.randomness import forked_rng
from gradhorizon.terminal.words import one_line

INPUT_SIZE = 3
_ALWAYS_SUPPORTED = [("cpu", "float64"), ("cpu", "float32")]


@dataclass(frozen=True)
class Subject:
    """A cell or layer, and the models that run its code.

    Attributes:
        name: its class, and settings that choose its code.
        models: their labels.
        cell: with the weights of the first of them.
        others: `hidden_size` -> the same, built in that size.
        refused: `hidden_size` -> why it is not built in that size.
    """

    name: str
    models: tuple[str, ...]
    cell: Layer
    others: Mapping[int, Layer] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        """What is compared with what."""
        return method_of(self.cell)

    def cases(self, input_len: int | None) -> list[Case]:
        """What is compared: one case, or the whole sweep if None."""
        if input_len is not None:
            return [Case(input_len, BATCH_SIZE, self.cell.hidden_size)]
        return sweep(self.cell.hidden_size, list(self.others), isinstance(self.cell, Recurrent))


def shipped_subjects(overrides: Sequence[str], sizes: Sequence[int] = ()) -> list[Subject]:
    """One subject per cell class and configuration, over all of ``conf/model``.

    Args:
        overrides: of ``train.yaml``.
        sizes: values of `hidden_size` in which each is built beside.
    """
    # A model that others are deltas of comes first, and lends its weights: the calmest of them.
    files = [path for path in (CONF_DIR / "model").glob("*.yaml") if path.stem != "external"]
    files.sort(key=lambda path: ("defaults" in OmegaConf.load(path), path.stem))
    found: dict[object, Subject] = {}
    for path in files:
        label, cell = _built([f"model={path.stem}", *overrides])
        if isinstance(cell, Recurrent):
            key = configuration(cell)
            known = found.get(key) or _sized(Subject(_name(cell), (), cell), [f"model={path.stem}", *overrides], sizes)
            found[key] = replace(known, models=(*known.models, label))
    return sorted(found.values(), key=lambda subject: subject.name)


def external_subject(
    target: str, overrides: Sequence[str], sizes: Sequence[int] = ODD_SIZES, step: str = "", cache: str = ""
) -> Subject:
    """A cell or layer of the user's own, built as ``model=external`` builds it.

    Args:
        target: import path of its class.
        overrides: of ``train.yaml``, such as ``+model.cell.time_constant=5``.
        sizes: values of `hidden_size` in which it is built beside.
        step: name of a layer's own method ``(x_t, cache) -> (y_t, cache)``, or nothing.
        cache: import path of a function (module, batch_size) that gives the first step's cache, or nothing.

    Raises:
        ConfigError: it cannot be built, or has no such step.
    """
    label = target.rpartition(".")[2]
    own = ["model=external", f"model.label={label}", f"model.cell._target_={target}", *overrides]
    label, cell = _built(own)
    subject = _sized(Subject(_name(cell), (label,), cell), own, sizes)
    return _with_step(subject, step, cache) if step else subject


def _with_step(subject: Subject, step: str, cache: str) -> Subject:
    if isinstance(subject.cell, Recurrent):
        raise ConfigError(f"`--step` is for layers, got {subject.name}, a recurrence, whose own `step` is compared")
    try:
        begin = get_method(cache) if cache else None
    except Exception as error:
        raise ConfigError(
            f"`--cache` must name a function (module, batch_size), got {cache}: {one_line(error)}"
        ) from error
    others = {size: stepped(own, step, begin) for size, own in subject.others.items()}
    return replace(subject, cell=stepped(subject.cell, step, begin), others=others)


def _sized(subject: Subject, overrides: Sequence[str], sizes: Sequence[int]) -> Subject:
    others, refused = {}, {}
    for size in sizes:
        try:
            _, cell = _built([*overrides, f"hidden_size={size}"])
        except ConfigError as error:
            refused[size] = one_line(error)
            continue
        if cell.hidden_size == size != subject.cell.hidden_size:
            others[size] = cell
    return replace(subject, others=others, refused=refused)


def _built(overrides: Sequence[str]) -> tuple[str, Layer]:
    try:
        cfg = composed_train(["logger=none", *overrides])
        check_keys(cfg)
        model = cfg.model
        with forked_rng(0):
            encoder = None if model.encoder is None else instantiate(model.encoder)(input_size=INPUT_SIZE)
            input_size = int(getattr(encoder, "output_size", INPUT_SIZE))
            return str(model.label), layer_builder(instantiate(model.cell))(input_size=input_size)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        words = explanation(error, overrides) if isinstance(error, HydraException) else one_line(error)
        raise ConfigError(f"the cell cannot be built: {words.removeprefix('Error: ')}") from error


_NO_SETTINGS = ("training", "input_size", "hidden_size", "is_time_major")


def _name(cell: Layer) -> str:
    settings = {
        name: value
        for name, value in vars(cell).items()
        if isinstance(value, bool | int | float | str) and name not in _NO_SETTINGS
    }
    each = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items()
    )
    return name_of(cell) + (f" ({each})" if each else "")


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


def findings(
    subject: Subject, places: Sequence[Place], dtypes: Sequence[str], cases: Sequence[Case]
) -> Iterator[Finding]:
    """One finding per place and dtype.

    Args:
        subject: whose cell is run; it is left as it is.
        places: where.
        dtypes: names of `DTYPES`.
        cases: what is compared.
    """
    method = subject.method
    is_noisy = method.is_noisy(subject.cell)
    for place in places:
        for name in dtypes:
            modes = _modes(place, is_noisy)
            outcomes = tuple(
                own
                for case in cases
                for own in compared(method, _of_size(subject, case), case, place, DTYPES[name], modes)
            )
            verdict = _verdict(place, name, outcomes)
            raised = [own.problem for own in outcomes if own.problem and own.verdict == verdict]
            raised = raised or [own.problem for own in outcomes if own.problem]
            problem = raised[0] if raised else ""
            yield Finding(
                subject.name, subject.models, place.name, name, outcomes, verdict, problem, method.has_equation
            )


def _of_size(subject: Subject, case: Case) -> Layer:
    return subject.others.get(case.hidden_size, subject.cell)


def _modes(place: Place, is_noisy: bool) -> tuple[bool, ...]:
    if is_noisy:
        return (False,)
    # Probes run in evaluation mode, in which cuDNN knows no backward pass.
    return (True, False) if place.is_native or not place.device.startswith("cuda") else (True,)


def _verdict(place: Place, dtype_name: str, outcomes: Sequence[Outcome]) -> str:
    verdicts = {own.verdict for own in outcomes}
    found = next(one for one in ("FAIL", "pass", "untested", "unsupported") if one in verdicts)
    return "FAIL" if found == "unsupported" and (place.device, dtype_name) in _ALWAYS_SUPPORTED else found
