"""What can be asked of a layer that has no step: there is no equation to hold it against, only itself.

It runs on the CPU in float64, in evaluation mode; its gradient is held against differences in training mode too, with
the same random numbers at every call.

Notation: B batch, N steps, D input size, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from gradhorizon.cells.called import name_of
from gradhorizon.cells.cell import Layer
from gradhorizon.doctor.cases import BATCH_SIZE, Case
from gradhorizon.doctor.comparison import LIMITS, OWN_RULES, UNDECIDED
from gradhorizon.doctor.methods import OfLayer
from gradhorizon.kernels.attributes import is_same_tensor
from gradhorizon.kernels.conduct import (
    LENGTHS,
    ConductError,
    check_precision,
    check_repeats,
    check_untouched,
    evaluation_copy,
)
from gradhorizon.kernels.directions import Slope, compare_slope
from gradhorizon.kernels.quantities import Draws, drawn, relative_errors
from gradhorizon.kernels.rounding import rounding_limits
from gradhorizon.kernels.shapes import in_words
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.terminal.words import one_line

Answer = tuple[str, str] | None
"""Verdict and words of what is no plain pass."""

_LIMIT = LIMITS[torch.float64]
_SCALES = (0.03, 1.0, 10.0)  # of the samples that run together and alone
_NUM_DIRECTIONS = 2


class LayerExam:
    """The questions to one layer.

    Args:
        module: left as it is.
        lengths: N, ascending, at which it is asked.
    """

    def __init__(self, module: Layer, lengths: Sequence[int]) -> None:
        self.original, self.asked_lengths = module, lengths
        self.name = name_of(module)
        self.method = OfLayer()

    def asked(self) -> Mapping[str, Callable[[], Answer]]:
        """What must hold, in words -> the answer, or an error that says what does not."""
        asked: dict[str, Callable[[], Answer]] = {
            "outputs are (batch, steps, hidden_size) at every length": self._form,
            "leaves its input as it is": self._untouched,
            "stays in float64 and branches on no value": self._watched,
            "keeps nothing between calls": self._repeats,
            "mixes no samples": self._samples,
            "its gradient by the input is its derivative": partial(self._slopes, of_parameters=False),
            "its gradient by the parameters is its derivative": partial(self._slopes, of_parameters=True),
            "is causal": self._causal,
            "does not depend on how many steps follow": self._follow,
        }
        return {words: partial(self._ask, own) for words, own in asked.items()}

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        with own_surroundings(), in_words(f"{self.name}.forward"):
            return question()

    @cached_property
    def layer(self) -> Layer:
        """A copy in float64 and evaluation mode."""
        copied = evaluation_copy(self.original, torch.float64, "cpu")
        assert isinstance(copied, Layer)  # noqa: S101, for the type checker
        return copied

    @cached_property
    def refusals(self) -> dict[int, str]:
        """Length -> the words by which the layer refuses it."""
        found = {}
        for length in sorted({*self.asked_lengths, *LENGTHS}):
            try:
                with torch.no_grad():
                    self.layer(self._inputs(length))
            except OWN_RULES as error:
                found[length] = one_line(error) or type(error).__name__
        return found

    @property
    def lengths(self) -> list[int]:
        """Those that it does not refuse."""
        return [length for length in self.asked_lengths if length not in self.refusals]

    @property
    def short_lengths(self) -> tuple[int, int]:
        """Two that it runs at, for what is asked of any length."""
        found = [length for length in (*LENGTHS, *self.lengths) if length not in self.refusals]
        return found[0], found[min(1, len(found) - 1)]

    def _inputs(self, length: int) -> Tensor:
        return drawn({"x": (BATCH_SIZE, length, self.layer.input_size)}, torch.float64)["x"]

    def _form(self) -> Answer:
        refused = {length: words for length, words in self.refusals.items() if length in self.asked_lengths}
        if not self.lengths:
            raise ConductError(f"`{self.name}` must run at some length, got refusals of all: {min(refused.values())}")
        for length in self.lengths:
            with torch.no_grad():
                outputs = self.layer(self._inputs(length))
            expected = (BATCH_SIZE, length, self.layer.hidden_size)
            if not isinstance(outputs, Tensor) or outputs.shape != expected or outputs.dtype != torch.float64:
                shown = f"{tuple(outputs.shape)} in {outputs.dtype}" if isinstance(outputs, Tensor) else type(outputs)
                raise ConductError(f"`{self.name}` must return a float64 tensor of shape {expected}, got {shown}")
        if not refused:
            return None
        return "unsupported", f"{', '.join(map(str, refused))} steps, by its own rule: {next(iter(refused.values()))}"

    def _untouched(self) -> Answer:
        with torch.no_grad():
            check_untouched(self.name, self.layer, {"input": self._inputs(self.short_lengths[0])})
        return None

    def _watched(self) -> Answer:
        leaf = self._inputs(self.short_lengths[0]).requires_grad_()

        def forth_and_back() -> None:
            outputs = self.layer(leaf)
            if outputs.requires_grad:
                torch.autograd.grad(outputs.sum(), [leaf], allow_unused=True)

        inputs = leaf.detach()
        with torch.no_grad():
            self._rounds = check_precision(self.name, self.layer, lambda: self.layer(inputs), inputs).rounds
        check_precision(self.name, self.layer, forth_and_back, leaf)
        return None

    _rounds = False

    def _repeats(self) -> Answer:
        with torch.no_grad():
            check_repeats(self.layer, lambda length: self.layer(self._inputs(length)), self.short_lengths)
        return None

    def _samples(self) -> Answer:
        x = self._inputs(self.short_lengths[0]) * torch.tensor(_SCALES, dtype=torch.float64)[:, None, None]
        with torch.no_grad():
            together = self.layer(x).split(1)
            alone = [self.layer(own) for own in x.split(1)]
        if not all(is_same_tensor(*pair, _LIMIT) for pair in zip(alone, together, strict=True)):
            raise ConductError(
                f"samples must not interact, got a {self.name} whose numbers for a sample depend on others of its "
                "batch in evaluation mode, or on how many there are; reduce over features, not over dimension 0"
            )
        return None

    def _slopes(self, of_parameters: bool) -> Answer:
        undecided = []
        for training in (False, True):
            for length in self.lengths:
                found = [self._slope(length, of_parameters, training, seed) for seed in range(_NUM_DIRECTIONS)]
                for slope in found:
                    if slope.verdict == "FAIL":
                        return self._words_of(slope, length, training)
                undecided += [length] * any(slope.verdict != "pass" for slope in found)
        if not undecided:
            return None
        return "untested", (
            f"at {', '.join(map(str, sorted(set(undecided))))} steps: difference quotients do not settle (kinks, lower "
            "precision inside, chaos)"
        )

    def _words_of(self, slope: Slope, length: int, training: bool) -> Answer:
        where = f"{length} steps" + (" in training mode" if training else "")
        said = f"{slope.by_autograd:.4g} by autograd, {slope.by_differences:.4g} by differences, at {where}"
        if self._rounds:
            return "note", f"a surrogate, since it rounds: {said}; measurements are of the gradient that trains"
        return "FAIL", (
            f"got a slope of {said}: part of it is cut off or wrong; remove detach(), .data, no_grad or NumPy, or mend "
            "the backward pass"
        )

    def _slope(self, length: int, of_parameters: bool, training: bool, seed: int) -> Slope:
        layer = copy.deepcopy(self.layer).train(training)
        draws = self.method.draws(layer, Case(length, BATCH_SIZE, layer.hidden_size), torch.float64)
        parameters = {name: own for name, own in layer.named_parameters() if own.requires_grad}

        def terms(points: Sequence[Tensor]) -> Tensor:
            torch.manual_seed(0)
            if of_parameters:
                own = dict(zip(parameters, points, strict=True))
                outputs = torch.func.functional_call(layer, own, (draws["x"],))
            else:
                outputs = layer(points[0])
            made: Tensor = outputs * draws["outputs_cotangent"]
            return made

        at = list(parameters.values()) if of_parameters else [draws["x"]]
        return compare_slope(terms, at, seed) if at else Slope("pass", 0.0, 0.0)

    @cached_property
    def _is_causal(self) -> bool:
        x = self._inputs(self.lengths[-1])
        with torch.no_grad():
            expected = self.layer(x)
            for end in {1, x.shape[1] // 2, x.shape[1] - 1} - {0}:
                changed = torch.cat([x[:, :end], x[:, end:].flip(0) + 1], dim=1)
                if not is_same_tensor(expected[:, :end], self.layer(changed)[:, :end], _LIMIT):
                    return False
        return True

    def _causal(self) -> Answer:
        if self._is_causal:
            return None
        return "note", "not causal: outputs at a step change with later inputs; a fact, and no fault if it is meant"

    def _follow(self) -> Answer:
        if not self._is_causal or len(self.lengths) < 2:  # noqa: PLR2004
            return "untested", "not causal" if len(self.lengths) > 1 else "one length alone"
        wrong = [length for length in self.lengths[:-1] if not self._is_alike_at(length)]
        if not wrong:
            return None
        return "FAIL", (
            f"outputs or gradients of the first {', '.join(map(str, wrong))} steps are others in a sequence of "
            f"{self.lengths[-1]}, whose loss reads no later step: look at what is padded, normalised or cut into chunks"
        )

    def _is_alike_at(self, length: int) -> bool:
        layer, method = self.layer, self.method
        case = Case(self.lengths[-1], BATCH_SIZE, layer.hidden_size, read_step=length)
        draws = method.draws(layer, case, torch.float64)
        short: Draws = {name: own[:, :length] for name, own in draws.items()}
        found, expected = method.kernel(layer, draws, case), method.kernel(layer, short, case)
        found["outputs"] = found["outputs"][:, :length]
        limits = dict.fromkeys(expected, _LIMIT)
        padded = {**expected, "input_gradient": torch.zeros_like(found["input_gradient"])}
        padded["input_gradient"][:, :length] = expected["input_gradient"]
        errors = relative_errors(found, padded)
        if any(not error <= _LIMIT for error in errors.values()):
            limits = rounding_limits(layer, short, expected, errors, torch.float64, method.reference)
        return all(error <= max(_LIMIT, limits[name]) or limits[name] > UNDECIDED for name, error in errors.items())
