"""Modules from elsewhere as layers of a network: each is built with what it takes, and called as it wants to be.

How it wants to be called is found by running a copy of it: the module itself is as it was, and so is every generator.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradhorizon.cells.adapters import KernelAdapter
from gradhorizon.cells.called import CalledCell, CalledLayer, CalledSequence, Calling, first_tensor
from gradhorizon.cells.cell import Layer
from gradhorizon.kernels.casting import real_dtype
from gradhorizon.kernels.conduct import ConductError, evaluation_copy
from gradhorizon.kernels.surroundings import own_surroundings
from gradhorizon.kernels.trials import STARTS, Trials, are_close, form, is_map_of, layout, readings
from gradhorizon.terminal.once import say_once

log = logging.getLogger(__name__)

_SUPPLIED = ("input_size", "hidden_size")
_Found = tuple[Callable[[nn.Module], Layer], str]
_WRAP = "wrap it in a gradhorizon.cells.cell.Recurrent"
_LATE = (
    "{name} must have all its parameters when it is built, got `{late}` that its first call makes: no optimizer would "
    "train it; build it with its sizes"
)


def layer_builder(build: Callable[..., nn.Module]) -> Callable[..., Layer]:
    """A builder of layers, whatever kind of module `build` builds.

    Args:
        build: a class, or a partial of one. Of ``input_size`` and ``hidden_size`` it is given those that it takes.

    Returns:
        A function of ``input_size``.

    Example:
        >>> layer = layer_builder(functools.partial(nn.LSTMCell, hidden_size=4))(input_size=2)
        >>> dict(layer.state_shapes)
        {'h': (4,), 'c': (4,)}
    """

    def built(input_size: int) -> Layer:
        return as_layer(_built(build, input_size), input_size)

    return built


def _built(build: Callable[..., nn.Module], input_size: int) -> nn.Module:
    function, arguments = (build.func, build.keywords) if isinstance(build, functools.partial) else (build, {})
    given = {**arguments, "input_size": input_size}
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):  # none that Python could tell
        return function(**given)
    if any(one.kind == one.VAR_KEYWORD for one in taken.values()):
        try:
            return function(**given)
        except TypeError:  # it hands them over to somebody who takes less
            with suppress(TypeError):
                return function(**{name: value for name, value in given.items() if name not in _SUPPLIED})
            raise
    given = {name: value for name, value in given.items() if name in taken or name not in _SUPPLIED}
    for name, one in taken.items():
        if one.default is one.empty and one.kind != one.VAR_POSITIONAL and name not in given:
            owner = getattr(function, "__name__", function)
            raise ConductError(f"{owner} must be given `{name}`, got no value for it; write +model.cell.{name}=…")
    return function(**given)


def as_layer(module: nn.Module, input_size: int) -> Layer:
    """`module` as a `Layer` that shares its parameters: a recurrence wherever a state that it carries is found.

    Looked for are, in this order: a cell called with one step's input, ``module(x, state)`` or ``module(x, *state)``,
    that returns the state, ``(output, state)`` or ``(output, *state)``; a layer called with a whole sequence that does
    the same, and goes on from the state that it returned; a layer that returns outputs at every step.

    Args:
        module: left as it is.
        input_size: D.

    Returns:
        The module itself if it is a `Layer`.

    Raises:
        ConductError: none of these; one line: what was tried, what it got, what to write.
    """
    if isinstance(module, Layer):
        return module
    if not isinstance(module, nn.Module):
        raise ConductError(f"a cell or layer must be a torch.nn.Module, got a {type(module).__name__}")
    if isinstance(module, nn.RNNBase) and module.num_layers == 1 and not module.bidirectional:
        return KernelAdapter(module)
    lazy = [name for name, one in (*module.named_parameters(), *module.named_buffers()) if is_lazy(one)]
    if lazy:
        raise ConductError(_LATE.format(name=type(module).__name__, late=lazy[0]))
    with own_surroundings():
        trials = Trials(evaluation_copy(module, real_dtype(module)), input_size)
        found = _cell(trials) or _sequence(trials) or _map(trials)
    late = [name for name, _ in trials.module.named_parameters() if name not in dict(module.named_parameters())]
    if late:
        raise ConductError(_LATE.format(name=trials.name, late=late[0]))
    if found is None:
        raise ConductError(_refusal(trials))
    adapt, words = found
    if trials.has_values:  # what is built for its size alone tells less
        say_once(log, f"note: {trials.name} is run {words}")
    return adapt(module)


def _cell(trials: Trials) -> _Found | None:
    """A recurrence that is called with one step's input."""
    x, names = trials.step_input(), trials.state_parameters()
    for default, start, state, has_output, is_flat in _states(trials, x) if names != [] else ():
        calling = trials.calling(x, state, has_output, is_flat)
        if calling is None or any(calling.batch_dims):
            continue
        if names is not None and len(names) > 1 and not calling.is_spread:
            raise ConductError(
                f"{trials.name} must return all of its state, got one that takes {' and '.join(map(repr, names))} but "
                f"returns {len(calling.names)} of them: the rest would stay at its default; {_WRAP} that carries it all"
            )
        calling = replace(calling, start=start or _start(trials, x, calling, default))
        calling = _with_output(trials, x, calling, None)
        adapt = functools.partial(_as_cell, input_size=trials.input_size, calling=calling)
        return adapt, f"step by step, as {calling.signature('x')}; {calling.shown()}"
    if names == []:
        trials.refusals.append("(x, state): it takes no state by position")
    return None


