"""One module in one case, at one place, in one dtype: how far it is from what is right, and how far it may be."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import torch

from gradhorizon.cells.cell import Layer
from gradhorizon.doctor.cases import Case
from gradhorizon.doctor.methods import Method
from gradhorizon.kernels.casting import cast
from gradhorizon.kernels.conduct import format_of_weights
from gradhorizon.kernels.gate import TOLERANCES
from gradhorizon.kernels.quantities import OF_PARAMETERS, Draws, Quantities, relative_errors
from gradhorizon.kernels.rounding import rounding_limits
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.terminal.words import one_line

LIMITS: dict[torch.dtype, float] = {
    **TOLERANCES,
    **{dtype: 8 * torch.finfo(dtype).eps for dtype in (torch.float16, torch.bfloat16)},
}
"""Largest relative error that passes unasked; dimensionless. Above, the cell's own loop says what rounding may do."""

UNDECIDED = 0.5
"""A limit above which rounding changes a quantity so much that a wrong one could hide in it."""
_OTHER_PATH = 0.1
"""A limit of the outputs above which rounding leads to other states: nothing of that case is decided."""
_WIDER = {torch.float32: torch.float64, torch.float16: torch.float32, torch.bfloat16: torch.float32}
_SCALED_MARGIN = 8.0
_HEADROOM = 8.0  # what is that near to a format's largest number may have overflowed on the way
OWN_RULES = (ValueError, AssertionError, NotImplementedError)
"""What a module raises on purpose to refuse a length or a size; anything else that is raised is a fault."""
_UNSUPPORTED = re.compile(
    r"not implemented for|not[ _](currently )?supported|n[o']t support|unsupported|Could not run 'aten::|"
    r"cudnn RNN backward can only be called in training mode",
    re.IGNORECASE,
)
_UNSUPPORTED_OR_MIXED = re.compile(
    rf"{_UNSUPPORTED.pattern}|same dtype|expected scalar type|dtype mismatch|dtypes? .*must match", re.IGNORECASE
)


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
class Outcome:
    """What came of a case.

    Attributes:
        case: the case.
        training: in training mode, else in evaluation mode.
        verdict: pass, FAIL, unsupported (the module or the dtype refuses it) or untested (the reference overflows, or
            rounding alone changes what is compared beyond recognition).
        errors: quantity -> relative error, dimensionless; of what could be decided.
        limits: the same names -> largest error that rounding may cause, dimensionless.
        problem: what was raised.
    """

    case: Case
    training: bool
    verdict: str
    errors: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def words(self) -> str:
        """The case, and the mode if it is that of evaluation."""
        return self.case.words + ("" if self.training else ", evaluation mode")


def compared(
    method: Method, module: Layer, case: Case, place: Place, dtype: torch.dtype, modes: Sequence[bool]
) -> list[Outcome]:
    """One comparison in each mode.

    Args:
        method: what is compared with what.
        module: left as it is.
        case: the numbers that it is given.
        place: where it runs.
        dtype: in which it runs.
        modes: training mode or not; the first is that of the reference too, unless `method.has_modes`.
    """
    found: list[Outcome] = []
    trial: _Trial | None = None
    for training in modes:
        try:
            with own_surroundings(place.device), _kernels_of(place):
                if trial is None or method.has_modes(module):
                    trial = _Trial(method, module, case, dtype, training)
                found.append(_judged(trial, case, place.device, training))
        except Exception as error:  # noqa: BLE001, whatever a cell raises is a finding
            problem = f"{type(error).__name__}: {one_line(error)}"
            is_excused = isinstance(error, OWN_RULES) or bool(_words_of_formats(dtype).search(problem))
            found.append(Outcome(case, training, "unsupported" if is_excused else "FAIL", problem=problem))
    return found


def _kernels_of(place: Place) -> AbstractContextManager[None]:
    return torch.backends.cudnn.flags(enabled=False) if place.is_native else nullcontext()


def _words_of_formats(dtype: torch.dtype) -> re.Pattern[str]:
    """What is raised where a format is not implemented, and by a module that mixes another with half precision."""
    return _UNSUPPORTED_OR_MIXED if torch.finfo(dtype).bits == 16 else _UNSUPPORTED  # noqa: PLR2004


