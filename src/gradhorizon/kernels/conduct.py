"""How any module must behave to be measured: a fixed function of what it is given, which it leaves as it was.

Each check takes a module, or a call of it, and raises one line: what was found, what to write instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves, tree_map

from gradhorizon.cells.called import CalledLayer, is_from_elsewhere, name_of
from gradhorizon.kernels.attributes import are_same_tensors, changed, is_same_tensor, kept
from gradhorizon.kernels.casting import cast
from gradhorizon.kernels.watching import Watch
from gradhorizon.terminal.words import one_line

Call = Callable[[int], Any]
"""A number of steps -> whatever tensors the module makes of the first so many steps of always the same input."""

LENGTHS = (7, 5)
"""Steps of the calls that are repeated: coprime, so that no period of a clock divides both."""

_LEGACY: Mapping[type, tuple[str, str]] = {
    WeightNorm: ("legacy torch.nn.utils.weight_norm", "use torch.nn.utils.parametrizations.weight_norm"),
    SpectralNorm: ("legacy torch.nn.utils.spectral_norm", "use torch.nn.utils.parametrizations.spectral_norm"),
    BasePruningMethod: (
        "torch.nn.utils.prune",
        "end it by torch.nn.utils.prune.remove, or multiply by a mask in a parametrization",
    ),
}


class ConductError(ValueError):
    """A module that is not what a measurement would take it for."""


def evaluation_copy(module: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None) -> nn.Module:
    """A copy of `module` in evaluation mode, complex numbers kept complex.

    Args:
        module: left as it is.
        dtype: real floating format of the copy.
        device: of the copy; the module's own if None.

    Raises:
        ConductError: it cannot be copied, or holds a legacy normalisation.
        NoComplexFormatError: see `casting.cast`.
    """
    refuse_legacy_hooks(module)
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        raise ConductError(
            f"a copy of the module is measured, and {name_of(module)} cannot be copied "
            f"({_first_sentence(error)}); keep no results of calls on it (a weight that is computed once belongs to "
            "what `project` returns, or is detached), no open files and no generators, or pass a freshly built module"
        ) from error
    return cast(copied, dtype, device).eval()


def refuse_legacy_hooks(module: nn.Module) -> None:
    """Refuse ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune``: their weights are no parameters.

    Args:
        module: looked through with all that it holds.

    Raises:
        ConductError: one of them is found.
    """
    for path, own in module.named_modules():
        for hook in own._forward_pre_hooks.values():  # noqa: SLF001
            for kind, (name, advice) in _LEGACY.items():
                if isinstance(hook, kind):
                    raise ConductError(
                        f"{name} found on `{path or type(own).__name__}` of {name_of(module)}: its weight is no "
                        f"parameter, goes stale and cannot be copied, so it cannot be measured; {advice}"
                    )


def check_repeats(module: nn.Module, call: Call, lengths: tuple[int, int] = LENGTHS, tolerance: float = 0.0) -> None:
    """Refuse a module that remembers: calls at two coprime lengths, each repeated, must agree and leave no trace.

    A cache that the first call of each length fills is none, nor is what every call overwrites with the same.

    Args:
        module: whose attributes are compared; in the mode in which it is measured.
        call: runs it.
        lengths: steps of the two calls.
        tolerance: largest difference, relative to the norm of a result, that is none: rounding of a GPU.

    Raises:
        ConductError: numbers, attributes, buffers or class variables differ.
    """
    first = [_detached(call(length)) for length in lengths]
    for expected, length in zip(first, lengths, strict=True):
        results, traces = [], []
        for _ in range(2):
            results.append(_detached(call(length)))
            traces.append(kept(module))
        before, after = traces
        differing = changed(before, after, tolerance)
        if not all(are_same_tensors(expected, result, tolerance) for result in results):
            raise ConductError(_words_of_difference(module, call, length, differing, tolerance))
        if differing:
            raise ConductError(_words_of_memory(module, differing))


def check_conduct(module: nn.Module, run: Callable[[Tensor], Any], inputs: Tensor) -> Watch:
    """Refuse a module that remembers, writes into its input, leaves float64, or reads a value.

    Args:
        module: in evaluation mode and float64, as `evaluation_copy` gives it.
        run: calls it on inputs of any number of steps.
        inputs: shape (B, N, …), the steps on dimension 1.

    Returns:
        What was seen of its operations.

    Raises:
        ConductError: one line: what was found, what to write instead.
    """
    name = name_of(module)
    lengths = (min(LENGTHS[0], inputs.shape[1]), min(LENGTHS[1], inputs.shape[1]))
    with torch.no_grad():
        check_untouched(name, run, {"input": inputs})
        watch = check_precision(name, module, lambda: run(inputs), inputs)
        check_repeats(module, lambda length: run(inputs[:, :length]), lengths)
    return watch


def check_untouched(name: str, run: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What `run` returns, if it leaves the tensors that it is given as they were.

    Args:
        name: of `run`, for the message.
        run: called with the values of `arguments`.
        arguments: name -> tensor, or (nested) tuple of tensors.

    Raises:
        ConductError: it wrote into one of them.
    """
    given = {key: _tensors(value) for key, value in arguments.items()}
    before = {key: [(tensor._version, tensor.detach().clone()) for tensor in own] for key, own in given.items()}  # noqa: SLF001
    result = run(*arguments.values())
    for key, own in given.items():
        for tensor, (version, values) in zip(own, before[key], strict=True):
            if tensor._version != version or not is_same_tensor(values, tensor.detach()):  # noqa: SLF001
                raise ConductError(
                    f"`{name}` must leave what it is given as it is, got one that changes its `{key}` in place: the "
                    "gradient of what was overwritten is lost; write new tensors (x * a for x.mul_(a), "
                    "torch.where or torch.cat for assignments to parts)"
                )
    return result