def _states(trials: Trials, x: Tensor) -> Iterator[tuple[Any, str | None, Any, bool, bool]]:
    """What a cell returns where it is given no state, or the method that makes one; and what may be one."""
    returned = trials.tried("(x)", functools.partial(trials.module, x))
    if returned is not None:
        yield from ((returned, None, *own) for own in readings(returned))
        trials.refusals.append(f"(x): {form(returned)} back, which no state that it is given moves")
        return
    for state, start in trials.likely_states():
        yield from ((None, start, state, *own) for own in ((False, False), (True, False), (True, True)))


def _start(trials: Trials, x: Tensor, calling: Calling, default: Any) -> str | None:
    """Name of the method that makes s_0, if it is none of zeros.

    Args:
        trials: of the module.
        x: its input.
        calling: how it is called.
        default: what it returned where it was given no state; None if it needs one.

    Raises:
        ConductError: it starts from something that nobody tells.
    """
    if default is None or not trials.has_values:
        return None
    expected = calling.moved(calling.parted(default)[1])
    for start in (None, *STARTS):
        with suppress(Exception), torch.no_grad():
            found = calling.call(trials.module, x, _first_state(trials, calling, start))[1]
            if all(are_close(own, other) for own, other in zip(found, expected, strict=True)):
                return start
    raise ConductError(
        f"{trials.name} must start from zeros, or from what its method `initial_state(batch_size)` returns, got one "
        f"that starts from something else where it is given no state; give it that method, or {_WRAP}"
    )


def _first_state(trials: Trials, calling: Calling, start: str | None) -> tuple[Tensor, ...]:
    if start is not None:
        return calling.moved(getattr(trials.module, start)(trials.batch_size))
    return tuple(
        torch.zeros(trials.batch_size, *shape, device=trials.device, dtype=trials.dtype) for shape in calling.shapes
    )


def _with_output(trials: Trials, x: Tensor, calling: Calling, dim: int | None) -> Calling:
    """`calling`, and which of the state's tensors its output is.

    Args:
        trials: of the module.
        x: its input.
        calling: how it is called.
        dim: that of the steps in its outputs, None of those of a single step.
    """
    if not calling.has_output or not trials.has_values:
        return calling
    with torch.no_grad():
        output, parts = calling.call(trials.module, x, _first_state(trials, calling, calling.start))
    last = output if dim is None else output.select(dim, -1)
    places = (replace(calling, output_at=at) for at in range(len(parts)))
    found = (place for place in places if torch.equal(place.read(parts), last))
    return next(found, replace(calling, output_at=None))