def _judged(trial: _Trial, case: Case, device: str, training: bool) -> Outcome:
    if not all(tensor.isfinite().all() for tensor in trial.expected.values()):
        return Outcome(case, training, "untested")
    errors = trial.errors(device, training)
    limits = {name: trial.limit(name) for name in errors}
    if all(error <= limits[name] for name, error in errors.items()):
        return Outcome(case, training, "pass", errors, limits)
    if trial.may_overflow:
        return Outcome(case, training, "untested")
    limits = _limits_of_rounding(trial, errors, device, training)
    # NaN too: what rounding moves so far leaves a 16-bit format on the way.
    is_other_path = limits["outputs"] > _OTHER_PATH
    decided = {name: error for name, error in errors.items() if limits[name] <= UNDECIDED and not is_other_path}
    if any(not error <= limits[name] for name, error in decided.items()):
        verdict = "FAIL"
    else:
        verdict = "pass" if len(decided) == len(errors) else "untested"
    return Outcome(case, training, verdict, decided, {name: limits[name] for name in decided})


class _Trial:
    """The reference of a case, and the module that is held against it."""

    def __init__(self, method: Method, module: Layer, case: Case, dtype: torch.dtype, training: bool) -> None:
        self.arguments = (method, module, case)
        self.dtype = dtype
        self.known: dict[str, float] = {}  # limits by draws of noise that were made already
        self.refuted: set[str] = set()  # what none of them explains
        self.rounded = cast(copy.deepcopy(module), dtype, "cpu").train(training)
        self.loop = cast(copy.deepcopy(self.rounded), torch.float64, "cpu")
        self.draws: Draws = method.draws(self.loop, case, dtype)
        self.expected: Quantities = method.reference(self.loop, self.draws, _as_it_is)

    @property
    def may_overflow(self) -> bool:
        largest = torch.finfo(self.dtype).max / _HEADROOM
        return any(bool((own.abs() > largest).any()) for own in self.expected.values())

    @cached_property
    def format_of_weights(self) -> torch.dtype:
        """What a layer from elsewhere keeps its weights in, whatever it is asked for: their gradients are no better."""
        return format_of_weights(self.loop, torch.zeros(1, 2, self.loop.input_size, dtype=torch.float64))

    def limit(self, name: str) -> float:
        """Largest relative error of a quantity that passes unasked; dimensionless."""
        own = LIMITS[self.dtype]
        return max(own, LIMITS[self.format_of_weights]) if name.startswith(OF_PARAMETERS) else own

    def errors(self, device: str, training: bool) -> dict[str, float]:
        method, _, case = self.arguments
        tested = cast(self.rounded, self.dtype, device).train(training)
        draws = {name: own.to(device, self.dtype) for name, own in self.draws.items()}
        return relative_errors(method.kernel(tested, draws, case), self.expected)

    def rounding(self, errors: Mapping[str, float]) -> dict[str, float]:
        method, _, _ = self.arguments
        beyond = {name: 0.0 if error <= self.limit(name) else error for name, error in errors.items()}
        explained = {name for name, error in beyond.items() if error <= self.known.get(name, -1.0)}
        if explained != beyond.keys() and beyond.keys() - explained != self.refuted:
            own = rounding_limits(self.loop, self.draws, self.expected, beyond, self.dtype, method.reference)
            self.known = {name: max(limit, self.known.get(name, 0.0)) for name, limit in own.items()}
            self.refuted = {name for name, error in beyond.items() if not error <= self.known[name]}
        return self.known


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _limits_of_rounding(trial: _Trial, errors: Mapping[str, float], device: str, training: bool) -> dict[str, float]:
    """What rounding may do by the loop's word, and by the kernel's own in the next wider format.

    Errors of rounding shrink with the format's step, mistakes do not.
    """
    by_loop = trial.rounding(errors)
    wider = _WIDER.get(trial.dtype)
    by_kernel: dict[str, float] = {}
    if wider is not None:
        try:
            own = _Trial(*trial.arguments, wider, training).errors(device, training)
        except Exception:  # noqa: BLE001, a device without float64 says nothing
            own = {}
        scale = _SCALED_MARGIN * torch.finfo(trial.dtype).eps / torch.finfo(wider).eps
        by_kernel = {name: scale * error for name, error in own.items() if error <= LIMITS[wider]}
    return {name: max(trial.limit(name), own, by_kernel.get(name, 0.0)) for name, own in by_loop.items()}