def check_precision(name: str, module: nn.Module, run: Callable[[], Any], data: Any) -> Watch:
    """Refuse a computation that leaves float64 inside, or hands a value of its data to Python.

    Args:
        name: of what is run, for the message.
        module: whose parameters and buffers it uses, in float64.
        run: the computation.
        data: the float64 tensors that it is given, in any nesting.

    Returns:
        What was seen. A layer from elsewhere may round its weights: those of Mamba are kept in float32 by its authors.

    Raises:
        ConductError: lower precision inside, or a branch on a value.
    """
    watch = Watch(_tensors(data), [*module.parameters(), *module.buffers()])
    with watch:
        run()
    may_round_weights = isinstance(module, CalledLayer) and not watch.is_data_narrowed
    if watch.narrowed and not may_round_weights:
        operation, dtype = next(iter(watch.narrowed.items()))
        raise ConductError(
            f"`{name}` must compute in the format of its inputs, got one that makes {dtype} of float64 numbers "
            f"({operation}): gradients would be those of the lower precision; write `.to(x.dtype)` for `.float()` and "
            "make constants with dtype=x.dtype, device=x.device"
        )
    if watch.reads:
        raise ConductError(
            f"`{name}` must not read a value of its input or state, got one that does (a Python `if`, `float()`, "
            "`.item()`): it would decide for a whole batch and has no gradient; write torch.where"
        )
    return watch


def format_of_weights(layer: nn.Module, inputs: Tensor) -> torch.dtype:
    """The format that a layer from elsewhere rounds its weights to, or that of `inputs`.

    Args:
        layer: in the format of `inputs`.
        inputs: shape (B, N, D), float64.
    """
    watch = Watch([], layer.parameters())
    if isinstance(layer, CalledLayer):
        with watch, torch.no_grad():
            layer(inputs)
    return max((inputs.dtype, *watch.narrowed.values()), key=lambda dtype: torch.finfo(dtype).eps)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _detached(tree: Any) -> list[Tensor]:
    return _tensors(tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree))


def _words_of_difference(module: nn.Module, call: Call, length: int, differing: list[str], tolerance: float) -> str:
    if differing:
        return _words_of_memory(module, differing)
    if _is_drawn(call, length, tolerance):
        return NOISE.format(name=name_of(module))
    return (
        f"{name_of(module)} must give the same numbers whenever it is called with the same input, got others at "
        "the second call: it keeps something between calls; keep it in the state, or compute it from `first_step`"
    )


def _is_drawn(call: Call, length: int, tolerance: float) -> bool:
    state = torch.get_rng_state()
    first = _detached(call(length))
    moves = not torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(state)
    return moves and are_same_tensors(first, _detached(call(length)), tolerance)


def _words_of_memory(module: nn.Module, differing: list[str]) -> str:
    own = [path.removeprefix("module.") if is_from_elsewhere(module) else path for path in differing]
    shown = ", ".join(f"`{path}`" for path in own[:3]) + (", …" if len(differing) > 3 else "")  # noqa: PLR2004
    return (
        f"{name_of(module)} must keep nothing between calls, got one that changes {shown}: what it computes "
        "would depend on what ran before; keep it in the state, or compute it from `first_step`"
    )


NOISE = (
    "`{name}` must give the same numbers whenever it is run, but it draws random ones (dropout or noise): no "
    "kernel can then be checked, and no gradient measured twice; draw them outside of the cell, as inputs, make them "
    "a fixed function of the time step, or draw them only while `self.training`"
)
"""Said of a module that draws random numbers where it is measured."""


def _first_sentence(error: BaseException) -> str:
    return one_line(error).partition(". ")[0] or type(error).__name__