def _sequence(trials: Trials) -> _Found | None:
    """A recurrence that is called with many steps at once and goes on from the state that it returns."""
    if trials.state_parameters() == []:
        return None
    for is_time_major in trials.layouts():
        x = trials.sequence(is_time_major)
        returned = trials.tried(f"({layout(is_time_major)})", functools.partial(trials.module, x))
        for state, has_output, is_flat in readings(returned):
            calling = trials.calling(x, state, has_output, is_flat) if has_output else None
            if (
                calling is None
                or not is_map_of(x, returned[0])
                or not _goes_on(trials, calling, returned, is_time_major)
            ):
                continue
            calling = _with_output(trials, x, calling, 1 - is_time_major)
            adapt = functools.partial(
                _as_sequence, input_size=trials.input_size, calling=calling, is_time_major=is_time_major
            )
            return adapt, f"on whole segments, as {calling.signature(layout(is_time_major))}; {calling.shown()}"
    return None


def _goes_on(trials: Trials, calling: Calling, returned: Any, is_time_major: bool) -> bool:
    """Whether two pieces, the first from zeros and the second from the state of the first, are the whole."""
    if not trials.has_values:
        return True
    x, dim = trials.sequence(is_time_major), 1 - is_time_major
    try:
        with torch.no_grad():
            start = _first_state(trials, calling, None)
            first, state = calling.call(trials.module, x.narrow(dim, 0, 2), start)
            second, last = calling.call(trials.module, x.narrow(dim, 2, trials.num_steps - 2), state)
            ends = calling.moved(calling.parted(returned)[1])
            pairs = [(torch.cat([first, second], dim), returned[0]), *zip(last, ends, strict=True)]
            return all(are_close(own, other) for own, other in pairs)
    except Exception:  # noqa: BLE001, it takes no such state
        return False


def _map(trials: Trials) -> _Found | None:
    """A map from a sequence to a sequence."""
    layouts = trials.layouts()
    if not layouts:
        raise ConductError(
            f"samples must not interact, got a {trials.name} in which one feels another, whichever of the first two "
            "dimensions is the batch: every norm per sample would be that of a mixture; reduce over features or steps"
        )
    for is_time_major in layouts:
        x = trials.sequence(is_time_major)
        returned = trials.tried(f"({layout(is_time_major)})", functools.partial(trials.module, x))
        outputs = first_tensor(returned)
        if is_map_of(x, outputs):
            adapt = functools.partial(
                _as_map, input_size=trials.input_size, output_size=outputs.shape[2], is_time_major=is_time_major
            )
            words = "without a state: what needs none is measured, input gradients above all"
            return adapt, f"on whole sequences ({layout(is_time_major)}), {words}"
        if returned is not None:
            trials.refusals.append(f"({layout(is_time_major)}): {form(returned)} back of {form(x)}")
    return None


def _as_cell(module: nn.Module, input_size: int, calling: Calling) -> Layer:
    return CalledCell(module, input_size, calling)


def _as_sequence(module: nn.Module, input_size: int, calling: Calling, is_time_major: bool) -> Layer:
    return CalledSequence(module, input_size, calling, is_time_major)


def _as_map(module: nn.Module, input_size: int, output_size: int, is_time_major: bool) -> Layer:
    return CalledLayer(module, input_size, output_size, is_time_major)


def _refusal(trials: Trials) -> str:
    ways = ("(x, ", "(x)", "(batch, steps")
    firsts = [next((one for one in trials.refusals if one.startswith(way)), None) for way in ways]
    said = "; ".join(one for one in firsts if one is not None)
    return (
        f"{trials.name} must be callable as a cell, (x, state) -> state or (output, state), or as a layer, (batch, "
        f"steps, {trials.input_size}) -> (batch, steps, features), got {said}; where it wants inputs of another width, "
        f"write model/encoder=linear before it, else {_WRAP} or Layer"
    )
